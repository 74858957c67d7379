//! Reads a record's timestamp in all the forms that log collectors write.

use std::{borrow::Cow, ops::RangeInclusive};

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// The first millisecond of 2000. An earlier value comes from a clock that was never set, or is not a time.
const EARLIEST: i64 = 946_684_800_000;
/// Longest time that a timestamp may be ahead of our clock. Wrong clocks and time zones explain a day at most.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);

/// Reads the timestamps of one object's records.
#[derive(Debug)]
pub(super) struct Timestamps {
    /// The plausible timestamps, in milliseconds since 1970.
    believable: RangeInclusive<i64>,
    /// The minute that was read last, as text. Most records have the same minute as the record before.
    minute: [u8; MINUTE.len()],
    /// Start of that minute, in milliseconds since 1970.
    minute_start: i64,
}

/// Form of the part of a timestamp that [`Timestamps`] remembers.
const MINUTE: &[u8; 17] = b"1970-01-01T00:00:";

impl Timestamps {
    /// Accepts timestamps from 2000 up to a day after `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        let latest =
            now.saturating_add(AHEAD).expect("a duration without months always adds").as_millisecond();
        Self { believable: EARLIEST..=latest, minute: *MINUTE, minute_start: 0 }
    }

    /// Reads the value of `timestamp` as it is in the record. It is RFC 3339 with any fraction and offset, or the time since
    /// 1970 as a number or in a string; the number of digits shows the unit. Returns milliseconds since 1970, rounded down.
    ///
    /// Returns `None` for anything else, and for a time that is not plausible.
    pub(super) fn parse(&mut self, value: &[u8]) -> Option<i64> {
        let milliseconds = match value {
            [b'"', text @ .., b'"'] => match self.fixed_layout(text) {
                Some(milliseconds) => milliseconds,
                // The string is parsed as JSON, because it may contain escapes.
                None => parse_text(&serde_json::from_slice::<Text<'_>>(value).ok()?.0)?,
            },
            _ => parse_number(std::str::from_utf8(value).ok()?)?,
        };
        self.plausible(milliseconds)
    }

    /// Returns a time in milliseconds since 1970 if it is plausible.
    pub(super) fn plausible(&self, milliseconds: i64) -> Option<i64> {
        self.believable.contains(&milliseconds).then_some(milliseconds)
    }

    /// Reads the form that Vector writes, without a full parser: `2026-11-21T08:00:00Z`, also with a fraction of any length.
    /// Returns `None` for every other form, valid or not.
    fn fixed_layout(&mut self, text: &[u8]) -> Option<i64> {
        let (minute, rest) = text.split_first_chunk()?;
        if *minute != self.minute {
            self.minute_start = minute_start(minute)?;
            self.minute = *minute;
        }
        let ([tens, ones], fraction) = rest.split_first_chunk()?;
        let second = digit(*tens)? * 10 + digit(*ones)?;
        // A leap second (60) is left to jiff, which can read it.
        if second > 59 {
            return None;
        }
        let milliseconds = match fraction {
            b"Z" => 0,
            [b'.', digits @ .., b'Z'] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => (0
                ..3)
                .fold(0, |value, at| value * 10 + digits.get(at).map_or(0, |byte| i64::from(byte - b'0'))),
            _ => return None,
        };
        Some(self.minute_start + second * 1000 + milliseconds)
    }
}

/// Borrows the text if it has no escapes. Without `borrow`, serde would always copy it.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn parse_text(text: &str) -> Option<i64> {
    if let Some(milliseconds) = parse_number(text) {
        return Some(milliseconds);
    }
    let timestamp: Timestamp = cut_fraction(text).parse().ok()?;
    Some(timestamp.as_nanosecond().div_euclid(1_000_000)).and_then(|whole| i64::try_from(whole).ok())
}

/// Removes the digits of a fraction after the ninth, because jiff refuses more than nanoseconds.
fn cut_fraction(text: &str) -> Cow<'_, str> {
    const MOST: usize = 9;
    let Some(point) = text.find(['.', ',']) else { return Cow::Borrowed(text) };
    let digits = text[point + 1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits <= MOST {
        return Cow::Borrowed(text);
    }
    let (kept, rest) = (&text[..=point + MOST], &text[point + 1 + digits..]);
    Cow::Owned([kept, rest].concat())
}

