//! Changes projects by lines and words, so that most of what comes out is still YAML.

use crate::words::WORDS;

/// A small generator: the same seed gives the same changes.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, 0 where there is none.
    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    fn word(&mut self) -> &'static str {
        &WORDS[self.below(WORDS.len())]
    }
}

/// Changes the first `size` bytes of a buffer of at most `most`; returns how many there are then.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let mut dice = Dice(u64::from(seed));
    if dice.below(5) < 2 {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    }
    let Ok(text) = std::str::from_utf8(&data[..size]) else {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    };
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for _ in 0..=dice.below(3) {
        change(&mut lines, &mut dice);
    }
    let mut text = lines.join("\n");
    text.truncate(text.floor_char_boundary(most.min(data.len())));
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Returns the line after the last that stands deeper than `at`.
fn block_end(lines: &[String], at: usize) -> usize {
    let deeper = |line: &String| line.trim().is_empty() || indent(line) > indent(&lines[at]);
    lines[at + 1..].iter().position(|line| !deeper(line)).map_or(lines.len(), |more| at + 1 + more)
}

/// Finds a word or a run of signs of a line.
fn word_of(line: &str, dice: &mut Dice) -> std::ops::Range<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut starts: Vec<usize> = Vec::new();
    let mut before = None;
    for (at, c) in line.char_indices() {
        if before != Some(word(c)) {
            starts.push(at);
            before = Some(word(c));
        }
    }
    let n = dice.below(starts.len());
    let start = starts.get(n).copied().unwrap_or(0);
    start..starts.get(n + 1).copied().unwrap_or(line.len())
}

fn change(lines: &mut Vec<String>, dice: &mut Dice) {
    let at = dice.below(lines.len());
    let other = dice.below(lines.len());
    match dice.below(12) {
        0 => lines.insert(other, lines[at].clone()),
        1 if lines.len() > 1 => drop(lines.remove(at)),
        2 => lines.swap(at, other),
        // A word of the language in the place of one that is there, or beside it.
        3 | 4 => {
            let range = word_of(&lines[at], dice);
            let range = if dice.below(3) == 0 { range.start..range.start } else { range };
            lines[at].replace_range(range, dice.word());
        }
        // A word of the input in the place of another.
        5 | 6 => {
            let (range, from) = (word_of(&lines[at], dice), word_of(&lines[other], dice));
            let word = lines[other][from].to_owned();
            lines[at].replace_range(range, &word);
        }
        // A line or a block deeper, or less deep.
        7 => {
            let end = if dice.below(2) == 0 { block_end(lines, at) } else { at + 1 };
            let deeper = dice.below(2) == 0;
            for line in &mut lines[at..end] {
                if deeper {
                    line.insert_str(0, "  ");
                } else if let Some(rest) = line.strip_prefix("  ") {
                    *line = rest.to_owned();
                }
            }
        }
        // A key more.
        8 => {
            let line = format!("{}{}: {}", " ".repeat(indent(&lines[at])), dice.word(), dice.word());
            lines.insert(at, line);
        }
        // A block more, at another place.
        9 => {
            let block: Vec<String> = lines[at..block_end(lines, at)].to_vec();
            let shift = indent(&lines[other]);
            let own = indent(&block[0]);
            let moved = block
                .iter()
                .map(|line| format!("{}{}", " ".repeat(shift), line.get(own..).unwrap_or_default()));
            let moved: Vec<String> = moved.collect();
            lines.splice(other..other, moved);
        }
        // The value of another line.
        10 => {
            if let Some((_, value)) = lines[other].split_once(": ") {
                let value = value.to_owned();
                if let Some((key, _)) = lines[at].split_once(": ") {
                    lines[at] = format!("{key}: {value}");
                }
            }
        }
        // A value in brackets.
        _ => {
            const AROUND: [(&str, &str); 9] = [
                ("[", "]"),
                ("{a: ", "}"),
                ("\"", "\""),
                ("'", "'"),
                ("\"{{ ", " }}\""),
                ("(", ")"),
                ("[[", "]]"),
                ("not ", ""),
                ("{type: ", ", optional: true}"),
            ];
            let (open, close) = AROUND[dice.below(AROUND.len())];
            if let Some((key, value)) = lines[at].split_once(": ") {
                lines[at] = format!("{key}: {open}{value}{close}");
            } else {
                lines[at] = format!("{open}{}{close}", lines[at]);
            }
        }
    }
}
