//! Times and ages on the command line.

#[cfg(feature = "tools")]
use jiff::Timestamp;
use jiff::{SignedDuration, Span, SpanRelativeTo};

/// A time, or an age.
#[cfg(feature = "tools")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

#[cfg(feature = "tools")]
impl Moment {
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            // An age that reaches back before the earliest timestamp selects everything.
            Self::Ago(age) => now.checked_sub(age).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Reads a time or an age.
#[cfg(feature = "tools")]
pub(super) fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = text.parse() {
        return Ok(Moment::At(at));
    }
    age(text).map(Moment::Ago).map_err(|_| {
        format!("{text:?} is neither a time such as 2026-11-27T08:00:00Z nor an age such as 90s, 2h or 3d")
    })
}

/// Reads an age.
pub(super) fn age(text: &str) -> Result<SignedDuration, String> {
    let bad = || format!("{text:?} is not an age such as 90s, 2h or 3d");
    let span: Span = text.parse().map_err(|_| bad())?;
    let age = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    if age.is_negative() { Err(bad()) } else { Ok(age) }
}

/// Reads an age as a time without a sign.
#[cfg(feature = "tools")]
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
    age(text)?.try_into().map_err(|_| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        let check = |text: &str, seconds: Option<i64>| {
            assert_eq!(age(text).ok().map(|age| age.as_secs()), seconds, "{text}");
        };
        check("90s", Some(90));
        check("2h", Some(7200));
        check("3d", Some(3 * 86_400));
        check("1d 12h", Some(36 * 3600));
        check("0s", Some(0));
        check("-2h", None);
        check("2h ago", None);
        check("5", None);
        check("1 month", None);
        check("", None);
    }
}
