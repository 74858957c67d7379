//! What is known about each tenant. Pure: time is an argument, in milliseconds since the worker's start. It is signed, because
//! an object may have waited since before that start.

mod tenant;

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use self::tenant::{TenantHistory, Trouble, WaitingObject};
use super::{
    Advice, ObjectFailure, Rows, TenantState, Throughput,
    failures::{FailureLine, Failures},
    named::{Rank, choose},
    rate::LastMinute,
};

/// Label that all tenants without series of their own share. A tenant with this name never gets its own.
pub(super) const OTHER: &str = "other";
/// Most tenants. With more, the tenant that was seen longest ago is forgotten, but none with waiting objects or with series of
/// its own.
pub(super) const MOST_TENANTS: usize = 20_000;
/// Most waiting objects that are remembered of one tenant. If more wait, the oldest are remembered, and the number shown is a
/// lower bound. An object that was left out is remembered at a later retry, when there is room, with its true age.
pub(super) const MOST_WAITING_OF_ONE: usize = 1_000;
/// Most waiting objects of all tenants, beyond the first four of each.
pub(super) const MOST_WAITING: usize = 65_536;
const ALWAYS_KEPT: usize = 4;
/// Most deliveries of one tenant whose trouble is remembered.
const MOST_TROUBLES: usize = 4;
/// A waiting object still counts for this long after its retry was due. Then another worker has probably taken it.
pub(super) const MARGIN: Duration = Duration::from_secs(120);
/// A failure without a retry decides its tenant's state for this long, or until the delivery succeeds.
const LAST_FAILURE_SHOWS: Duration = Duration::from_secs(86_400);
/// A failure without a retry withholds successes of the tenant's other deliveries for this long: for one more period than the
/// two of 5 min in which the alert on a tenant that has stopped receiving looks for failures.
pub(super) const DEAD_LETTER_STOPS: Duration = Duration::from_secs(900);
/// Reason of a row that is bad for every object.
const BAD_ROW: &str = "bad_tenant_row";
/// Reasons that fail every object of the tenant.
const OF_TENANT: [&str; 2] = ["tenant_paused", "unknown_tenant"];

/// Time of an event, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Milliseconds since the worker's start.
    pub(super) ms: i64,
    /// The time of day.
    pub(super) wall: Timestamp,
}

#[derive(Debug)]
pub(super) struct StatusBook {
    tenants: HashMap<Arc<str>, TenantHistory>,
    /// Entries of all tenants, including those that have expired and are not removed yet.
    waiting: usize,
    in_work: usize,
    named: usize,
    max_named: usize,
    other: Series,
    failures: Failures,
    minute: LastMinute,
}

/// Counters of one label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) shadow_events: u64,
    pub(super) shadow_bytes: u64,
    pub(super) failures: Vec<(&'static str, u64)>,
}

impl Series {
    fn failed(&mut self, reason: &'static str) {
        match self.failures.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((reason, 1)),
        }
    }
}

/// What the metrics show for one label.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) tenant: Arc<str>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) oldest_waiting: Duration,
    pub(super) waiting: usize,
    /// Whether the label's only tenant is in shadow mode. Nothing of it is expected to arrive, so an alert about missing
    /// deliveries must not see it.
    pub(super) in_shadow: bool,
    pub(super) series: Series,
}

/// A tenant on the status page.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantLine {
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// Its state.
    pub state: TenantState,
    /// Reason and remedy, unless the state is [`TenantState::Ok`].
    pub advice: Option<&'static Advice>,
    /// The delivery that fails; `None` if the failure concerns whole objects.
    pub delivery: Option<String>,
    /// Time of the last such failure; `None` if a success has ended the trouble.
    pub failed_at: Option<Timestamp>,
    /// Time of the last success while no other delivery of the tenant was failing; `None` if there was none since the worker's
    /// start.
    pub last_success: Option<Timestamp>,
    /// Age of the oldest waiting object.
    pub oldest_waiting: Option<Duration>,
    /// Objects that wait, at most 1,000.
    pub waiting: usize,
}

/// Everything on the status page that is about deliveries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The tenants, ordered by state (the worst first), then by last success (the oldest first), then by their oldest waiting
    /// object.
    pub tenants: Vec<TenantLine>,
    /// Number of tenants in each state, in the order of [`TenantState::ALL`].
    pub states: [usize; 5],
    /// The last failures, the latest first.
    pub failures: Vec<FailureLine>,
    /// The last minute.
    pub throughput: Throughput,
    /// Objects in work.
    pub in_work: usize,
    /// Objects that wait, those in work included.
    pub waiting: usize,
    /// Age of the oldest waiting object.
    pub oldest_waiting: Option<Duration>,
}

