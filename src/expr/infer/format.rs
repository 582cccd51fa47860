//! What a format such as `'%s: %d'` takes.

use crate::expr::table::Takes;

/// A place of a format that takes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot<'f> {
    /// The field of an object that it takes, as in `%(name)s`.
    pub(super) field: Option<&'f str>,
    /// What it takes.
    pub(super) takes: Takes,
}

/// Returns the places of a format in their order; nothing where it is no format.
pub(super) fn slots(format: &str) -> Option<Vec<Slot<'_>>> {
    let mut found = Vec::new();
    let mut rest = format;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let (field, spec) = match after.strip_prefix('(') {
            Some(named) => named.split_once(')').map(|(name, spec)| (Some(name), spec))?,
            None => (None, after),
        };
        let spec = spec.trim_start_matches(['#', '0', '-', ' ', '+']);
        let spec = spec.trim_start_matches(|c: char| c.is_ascii_digit());
        let spec =
            spec.strip_prefix('.').map_or(spec, |spec| spec.trim_start_matches(|c: char| c.is_ascii_digit()));
        let spec = spec.strip_prefix(['h', 'l', 'L']).unwrap_or(spec);
        let takes = match spec.chars().next()? {
            's' | 'c' => Takes::Any,
            'd' | 'i' | 'o' | 'x' | 'X' => Takes::Whole,
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => Takes::Number,
            _ => return None,
        };
        found.push(Slot { field, takes });
        rest = spec.get(1..)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::slots;

    #[test]
    fn a_format_tells_what_it_takes() {
        for (format, found) in [
            ("", Some("")),
            ("100 %%", Some("")),
            ("%s: %d, %05.2f %-10s %x", Some("Any Whole Number Any Whole")),
            ("%(a)s %(b)ld", Some("a:Any b:Whole")),
            ("%q", None),
            ("5 %", None),
            ("%(a", None),
        ] {
            let shown = slots(format).map(|all| {
                let shown = all.iter().map(|slot| match slot.field {
                    Some(name) => format!("{name}:{:?}", slot.takes),
                    None => format!("{:?}", slot.takes),
                });
                shown.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(shown.as_deref(), found, "{format}");
        }
    }
}
