//! Lines and columns as other programs count them: in UTF-16 code units, from 0.

/// Where the lines of a text begin.
#[derive(Debug)]
pub struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// Looks for the lines of a text; each ends with LF, CR LF or a lone CR.
    pub fn of(text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let ends = |at: &usize| match bytes[*at] {
            b'\n' => true,
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        let starts = std::iter::once(0).chain((0..bytes.len()).filter(ends).map(|at| at + 1)).collect();
        Self { text, starts }
    }

    /// Returns the line and the column of a byte, both from 0. A byte beyond the text stands at its end, one within
    /// a character at the character's start.
    pub fn utf16(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset.min(self.text.len()));
        let line = self.starts.partition_point(|start| *start <= offset) - 1;
        (line, self.text[self.starts[line]..offset].encode_utf16().count())
    }

    /// Returns the byte at a line and a column, both from 0. A place beyond its line is the line's end, one beyond the
    /// text the text's end, one within a character the character's start.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let Some(start) = self.starts.get(line).copied() else { return self.text.len() };
        let end = self.starts.get(line + 1).copied().unwrap_or(self.text.len());
        let content = self.text[start..end].trim_end_matches(['\n', '\r']);
        let mut units = 0;
        for (at, c) in content.char_indices() {
            units += c.len_utf16();
            if units > column {
                return start + at;
            }
        }
        start + content.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_its_line_and_column_and_the_other_way_round() {
        let text = "a🦀b\r\nü\rc\n\nd";
        let lines = Lines::of(text);
        for (byte, place) in [
            (0, (0, 0)),
            (1, (0, 1)),
            (5, (0, 3)),
            (6, (0, 4)),
            (8, (1, 0)),
            (10, (1, 1)),
            (11, (2, 0)),
            (13, (3, 0)),
            (14, (4, 0)),
            (15, (4, 1)),
        ] {
            assert_eq!(lines.utf16(byte), place, "byte {byte}");
            assert_eq!(lines.offset(place.0, place.1), byte, "{place:?}");
        }
    }

    #[test]
    fn a_place_outside_the_text_is_drawn_into_it() {
        let lines = Lines::of("a🦀\nb\n");
        assert_eq!(lines.utf16(3), (0, 1), "within a character");
        assert_eq!(lines.utf16(99), (2, 0));
        assert_eq!(lines.offset(0, 2), 1, "between two halves of a character");
        assert_eq!(lines.offset(0, 99), 5, "beyond a line");
        assert_eq!(lines.offset(99, 0), 8);
        assert_eq!(Lines::of("").offset(0, 1), 0);
    }
}