impl StatusBook {
    pub(super) fn new(max_named: usize) -> Self {
        Self {
            tenants: HashMap::new(),
            waiting: 0,
            in_work: 0,
            named: 0,
            max_named,
            other: Series::default(),
            failures: Failures::default(),
            minute: LastMinute::default(),
        }
    }

    /// An attempt at an object begins. Returns the tenant's name; `None` if there is no room for the tenant.
    pub(super) fn begin(
        &mut self,
        tenant_id: &str,
        object: u64,
        age: Duration,
        now: i64,
    ) -> Option<Arc<str>> {
        if !self.tenants.contains_key(tenant_id) {
            self.admit(tenant_id, now)?;
        }
        let (name, _) = self.tenants.get_key_value(tenant_id)?;
        let name = Arc::clone(name);
        let tenant = self.tenants.get_mut(tenant_id)?;
        tenant.last_seen = now;
        self.in_work += 1;
        let since = now - millis(age);
        let begun = WaitingObject { object, since, until: i64::MAX, advice: None };
        if let Some(entry) = tenant.waiting.iter_mut().find(|entry| entry.object == object) {
            *entry = WaitingObject { since: since.min(entry.since), advice: entry.advice, ..begun };
            return Some(name);
        }
        let count = tenant.waiting.len();
        if count < ALWAYS_KEPT || count < MOST_WAITING_OF_ONE && self.waiting < MOST_WAITING {
            tenant.waiting.push(begun);
            self.waiting += 1;
        } else if let Some(youngest) = tenant.waiting.iter_mut().max_by_key(|entry| entry.since)
            && youngest.since > since
        {
            *youngest = begun;
        }
        Some(name)
    }

    /// Makes room for a tenant and adds it. Returns `None` if every tenant has waiting objects or series of its own.
    fn admit(&mut self, tenant_id: &str, now: i64) -> Option<()> {
        if self.tenants.len() >= MOST_TENANTS {
            let idle =
                self.tenants.iter().filter(|(_, tenant)| tenant.waiting.is_empty() && !tenant.is_named);
            let (name, _) = idle.min_by_key(|(_, tenant)| tenant.last_seen)?;
            let name = Arc::clone(name);
            self.tenants.remove(&name);
        }
        let is_named = self.named < self.max_named && tenant_id != OTHER;
        self.named += usize::from(is_named);
        let series = is_named.then(Box::default);
        self.tenants.insert(
            tenant_id.into(),
            TenantHistory { series, is_named, last_seen: now, ..TenantHistory::default() },
        );
        Some(())
    }

    pub(super) fn knows(&self, tenant_id: &str) -> bool {
        self.tenants.contains_key(tenant_id)
    }

    /// An attempt at an object ended, and the object waits for nothing.
    pub(super) fn end(&mut self, tenant_id: &str, object: u64) {
        self.in_work -= 1;
        self.unwanted(tenant_id, object);
    }

    /// An object waits for nothing.
    pub(super) fn unwanted(&mut self, tenant_id: &str, object: u64) {
        let Some(tenant) = self.tenants.get_mut(tenant_id) else { return };
        if let Some(at) = tenant.waiting.iter().position(|entry| entry.object == object) {
            tenant.waiting.swap_remove(at);
            self.waiting -= 1;
        }
    }

    /// An attempt at an object ended, and the object comes again after `again_in`.
    pub(super) fn leave(
        &mut self,
        tenant_id: &str,
        object: u64,
        advice: Option<&'static Advice>,
        again_in: Duration,
        now: i64,
    ) {
        self.in_work -= 1;
        let Some(tenant) = self.tenants.get_mut(tenant_id) else { return };
        if let Some(entry) = tenant.waiting.iter_mut().find(|entry| entry.object == object) {
            entry.until = now + millis(again_in + MARGIN);
            entry.advice = advice.or(entry.advice);
        }
    }

    /// The counters of a tenant, whose volume grows.
    fn counters(&mut self, tenant_id: &str, volume: u64) -> &mut Series {
        let Some(tenant) = self.tenants.get_mut(tenant_id) else { return &mut self.other };
        tenant.volume += volume;
        tenant.counters(&mut self.other)
    }

    /// Counts events that were accepted.
    pub(super) fn accepted(&mut self, tenant_id: &str, events: u64, bytes: u64, now: i64) {
        self.minute.accepted(events, bytes, now);
        let series = self.counters(tenant_id, bytes);
        series.events += events;
        series.bytes += bytes;
    }

