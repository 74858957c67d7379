//! What is known about one tenant.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Series, TenantLine, since};
use crate::status::{Advice, TenantState};

/// In milliseconds. A tenant whose oldest object has waited longer than this is in trouble, even if no attempt has failed.
const LONG_WAIT: i64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct TenantHistory {
    pub(super) last_success: Option<Timestamp>,
    pub(super) waiting: Vec<WaitingObject>,
    pub(super) troubles: Vec<Trouble>,
    /// The counters of its own series. They are kept while the tenant has no series, and continue when it has one again.
    pub(super) series: Option<Box<Series>>,
    pub(super) is_named: bool,
    /// Whether all enabled deliveries are in shadow mode.
    pub(super) in_shadow: bool,
    /// Recent billed bytes, plus one for each delivery. `StatusBook::tidy` subtracts a sixteenth every half minute, so half is
    /// left after about 5 min.
    pub(super) volume: u64,
    pub(super) last_seen: i64,
}

/// An object that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitingObject {
    pub(super) object: u64,
    /// First receipt of its message.
    pub(super) since: i64,
    /// It no longer counts after this time; `i64::MAX` while it is in work.
    pub(super) until: i64,
    /// Why the last attempt failed.
    pub(super) advice: Option<&'static Advice>,
}

/// The last failure of a delivery, or of whole objects.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) delivery: Option<Box<str>>,
    pub(super) advice: &'static Advice,
    pub(super) at: Timestamp,
    /// Time of the first failure after the last success.
    pub(super) since: i64,
    pub(super) until: i64,
    /// Until then, successes of other deliveries do not count as the tenant's last success.
    pub(super) stops_until: i64,
}

impl TenantHistory {
    pub(super) fn counters<'a>(&'a mut self, other: &'a mut Series) -> &'a mut Series {
        match &mut self.series {
            Some(series) if self.is_named => series,
            _ => other,
        }
    }

    /// A delivery succeeded. This also ends the trouble with whole objects.
    pub(super) fn succeeded(&mut self, delivery: &str) {
        self.troubles.retain(|trouble| trouble.delivery.as_deref().is_some_and(|failed| failed != delivery));
    }

    /// The number of waiting objects, and the age of the oldest in milliseconds.
    pub(super) fn waiting(&self, now: i64) -> (usize, Option<i64>) {
        let alive = self.waiting.iter().filter(|entry| entry.until > now);
        alive.fold((0, None), |(count, oldest), entry| {
            (count + 1, oldest.max(Some((now - entry.since).max(0))))
        })
    }

    /// The worst trouble; the latest one if several are equally bad.
    fn worst(&self, now: i64) -> Option<&Trouble> {
        let lasting = self.troubles.iter().filter(|trouble| trouble.until > now);
        lasting.max_by_key(|trouble| (trouble.advice.state, trouble.at))
    }

    /// The waiting object that failed, and has waited for longest.
    fn oldest_failed(&self, now: i64) -> Option<&WaitingObject> {
        let failed = self.waiting.iter().filter(|entry| entry.until > now && entry.advice.is_some());
        failed.min_by_key(|entry| entry.since)
    }

    pub(super) fn state(&self, now: i64) -> TenantState {
        match (self.worst(now), self.oldest_failed(now)) {
            (Some(trouble), _) => trouble.advice.state,
            // A success of other objects has ended the trouble, but this object still waits.
            (None, Some(_)) => TenantState::Waiting,
            (None, None) if self.in_shadow => TenantState::Shadow,
            (None, None) => TenantState::Ok,
        }
    }

    /// How long the tenant has been in trouble, in milliseconds; `None` if it is not.
    pub(super) fn trouble(&self, now: i64) -> Option<i64> {
        let troubled = self.worst(now).map(|trouble| now - trouble.since);
        let long = self.waiting(now).1.filter(|age| *age > LONG_WAIT);
        troubled.max(long)
    }

    pub(super) fn line(&self, name: &Arc<str>, state: TenantState, now: i64) -> TenantLine {
        let (waiting, oldest) = self.waiting(now);
        let worst = self.worst(now);
        TenantLine {
            tenant_id: Arc::clone(name),
            state,
            advice: worst.map(|trouble| trouble.advice).or_else(|| self.oldest_failed(now)?.advice),
            delivery: worst.and_then(|trouble| trouble.delivery.as_deref().map(str::to_owned)),
            failed_at: worst.map(|trouble| trouble.at),
            last_success: self.last_success,
            oldest_waiting: oldest.map(since),
            waiting,
        }
    }
}
