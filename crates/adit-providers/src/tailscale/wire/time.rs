//! Times as servers write them: RFC 3339 in JSON, and the date of HTTP (RFC 9110 §5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads `2026-01-02T03:04:05.678Z` or with an offset. Times before 1970, such as Go's zero time, are none.
pub(in crate::tailscale) fn rfc3339(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    if parts.next().is_some() {
        return None;
    }
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let offset = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let seconds = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    let seconds = seconds(year, month, day, time)? - offset;
    let nanos = fraction.bytes().take(9).try_fold((0u32, 100_000_000u32), |(sum, scale), digit| {
        digit.is_ascii_digit().then(|| (sum + u32::from(digit - b'0') * scale, scale / 10))
    })?;
    Some(UNIX_EPOCH + Duration::new(u64::try_from(seconds).ok()?, nanos.0))
}

/// Reads `Tue, 24 Nov 2026 08:00:00 GMT`.
pub(in crate::tailscale) fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day = number(words.next()?, 2)?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|known| *known == name)? as i64 + 1;
    let year = number(words.next()?, 4)?;
    let seconds = seconds(year, month, day, words.next()?)?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Seconds since 1970 of a date and `HH:MM:SS`, which is UTC.
fn seconds(year: i64, month: i64, day: i64, time: &str) -> Option<i64> {
    let mut parts = time.split(':');
    let (hour, minute, second) =
        (number(parts.next()?, 2)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let valid = parts.next().is_none()
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        // A leap second counts as the next.
        && second <= 60;
    if !valid {
        return None;
    }
    // Days since 1970-01-01 in the Gregorian calendar, with the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_forms_are_read_and_the_zero_time_is_none() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), at(0));
        assert_eq!(rfc3339("2026-11-24T08:00:00Z"), at(1_795_507_200));
        assert_eq!(rfc3339("2026-11-24T10:00:00+02:00"), at(1_795_507_200));
        assert_eq!(rfc3339("2024-02-29T23:59:60Z"), at(1_709_251_200));
        assert_eq!(
            rfc3339("2000-03-01T00:00:00.5Z"),
            Some(UNIX_EPOCH + Duration::from_millis(951_868_800_500))
        );
        assert_eq!(http_date("Tue, 24 Nov 2026 08:00:00 GMT"), at(1_795_507_200));
        for none in [
            "0001-01-01T00:00:00Z",
            "",
            "T",
            "2026-13-01T00:00:00Z",
            "2026-11-24",
            "2026-11-24T08:00:00",
            "x-y-zTa:b:cZ",
            "2026-11-24T08:00:00é",
        ] {
            assert_eq!(rfc3339(none), None, "{none}");
        }
        for none in ["", "24 Nov 2026", "Tue, 24 Foo 2026 08:00:00 GMT"] {
            assert_eq!(http_date(none), None, "{none}");
        }
    }
}