    /// A delivery in shadow mode has counted events of an object.
    pub(super) fn shadowed(&mut self, tenant_id: &str, delivery: &str, events: u64, bytes: u64) {
        if let Some(tenant) = self.tenants.get_mut(tenant_id) {
            tenant.succeeded(delivery);
        }
        let series = self.counters(tenant_id, bytes + 1);
        series.shadow_events += events;
        series.shadow_bytes += bytes;
    }

    /// A delivery of an object succeeded.
    pub(super) fn delivered(
        &mut self,
        tenant_id: &str,
        delivery: &str,
        freshness: Option<Duration>,
        now: Now,
    ) {
        self.minute.delivered(freshness, now.ms);
        let Some(tenant) = self.tenants.get_mut(tenant_id) else { return };
        tenant.volume += 1;
        tenant.succeeded(delivery);
        // A delivery that works must not hide that another one has stopped.
        if !tenant.troubles.iter().any(|trouble| trouble.stops_until > now.ms) {
            tenant.last_success = Some(now.wall);
        }
    }

    /// Nothing of the tenant is to be delivered, so nothing of it can fail.
    pub(super) fn switched_off(&mut self, tenant_id: &str) {
        let Some(tenant) = self.tenants.get_mut(tenant_id) else { return };
        tenant.troubles.clear();
        let before = tenant.waiting.len();
        tenant.waiting.retain(|entry| entry.until == i64::MAX);
        self.waiting -= before - tenant.waiting.len();
    }

    /// The tenant's rows were judged for an object. Troubles end that the rows do not have any more: those of deliveries that
    /// no enabled row has, and those of rows that were bad, and are not.
    pub(super) fn judged(&mut self, tenant_id: &str, rows: Rows<'_>) {
        let Some(tenant) = self.tenants.get_mut(tenant_id) else { return };
        tenant.in_shadow = rows.all_in_shadow;
        tenant.troubles.retain(|trouble| {
            let reason = trouble.advice.reason;
            match trouble.delivery.as_deref() {
                None => !OF_TENANT.contains(&reason),
                Some(name) => rows.unused.contains(&name) || rows.used.contains(&name) && reason != BAD_ROW,
            }
        });
    }

    /// An object, or one delivery of it, failed.
    pub(super) fn failed(&mut self, failure: &ObjectFailure<'_>, now: Now) {
        let advice = Advice::on(failure.reason);
        self.failures.add(failure, advice, now.wall);
        let Some(tenant) = failure.tenant_id.and_then(|tenant_id| self.tenants.get_mut(tenant_id)) else {
            return;
        };
        if !tenant.in_shadow {
            tenant.counters(&mut self.other).failed(failure.reason);
        }
        let end =
            |without_retry| now.ms + millis(failure.again_in.map_or(without_retry, |wait| wait + MARGIN));
        let (at, mut until, mut stops_until) = (now.wall, end(LAST_FAILURE_SHOWS), end(DEAD_LETTER_STOPS));
        tenant.troubles.retain(|trouble| trouble.until > now.ms);
        let same = |trouble: &&mut Trouble| trouble.delivery.as_deref() == failure.delivery;
        match tenant.troubles.iter_mut().find(same) {
            Some(trouble) => {
                // The later end stays: a dead letter still shows for a day if a retry of another object then fails for the same
                // reason.
                if trouble.advice == advice {
                    (until, stops_until) = (until.max(trouble.until), stops_until.max(trouble.stops_until));
                }
                *trouble = Trouble {
                    delivery: trouble.delivery.take(),
                    since: trouble.since,
                    advice,
                    at,
                    until,
                    stops_until,
                };
            }
            None => {
                if tenant.troubles.len() >= MOST_TROUBLES {
                    tenant.troubles.remove(0);
                }
                let delivery = failure.delivery.map(Into::into);
                // Most tenants have one delivery.
                tenant.troubles.reserve_exact(1);
                tenant.troubles.push(Trouble { delivery, advice, at, since: now.ms, until, stops_until });
            }
        }
    }

    /// Forgets what has expired, and decides anew which tenants have series of their own.
    pub(super) fn tidy(&mut self, now: i64) {
        let (mut names, mut ranks) = (Vec::new(), Vec::new());
        self.waiting = 0;
        for (name, tenant) in &mut self.tenants {
            tenant.waiting.retain(|entry| entry.until > now);
            tenant.waiting.shrink_to(2 * tenant.waiting.len());
            tenant.troubles.retain(|trouble| trouble.until > now);
            self.waiting += tenant.waiting.len();
            if **name != *OTHER {
                let rank = Rank {
                    index: names.len(),
                    trouble: tenant.trouble(now),
                    volume: tenant.volume,
                    is_named: tenant.is_named,
                };
                ranks.push(rank);
                names.push(Arc::clone(name));
            }
            tenant.volume -= tenant.volume / 16;
            tenant.is_named = false;
        }
        let chosen = choose(ranks, self.max_named);
        self.named = chosen.len();
        for index in chosen {
            let tenant = self.tenants.get_mut(&names[index]).expect("the names are the map's own");
            tenant.is_named = true;
            tenant.series.get_or_insert_default();
        }
    }

