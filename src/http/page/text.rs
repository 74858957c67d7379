//! Numbers, times and names as a person reads them. Pure.

use std::{borrow::Cow, time::Duration};

use indicatif::HumanCount;
use jiff::Timestamp;

/// A duration in its largest unit, and in the next one where that matters.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", seconds / 60),
        6_000..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Time from `at` to `now`; zero if `at` is later.
pub(super) fn passed(at: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(at).try_into().unwrap_or_default()
}

/// How long ago a time is.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let passed = passed(at, now);
    match passed.as_secs() {
        0..2 => "now".to_owned(),
        seconds @ 2..10 => format!("{seconds} s ago"),
        _ => format!("{} ago", span(passed)),
    }
}

/// A time of day with its date.
pub(super) fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A number with commas between its thousands.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A rate: small ones with a decimal.
pub(super) fn rate(number: f64) -> String {
    if number > 0.0 && number < 10.0 { format!("{number:.1}") } else { count(number.round() as u64) }
}

/// Text from outside, with control characters made visible. A browser would drop them or act on them, and a line break would
/// split an event of the stream.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_numbers_are_short() {
        for (seconds, expected) in [
            (0.0, "0.0 s"),
            (9.94, "9.9 s"),
            (42.7, "42 s"),
            (130.0, "2 min"),
            (7_500.0, "2 h 5 min"),
            (900_000.0, "10 d 10 h"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), expected);
        }
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), expected);
        }
        for (number, expected) in [(0.0, "0"), (0.04, "0.0"), (3.21, "3.2"), (1_234.5, "1,235")] {
            assert_eq!(rate(number), expected);
        }
        let at = |second| Timestamp::from_second(second).expect("a time");
        for (passed, expected) in [(-5, "now"), (1, "now"), (5, "5 s ago"), (600, "10 min ago")] {
            assert_eq!(ago(at(0), at(passed)), expected);
        }
        assert_eq!(clock(at(1_000_000_000)), "2001-09-09 01:46:40 UTC");
        assert_eq!(
            (visible("a\r\nb\u{7f}"), visible("ü")),
            ("a\u{fffd}\u{fffd}b\u{fffd}".into(), "ü".into())
        );
    }
}
