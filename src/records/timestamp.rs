//! Reads a record's timestamp in every form that collectors write.

use jiff::Timestamp;

/// Numbers above this are milliseconds, others seconds: as seconds it would be the year 33,658.
const MILLISECONDS_ABOVE: f64 = 1e12;

/// Reads the value of `timestamp`, as it stands in the record: RFC 3339 with any fraction and offset, or epoch seconds
/// or milliseconds as a number or in a string. The result is milliseconds since 1970, cut to whole ones.
///
/// `None` if it is anything else, or before 1970, which PutLogEvents refuses for the whole batch.
pub(super) fn parse(value: &[u8]) -> Option<i64> {
    let milliseconds = match value {
        [b'"', text @ .., b'"'] => match fixed_layout(text) {
            Some(milliseconds) => milliseconds,
            None => parse_text(std::str::from_utf8(text).ok()?)?,
        },
        _ => parse_number(std::str::from_utf8(value).ok()?)?,
    };
    (milliseconds >= 0).then_some(milliseconds)
}

fn parse_text(text: &str) -> Option<i64> {
    if text.starts_with(|first: char| first.is_ascii_digit())
        && let Some(milliseconds) = parse_number(text)
    {
        return Some(milliseconds);
    }
    let timestamp: Timestamp = text.parse().ok()?;
    Some(timestamp.as_nanosecond().div_euclid(1_000_000)).and_then(|whole| i64::try_from(whole).ok())
}

fn parse_number(text: &str) -> Option<i64> {
    // Rust reads "inf" and "nan" too; JSON does not.
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E')) {
        return None;
    }
    if let Ok(whole) = text.parse::<i64>() {
        return if whole as f64 > MILLISECONDS_ABOVE { Some(whole) } else { whole.checked_mul(1000) };
    }
    let value: f64 = text.parse().ok()?;
    let milliseconds = if value > MILLISECONDS_ABOVE { value } else { value * 1000.0 };
    // Seconds with a fraction are not exact in binary: 0.123 must not become 122.
    let milliseconds = (milliseconds + 1e-3).floor();
    // Beyond 2^53 the number no longer names a millisecond.
    (milliseconds.abs() < 9_007_199_254_740_992.0).then_some(milliseconds as i64)
}

/// `2026-11-21T08:00:00Z` and `2026-11-21T08:00:00.123456789Z` with any number of digits: what Vector writes, read
/// without a parser. `None` for everything else, right or wrong.
fn fixed_layout(text: &[u8]) -> Option<i64> {
    let (head, tail) = text.split_first_chunk::<19>()?;
    // All is looked at before anything is decided: a branch for each byte would cost more than the arithmetic.
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let wrong_separators = separators.iter().fold(0, |wrong, (at, byte)| wrong | (head[*at] ^ byte));
    let digits =
        [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18].map(|at: usize| head[at].wrapping_sub(b'0'));
    if wrong_separators != 0 || digits.iter().fold(false, |wrong, digit| wrong | (*digit > 9)) {
        return None;
    }
    let pair = |at: usize| i64::from(digits[at] * 10 + digits[at + 1]);
    let (year, month, day) = (pair(0) * 100 + pair(2), pair(4), pair(6));
    let (hour, minute, second) = (pair(8), pair(10), pair(12));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    // A leap second is left to the library.
    if day < 1 || day > days_of_month || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let milliseconds = match tail {
        b"Z" => 0,
        [b'.', fraction @ .., b'Z']
            if (1..=9).contains(&fraction.len()) && fraction.iter().all(u8::is_ascii_digit) =>
        {
            (0..3).fold(0, |value, at| value * 10 + fraction.get(at).map_or(0, |byte| i64::from(byte - b'0')))
        }
        _ => return None,
    };
    let seconds = days_from_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1000 + milliseconds)
}

/// Days from 1970-01-01 in the Gregorian calendar, counting years from March so that a leap day ends its year.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    // 146,097 days are 400 years; 719,468 days lie between 0000-03-01 and 1970-01-01.
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, expected: Option<i64>) {
        assert_eq!(parse(value.as_bytes()), expected, "{value}");
    }

    #[test]
    fn every_form_is_read() {
        let at = 1_795_248_000_123;
        for value in [
            r#""2026-11-21T08:00:00.123456789Z""#,
            r#""2026-11-21T08:00:00.123Z""#,
            r#""2026-11-21T09:00:00.123+01:00""#,
            r#""2026-11-21T03:00:00.123999-05:00""#,
            r#""2026-11-21 08:00:00.123Z""#,
            "1795248000123",
            r#""1795248000123""#,
            "1795248000.123",
            r#""1795248000.123""#,
            "1.795248000123e9",
        ] {
            check(value, Some(at));
        }
        check("1795248000", Some(1_795_248_000_000));
        check(r#""1795248000""#, Some(1_795_248_000_000));
        check(r#""2026-11-21T08:00:00Z""#, Some(1_795_248_000_000));
        check("0", Some(0));
        check("1000000000000", Some(1_000_000_000_000_000));
        check("1000000000001", Some(1_000_000_000_001));
    }

    #[test]
    fn everything_else_is_not_guessed() {
        for value in [
            "null",
            "true",
            "[]",
            "{}",
            r#""""#,
            r#""yesterday""#,
            r#""2026-13-01T00:00:00Z""#,
            r#""2026-02-29T00:00:00Z""#,
            r#""2026-11-21T08:00:00""#,
            r#""inf""#,
            r#""NaN""#,
            "-5",
            r#""1969-12-31T23:59:59Z""#,
            "9e99",
            r#""2026-11-21""#,
        ] {
            check(value, None);
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_agrees_with_the_library(seconds in 0_i64..253_402_300_799, nanoseconds in 0_i32..1_000_000_000) {
            let timestamp = Timestamp::new(seconds, nanoseconds).expect("within jiff's range");
            let text = timestamp.to_string();
            let expected = timestamp.as_millisecond();
            prop_assert_eq!(fixed_layout(text.as_bytes()), Some(expected));
            prop_assert_eq!(parse_text(&text), Some(expected));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(text.as_bytes());
        }
    }
}
