//! Durations as people write them: `500ms`, `60s`, `2m`, `1m30s`, `1h`.

use std::time::Duration;

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads a duration: whole numbers with units `ms`, `s`, `m`, `h`, in any order.
///
/// # Errors
///
/// A sentence that says what is wrong; a bare number is refused, because its unit would be a guess.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a duration like 60s is missing".to_owned());
    }
    let mut millis = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u64 =
            number.parse().map_err(|_| format!("`{text}` is not a duration like 60s or 1m30s"))?;
        if unit.is_empty() {
            return Err(format!("`{text}` has no unit; write {number}s or {number}ms"));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` is not a unit of time; use ms, s, m or h"));
        };
        millis = number
            .checked_mul(*factor)
            .and_then(|n| millis.checked_add(n))
            .ok_or_else(|| format!("`{text}` is too long"))?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a duration the way [`parse`] reads it.
pub fn display(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in UNITS.iter().rev() {
        if millis >= *factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write_alike() {
        for (text, millis) in
            [("500ms", 500), ("60s", 60_000), ("1m30s", 90_000), ("2h", 7_200_000), ("0s", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(parse(&display(Duration::from_millis(millis))), Ok(Duration::from_millis(millis)));
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_the_fix() {
        assert_eq!(parse("60").unwrap_err(), "`60` has no unit; write 60s or 60ms");
        assert_eq!(parse("5days").unwrap_err(), "`days` is not a unit of time; use ms, s, m or h");
        for text in ["", "s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
