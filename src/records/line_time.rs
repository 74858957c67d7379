//! Finds the time in a line of text by a format that the configuration gives.

use std::str::FromStr;

use jiff::{Timestamp, civil::DateTime, fmt::strtime::BrokenDownTime, tz::TimeZone};

/// Most bytes of a line in which a time is looked for.
const LOOKED_AT: usize = 512;

/// Format of the time in a line of text, as for `strptime`: `%Y-%m-%dT%H:%M:%S%.f%:z`. Without an offset the time is UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampFormat {
    text: String,
    first: First,
}

/// What a time in the format begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Byte(u8),
    Digit,
    Anything,
}

impl FromStr for TimestampFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mistake = |problem: String| format!("{text:?} is no format of a time: {problem}");
        // A moment is written in the format and read again: so an unknown directive and a missing part are found here.
        let moment = DateTime::constant(2026, 11, 27, 14, 5, 52, 0).to_zoned(TimeZone::UTC);
        let moment = moment.map_err(|error| mistake(error.to_string()))?;
        let written =
            BrokenDownTime::from(&moment).to_string(text).map_err(|error| mistake(error.to_string()))?;
        let first = match text.as_bytes() {
            [b'%', b'Y' | b'm' | b'd' | b'H' | b'M' | b'S' | b's' | b'y' | b'j' | b'I' | b'F' | b'T', ..] => {
                First::Digit
            }
            [b'%' | b' ' | b'\t', ..] | [] => First::Anything,
            [byte, ..] => First::Byte(*byte),
        };
        let format = Self { text: text.to_owned(), first };
        let read = format.find(written.as_bytes()).ok_or_else(|| {
            mistake("it must have a date and a time of day, or the seconds since 1970 (%s)".to_owned())
        })?;
        // A format without seconds reads the beginning of the minute.
        let lost = moment.timestamp().as_millisecond().abs_diff(read);
        if lost < 60_000 { Ok(format) } else { Err(mistake(format!("{written} does not tell the moment"))) }
    }
}

impl TimestampFormat {
    /// Finds the first time in the line that has the format, in milliseconds since 1970, rounded down. A time does not begin
    /// within a word or a number.
    pub(super) fn find(&self, line: &[u8]) -> Option<i64> {
        let line = &line[..line.len().min(LOOKED_AT)];
        let mut starts = (0..line.len()).filter(|at| {
            let begins_word = *at == 0 || !line[at - 1].is_ascii_alphanumeric();
            begins_word
                && match self.first {
                    First::Byte(byte) => line[*at] == byte,
                    First::Digit => line[*at].is_ascii_digit(),
                    First::Anything => !line[*at].is_ascii_whitespace(),
                }
        });
        starts.find_map(|at| self.read(&line[at..]))
    }

    fn read(&self, text: &[u8]) -> Option<i64> {
        let (time, _) = BrokenDownTime::parse_prefix(&self.text, text).ok()?;
        let timestamp: Timestamp = match time.to_timestamp() {
            Ok(timestamp) => timestamp,
            Err(_) => time.to_datetime().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
        };
        i64::try_from(timestamp.as_nanosecond().div_euclid(1_000_000)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, line: &str, expected: Option<&str>) {
        let format: TimestampFormat = text.parse().unwrap_or_else(|problem| panic!("{problem}"));
        let expected = expected.map(|at| at.parse::<Timestamp>().expect("a timestamp").as_millisecond());
        assert_eq!(format.find(line.as_bytes()), expected, "{line}");
    }

    #[test]
    fn a_time_is_found_in_the_line() {
        let at = Some("2026-11-27T04:27:52Z");
        check(
            "%Y-%m-%dT%H:%M:%S",
            "http 2026-11-27T04:27:52.186641Z app/my-balancer/50dc 192.0.2.1:2817",
            at,
        );
        check(
            "%Y-%m-%dT%H:%M:%S%.fZ",
            "http 2026-11-27T04:27:52.186641Z app/my-balancer/50dc",
            Some("2026-11-27T04:27:52.186Z"),
        );
        check("%Y-%m-%d\t%H:%M:%S", "2026-11-27\t04:27:52\tFRA2\t1045619", at);
        check("%d/%b/%Y:%H:%M:%S %z", "192.0.2.3 - - [27/Nov/2026:05:27:52 +0100] \"GET /\" 200", at);
        check("[%d/%b/%Y:%H:%M:%S %z]", "bucket [27/Nov/2026:04:27:52 +0000] 192.0.2.3", at);
        check("%s", "1795753672 something", at);
        check("%Y-%m-%d %H:%M", "at 2026-11-27 04:27:52", Some("2026-11-27T04:27:00Z"));
        check("%H:%M:%S %d.%m.%Y", "x7 04:27:52 27.11.2026", at);
        check("%b %d %Y %H:%M:%S", "web Nov 27 2026 04:27:52", at);
    }

    #[test]
    fn a_line_without_a_time_has_none() {
        for line in
            ["", "\tat com.example.Main(Main.java:5)", "2026-13-27T04:27:52", "x2026-11-27T04:27:52", "2026"]
        {
            check("%Y-%m-%dT%H:%M:%S", line, None);
        }
        check("%Y-%m-%dT%H:%M:%S", &format!("{} 2026-11-27T04:27:52", "x".repeat(600)), None);
        check("%Y-%m-%dT%H:%M:%S", "\u{fffd}\u{e9}2026-11-27T04:27:52", Some("2026-11-27T04:27:52Z"));
    }

    #[test]
    fn formats_that_tell_no_moment_are_refused() {
        for (format, part) in [
            ("", "must have a date"),
            ("%H:%M:%S", "must have a date"),
            ("%Y-%m-%d", "does not tell the moment"),
            ("%!", "is no format of a time"),
            ("time", "must have a date"),
        ] {
            let problem = format.parse::<TimestampFormat>().expect_err("it tells no moment");
            assert!(problem.contains(part), "{format:?}: {problem}");
        }
    }
}
