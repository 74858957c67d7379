//! The last failures. Failures of one tenant's delivery for one reason are one line with a count, so that a tenant whose
//! thousands of objects wait for a role does not hide all others. Pure: time is an argument.

use jiff::Timestamp;

use super::{Advice, ObjectFailure};

/// Most lines. With the longest key and text, all lines take 110 KB.
const MOST: usize = 50;
/// Most bytes of a text; the rest is cut off.
const LONGEST_TEXT: usize = 1_024;

/// All failures for this reason share one line: anyone who may upload can make up names of tenants, and their failures must not
/// push out other lines.
const MADE_UP: &str = "unknown_tenant";

/// Failures of one tenant's delivery for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureLine {
    /// Time of the last failure.
    pub at: Timestamp,
    /// Number of failures since the line began.
    pub count: u64,
    /// The tenant, if known. The line of unknown tenants names the last one.
    pub tenant_id: Option<String>,
    /// The delivery, if the failure concerns one.
    pub delivery: Option<String>,
    /// The reason and its remedy.
    pub advice: &'static Advice,
    /// Key of the last object, if known.
    pub key: Option<String>,
    /// Text of the last failure. It holds no body and no credential.
    pub text: String,
}

/// Lines from the oldest to the latest.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<FailureLine>);

impl Failures {
    pub(super) fn add(&mut self, failure: &ObjectFailure<'_>, advice: &'static Advice, at: Timestamp) {
        let same = |line: &FailureLine| {
            line.advice.reason == advice.reason
                && (advice.reason == MADE_UP
                    || line.tenant_id.as_deref() == failure.tenant_id
                        && line.delivery.as_deref() == failure.delivery)
        };
        let mut line = match self.0.iter().position(same) {
            Some(place) => self.0.remove(place),
            None => {
                if self.0.len() >= MOST {
                    self.0.remove(0);
                }
                FailureLine {
                    at,
                    count: 0,
                    tenant_id: None,
                    delivery: failure.delivery.map(str::to_owned),
                    advice,
                    key: None,
                    text: String::new(),
                }
            }
        };
        (line.at, line.count) = (at, line.count + 1);
        if let Some(tenant_id) = failure.tenant_id {
            set(line.tenant_id.get_or_insert_default(), tenant_id);
        }
        if let Some(key) = failure.key {
            set(line.key.get_or_insert_default(), key);
        }
        set(&mut line.text, failure.text);
        self.0.push(line);
    }

    /// The lines, the latest first.
    pub(super) fn lines(&self) -> Vec<FailureLine> {
        self.0.iter().rev().cloned().collect()
    }
}

/// Replaces a text, and reuses its memory.
fn set(kept: &mut String, text: &str) {
    kept.clear();
    kept.push_str(&text[..text.floor_char_boundary(LONGEST_TEXT)]);
    if text.len() > LONGEST_TEXT {
        kept.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<'a>(tenant_id: &'a str, key: &'a str, text: &'a str) -> ObjectFailure<'a> {
        ObjectFailure {
            tenant_id: Some(tenant_id),
            delivery: None,
            key: Some(key),
            reason: "x",
            text,
            again_in: None,
        }
    }

    #[test]
    fn tenants_that_do_not_exist_take_one_line() {
        let mut failures = Failures::default();
        failures.add(&failure("acme", "k", "no"), Advice::on("role_denied"), Timestamp::UNIX_EPOCH);
        for number in 0..1_000 {
            let tenant = number.to_string();
            failures.add(&failure(&tenant, "k", "no"), Advice::on("unknown_tenant"), Timestamp::UNIX_EPOCH);
        }
        let lines = failures.lines();
        let found: Vec<_> =
            lines.iter().map(|line| (line.tenant_id.as_deref(), line.advice.reason, line.count)).collect();
        let expected = [(Some("999"), "unknown_tenant", 1_000), (Some("acme"), "role_denied", 1)];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_tenant_with_many_failures_takes_one_line() {
        let mut failures = Failures::default();
        let advice = Advice::on("role_denied");
        let at = |second| Timestamp::from_second(second).expect("a time");
        for number in 0..1_000 {
            let key = number.to_string();
            failures.add(&failure("acme", &key, "no"), advice, at(number));
            failures.add(&failure("globex", &key, "no"), Advice::on("throttled"), at(number));
        }
        failures.add(&failure("acme", "k", &"ü".repeat(LONGEST_TEXT)), Advice::on("throttled"), at(2_000));
        let lines = failures.lines();
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line.tenant_id.as_deref(), line.advice.reason, line.count, line.at))
            .collect();
        let (acme, globex) = (Some("acme"), Some("globex"));
        let expected = [
            (acme, "throttled", 1, at(2_000)),
            (globex, "throttled", 1_000, at(999)),
            (acme, "role_denied", 1_000, at(999)),
        ];
        assert_eq!(found, expected);
        assert_eq!(lines[2].key.as_deref(), Some("999"));
        assert_eq!(lines[0].text.len(), LONGEST_TEXT + '…'.len_utf8());
        for number in 0..1_000 {
            failures.add(&failure(&number.to_string(), "k", "no"), advice, at(3_000));
        }
        let lines = failures.lines();
        assert_eq!(
            (lines.len(), lines[0].tenant_id.as_deref()),
            (MOST, Some("999")),
            "the oldest are forgotten"
        );
    }
}
