//! What is known of one check of one resource: the failures in a row, and the parties that failed.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Check, CheckCall, CheckFailure, Explanation, now};
use crate::breaker;

/// Number of failures in a row that degrade a condition, and the most parties that must fail for it.
const FAILURES: usize = 3;
/// Failures within this time after one that counted do not make the row longer, because a short stall fails many concurrent
/// calls at once. Their parties are remembered.
pub(super) const APART: Duration = Duration::from_secs(1);
/// A failed call of a check that depends on messages counts for this long if no further call is made: after a failure, another
/// worker may get the messages. (Probes repeat the other checks every few seconds.) The longest delay of a retry is a quarter
/// of this time.
pub(super) const EVIDENCE_LASTS: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(super) struct Course {
    pub(super) standing: Standing,
    pub(super) since: Timestamp,
    /// Whether the worker is not ready before the first success.
    pub(super) is_needed: bool,
    /// The failures since the last success.
    pub(super) row: Option<FailureRow>,
    /// When the last call ended.
    pub(super) last: Instant,
    /// Parties, up to [`FAILURES`], and when the last call of each ended.
    pub(super) heard: Vec<(String, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    Ok,
    Degraded(CheckFailure),
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub(super) struct FailureRow {
    since: Timestamp,
    failures: usize,
    /// When a failure counted last.
    pub(super) counted: Option<Instant>,
    /// Failures of calls that were made for no party.
    own: usize,
    /// Parties that failed, up to [`FAILURES`].
    parties: Vec<String>,
}

impl Course {
    pub(super) fn new(since: Timestamp) -> Self {
        Self {
            standing: Standing::Unknown,
            since,
            is_needed: false,
            row: None,
            last: Instant::now(),
            heard: Vec::new(),
        }
    }

    /// Returns since when the check was degraded, if it was. So do [`Course::answered`] and [`Course::expire`].
    pub(super) fn succeeded(&mut self, call: CheckCall<'_>) -> Option<Timestamp> {
        self.hear(call.party);
        self.becomes(Standing::Ok)
    }

    /// The answer shows neither that the resource can be used nor that it cannot.
    pub(super) fn answered(&mut self) -> Option<Timestamp> {
        self.last = Instant::now();
        // A bucket that is missing, or in another Region, may be denied all the same.
        if matches!(self.standing, Standing::Degraded(cause) if cause != CheckFailure::Unanswered) {
            return None;
        }
        self.becomes(Standing::Unknown)
    }

    /// Returns the explanation if the check becomes degraded.
    pub(super) fn failed(&mut self, call: CheckCall<'_>, cause: CheckFailure) -> Option<Explanation> {
        self.hear(call.party);
        let voices = self.voices(call.check);
        let row = self.row.get_or_insert_with(|| FailureRow {
            since: now(),
            failures: 0,
            counted: None,
            own: 0,
            parties: Vec::new(),
        });
        let ended = breaker::now();
        if row.counted.is_none_or(|counted| ended.saturating_duration_since(counted) >= APART) {
            row.counted = Some(ended);
            row.failures = row.failures.saturating_add(1);
            row.own = row.own.saturating_add(usize::from(call.party.is_none()));
        }
        // A party counts at once: the calls of several often fail together, and later most of them make none.
        if let Some(party) = call.party {
            row.accuse(party);
        }
        if row.failures < FAILURES || row.own.saturating_add(row.parties.len()) < voices {
            return None;
        }
        match std::mem::replace(&mut self.standing, Standing::Degraded(cause)) {
            Standing::Degraded(_) => None,
            Standing::Unknown | Standing::Ok => {
                self.since = row.since;
                Some(call.check.explain(cause))
            }
        }
    }

    /// Forgets failures that are too old to tell anything.
    pub(super) fn expire(&mut self) -> Option<Timestamp> {
        if self.row.is_none() || self.last.elapsed() <= EVIDENCE_LASTS {
            return None;
        }
        self.becomes(Standing::Unknown)
    }

    /// Ends the row of failures, and changes the standing. Returns since when the check was degraded, if it was.
    fn becomes(&mut self, standing: Standing) -> Option<Timestamp> {
        self.row = None;
        let before = std::mem::replace(&mut self.standing, standing);
        let since = (before != standing).then(|| std::mem::replace(&mut self.since, now()))?;
        matches!(before, Standing::Degraded(_)).then_some(since)
    }

    /// How many parties must fail in a row.
    ///
    /// For a Region: all accounts that were heard of in the last hour, up to three. If a Region has only one or two accounts, a
    /// fault of these accounts looks like an outage of the Region, and nothing arrives there in either case. For reads: always
    /// three tenants, because the objects of one tenant may be unreadable for ever.
    fn voices(&self, check: Check) -> usize {
        match check {
            Check::Put => self.heard.iter().filter(|(_, at)| at.elapsed() <= EVIDENCE_LASTS).count(),
            _ => FAILURES,
        }
    }

    fn hear(&mut self, party: Option<&str>) {
        self.last = Instant::now();
        let Some(party) = party else { return };
        if let Some((_, at)) = self.heard.iter_mut().find(|(name, _)| name == party) {
            *at = self.last;
            return;
        }
        self.heard.retain(|(_, at)| at.elapsed() <= EVIDENCE_LASTS);
        if self.heard.len() < FAILURES {
            self.heard.push((party.to_owned(), self.last));
        }
    }
}

impl FailureRow {
    fn accuse(&mut self, party: &str) {
        if self.parties.len() < FAILURES && self.parties.iter().all(|known| known != party) {
            self.parties.push(party.to_owned());
        }
    }
}