/// Reads a JSON number, also with leading zeros, exactly: without conversion to binary floating point. The number of digits
/// before the point tells the unit: up to 11 digits are seconds (until the year 5138), up to 14 are milliseconds, up to 17
/// microseconds, up to 20 nanoseconds. A negative number is not a plausible time.
fn parse_number(text: &str) -> Option<i64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        // An exponent beyond `i16` is not a plausible time.
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Position of the decimal point, counted from the first digit that is not zero.
    let zeros = whole.bytes().chain(fraction.bytes()).take_while(|byte| *byte == b'0').count();
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent) - i64::try_from(zeros).ok()?;
    let shift = match point {
        ..=11 => 3,
        12..=14 => 0,
        15..=17 => -3,
        18..=20 => -6,
        _ => return None,
    };
    let digits = whole.bytes().chain(fraction.bytes()).skip(zeros).chain(std::iter::repeat(b'0'));
    let wanted = usize::try_from(point + shift).unwrap_or(0);
    // At most 14 digits: no overflow.
    Some(digits.take(wanted).fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

/// Converts a minute in the form of [`MINUTE`] into milliseconds since 1970.
fn minute_start(text: &[u8; MINUTE.len()]) -> Option<i64> {
    let separators = [4, 7, 10, 13, 16];
    if separators.iter().any(|at| text[*at] != MINUTE[*at]) {
        return None;
    }
    let pair = |at: usize| Some(digit(text[at])? * 10 + digit(text[at + 1])?);
    let small = |at: usize| pair(at).and_then(|number| i8::try_from(number).ok());
    let year = i16::try_from(pair(0)? * 100 + pair(2)?).ok()?;
    let minute = DateTime::new(year, small(5)?, small(8)?, small(11)?, small(14)?, 0, 0).ok()?;
    Some(TimeZone::UTC.to_timestamp(minute).ok()?.as_millisecond())
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-21T12:00:00Z. Noon, so that a test can tell a limit of 24 hours from the end of the next day.
    const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);

    fn read(value: &str) -> Option<i64> {
        Timestamps::new(NOW).parse(value.as_bytes())
    }

    fn check(value: &str, expected: Option<i64>) {
        assert_eq!(read(value), expected, "{value}");
    }

    #[test]
    fn every_form_is_read() {
        let at = 1_795_248_000_123;
        for value in [
            r#""2026-11-21T08:00:00.123456789Z""#,
            r#""2026-11-21T08:00:00.123Z""#,
            r#""2026-11-21T08:00:00.1239999999Z""#,
            r#""2026-11-21T08:00:00.12300000000000000000000001Z""#,
            r#""2026-11-21T09:00:00.123+01:00""#,
            r#""2026-11-21T09:00:00.1230000000001+01:00""#,
            r#""2026-11-21T03:00:00.123999-05:00""#,
            r#""2026-11-21 08:00:00.123Z""#,
            "1795248000123",
            r#""1795248000123""#,
            "1795248000.123",
            r#""1795248000.123""#,
            "1.795248000123e9",
            "1795248000123.999",
            "1795248000123000",
            r#""1795248000123999""#,
            "1795248000123456.789",
            "1795248000123456789",
            r#""1795248000123456789""#,
            "1795248000123456789.0",
            "1.795248000123456789E18",
            "1.795248000123456789E+18",
            "17952480001234567890e-1",
            r#""0001795248000123""#,
            "0.0000001795248000123e16",
            // The same strings, with escapes.
            r#""2026-11-21T09:00:00.123\u002B01:00""#,
            r#""2026\u002d11-21T08:00:00.123\u005a""#,
            r#""\u0031795248000123""#,
        ] {
            check(value, Some(at));
        }
        check("1795248000", Some(1_795_248_000_000));
        check(r#""1795248000""#, Some(1_795_248_000_000));
        check(r#""2026-11-21T08:00:00Z""#, Some(1_795_248_000_000));
        check(r#""2026-11-21T09:00:00\u002b01:00""#, Some(1_795_248_000_000));
        // A leap second counts as the second before.
        check(r#""2026-11-21T08:00:60Z""#, Some(1_795_248_059_000));
    }

    #[test]
    fn other_values_are_no_timestamps() {
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
            r#""2026-11-21T08:00:00.Z""#,
            r#""2026-11-21T08:00:61Z""#,
            r#""inf""#,
            r#""NaN""#,
            r#""1795248000 s""#,
            r#""+1795248000""#,
            r#"".1795248000e10""#,
            "9e99",
            "9e99999",
            "1e-99",
            r#""2026-11-21""#,
            r#""\ud800""#,
        ] {
            check(value, None);
        }
    }

    #[test]
    fn a_time_that_is_not_plausible_is_none() {
        for (value, expected) in [
            ("0", None),
            ("-5", None),
            ("-1795248000", None),
            (r#""1969-12-31T23:59:59Z""#, None),
            (r#""1999-12-31T23:59:59.999Z""#, None),
            (r#""2000-01-01T00:00:00Z""#, Some(EARLIEST)),
            ("946684799", None),
            ("946684799.999", None),
            ("946684800", Some(EARLIEST)),
            ("946684799999", None),
            ("946684800000", Some(EARLIEST)),
            ("946684800000000", Some(EARLIEST)),
            ("946684800000000000", Some(EARLIEST)),
            (r#""2026-11-22T12:00:00Z""#, Some(1_795_348_800_000)),
            (r#""2026-11-22T12:00:00.0009Z""#, Some(1_795_348_800_000)),
            (r#""2026-11-22T12:00:00.001Z""#, None),
            (r#""9999-12-31T23:59:59Z""#, None),
            ("1795348800001", None),
            ("99999999999", None),
            ("100000000000", None),
            ("99999999999999999999", None),
        ] {
            check(value, expected);
        }
        // The library's calendar ends, so a day cannot be added.
        assert_eq!(*Timestamps::new(Timestamp::MAX).believable.end(), Timestamp::MAX.as_millisecond());
    }

    /// One moment in every form. `nanoseconds` counts since 1970; the fraction gets `digits` more digits.
    fn forms(nanoseconds: i64, digits: usize) -> Vec<String> {
        let timestamp = Timestamp::from_nanosecond(nanoseconds.into()).expect("within jiff's range");
        let seconds = nanoseconds / 1_000_000_000;
        let fraction = format!("{:09}", nanoseconds % 1_000_000_000);
        let more = "7".repeat(digits);
        let zone = jiff::tz::Offset::constant(2).to_time_zone();
        let local = timestamp.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let mut values = vec![
            format!("\"{}.{fraction}{more}Z\"", timestamp.strftime("%Y-%m-%dT%H:%M:%S")),
            format!("\"{local}.{fraction}{more}+02:00\""),
            format!("\"{local}.{fraction}{more}\\u002B02:00\""),
        ];
        for number in [
            format!("{seconds}.{fraction}{more}"),
            format!("{seconds}{}.{}{more}", &fraction[..3], &fraction[3..]),
            format!("{seconds}{}", &fraction[..3]),
            format!("{seconds}{}.{}{more}", &fraction[..6], &fraction[6..]),
            format!("{seconds}{}", &fraction[..6]),
            format!("{seconds}{fraction}"),
            format!("{seconds}{fraction}.0{more}"),
            format!("{seconds}{fraction}{more}e-{digits}"),
        ] {
            values.extend([format!("\"{number}\""), number]);
        }
        values
    }

    proptest! {
        #[test]
        fn every_form_of_a_moment_gives_the_same_time(
            nanoseconds in EARLIEST * 1_000_000..=1_795_348_800_000_000_000, digits in 0_usize..30,
        ) {
            for value in forms(nanoseconds, digits) {
                prop_assert_eq!(read(&value), Some(nanoseconds / 1_000_000), "{}", value);
            }
        }

        #[test]
        fn the_fast_path_agrees_with_the_library(
            seconds in 0_i64..253_402_300_799, nanoseconds in prop_oneof![Just(0), 0_i32..1_000_000_000],
        ) {
            let timestamp = Timestamp::new(seconds, nanoseconds).expect("within jiff's range");
            let text = timestamp.to_string();
            let expected = timestamp.as_millisecond();
            prop_assert_eq!(Timestamps::new(NOW).fixed_layout(text.as_bytes()), Some(expected));
            prop_assert_eq!(parse_text(&text), Some(expected));
        }

        #[test]
        fn earlier_timestamps_do_not_change_the_result(
            times in prop::collection::vec((1_795_262_340_i64..1_795_262_460, "Z|\\.[0-9]{1,9}Z|:00Z|Y|[0-9]Z", 0_usize..40), 1..20),
        ) {
            let mut timestamps = Timestamps::new(NOW);
            for (second, end, broken) in times {
                let timestamp = Timestamp::constant(second, 0).strftime("%Y-%m-%dT%H:%M:%S");
                let mut value = format!("\"{timestamp}{end}\"").into_bytes();
                // `broken` is beyond the timestamp in half of the cases.
                if let Some(byte) = value[1..].get_mut(broken) && broken < 19 {
                    *byte = b'x';
                }
                prop_assert_eq!(timestamps.parse(&value), Timestamps::new(NOW).parse(&value));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", number in "[0-9.eE+-]{0,40}") {
            for text in [text, number] {
                let _ = read(&text);
                let _ = read(&format!("\"{text}\""));
            }
        }
    }
}