    /// What the metrics show: the named tenants by name, then all others as one, if there are any.
    pub(super) fn samples(&self, now: i64) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(self.named + 1);
        let mut other = Sample { tenant: OTHER.into(), series: self.other.clone(), ..Sample::default() };
        let mut others = 0;
        for (name, tenant) in &self.tenants {
            let (waiting, oldest) = tenant.waiting(now);
            let oldest_waiting = oldest.map(since).unwrap_or_default();
            if let (true, Some(series)) = (tenant.is_named, &tenant.series) {
                let series = Series::clone(series);
                let (in_shadow, last_success) = (tenant.in_shadow, tenant.last_success);
                let tenant = Arc::clone(name);
                samples.push(Sample { tenant, last_success, oldest_waiting, waiting, in_shadow, series });
                continue;
            }
            others += 1;
            if tenant.in_shadow {
                continue;
            }
            other.waiting += waiting;
            other.oldest_waiting = other.oldest_waiting.max(oldest_waiting);
            if waiting > 0 {
                let last = [other.last_success, tenant.last_success];
                other.last_success = last.into_iter().flatten().min();
            }
        }
        samples.sort_by(|one, two| one.tenant.cmp(&two.tenant));
        if others > 0 || other.series != Series::default() {
            samples.push(other);
        }
        samples
    }

    /// What the status page shows, with at most `most` tenants.
    pub(super) fn snapshot(&self, most: usize, now: i64) -> Snapshot {
        let mut found = Snapshot {
            failures: self.failures.lines(),
            throughput: self.minute.throughput(now),
            in_work: self.in_work,
            ..Snapshot::default()
        };
        let mut order = Vec::with_capacity(self.tenants.len());
        for (name, tenant) in &self.tenants {
            let state = tenant.state(now);
            found.states[state as usize] += 1;
            let (waiting, oldest) = tenant.waiting(now);
            found.waiting += waiting;
            found.oldest_waiting = found.oldest_waiting.max(oldest.map(since));
            order.push(((Reverse(state), tenant.last_success, Reverse(oldest)), name, tenant));
        }
        // Deliveries wait for the lock during this time. So only the tenants that are shown are sorted, and no sort key is
        // computed twice.
        if order.len() > most {
            order.select_nth_unstable_by(most, page_order);
            order.truncate(most);
        }
        order.sort_unstable_by(page_order);
        found.tenants = order
            .into_iter()
            .map(|((Reverse(state), ..), name, tenant)| tenant.line(name, state, now))
            .collect();
        found
    }
}

/// A tenant with what decides its place on the page.
type Placed<'a> =
    ((Reverse<TenantState>, Option<Timestamp>, Reverse<Option<i64>>), &'a Arc<str>, &'a TenantHistory);

fn page_order(one: &Placed<'_>, two: &Placed<'_>) -> Ordering {
    (one.0, one.1).cmp(&(two.0, two.1))
}

fn millis(duration: Duration) -> i64 {
    // A few hundred years at most, so that sums do not overflow.
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 1_000)
}

fn since(age: i64) -> Duration {
    Duration::from_millis(age.unsigned_abs())
}

#[cfg(test)]
impl StatusBook {
    /// Memory of the maps and lists, without the allocator's own.
    pub(super) fn heap_bytes(&self) -> usize {
        let tenant = |(name, tenant): (&Arc<str>, &TenantHistory)| {
            // An `Arc` has two counters.
            let of_name = name.len() + 2 * size_of::<usize>();
            let deliveries = tenant.troubles.iter().filter_map(|trouble| trouble.delivery.as_deref());
            let series = tenant.series.as_deref().map_or(0, |series| {
                size_of::<Series>() + series.failures.capacity() * size_of::<(&str, u64)>()
            });
            of_name
                + tenant.waiting.capacity() * size_of::<WaitingObject>()
                + tenant.troubles.capacity() * size_of::<Trouble>()
                + deliveries.map(str::len).sum::<usize>()
                + series
        };
        // A map of this kind is at most 7/8 full, and its size is a power of two.
        let places = (self.tenants.capacity() * 8 / 7).next_power_of_two();
        places * (size_of::<(Arc<str>, TenantHistory)>() + 1) + self.tenants.iter().map(tenant).sum::<usize>()
    }
}
