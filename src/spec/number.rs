//! Numbers without quotes, by the core schema of YAML 1.2.

use super::tree::Tree;

/// Reads a number of the core schema. A leading zero makes a text, so that no digit is lost.
pub(super) fn number(text: &str) -> Option<Result<Tree, ()>> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Some(Err(()));
    }
    let all = |text: &str, fits: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(fits);
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return Some(i64::from_str_radix(digits, radix).map(Tree::Int).map_err(|_| ()));
        }
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit() {
        return None;
    }
    if all(digits, u8::is_ascii_digit) {
        return Some(format!("{sign}{digits}").parse().map(Tree::Int).map_err(|_| ()));
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fits = |text: &str| text.is_empty() || all(text, u8::is_ascii_digit);
    if !(all(exponent, u8::is_ascii_digit)
        && fits(whole)
        && fits(part)
        && !(whole.is_empty() && part.is_empty()))
    {
        return None;
    }
    let value: f64 = format!("{sign}{digits}").parse().ok()?;
    Some(if value.is_finite() { Ok(Tree::Float(value)) } else { Err(()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_yaml_1_2() {
        for (text, expected) in [
            ("0", Some(Ok(Tree::Int(0)))),
            ("-12", Some(Ok(Tree::Int(-12)))),
            ("+3", Some(Ok(Tree::Int(3)))),
            ("0x1F", Some(Ok(Tree::Int(31)))),
            ("0o17", Some(Ok(Tree::Int(15)))),
            ("1.5", Some(Ok(Tree::Float(1.5)))),
            ("1e3", Some(Ok(Tree::Float(1000.0)))),
            (".5", Some(Ok(Tree::Float(0.5)))),
            ("-9223372036854775808", Some(Ok(Tree::Int(i64::MIN)))),
            ("9223372036854775808", Some(Err(()))),
            (".inf", Some(Err(()))),
            ("0042", None),
            ("1_000", None),
            ("e3", None),
            (".", None),
            ("1.2.3", None),
            ("-", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
