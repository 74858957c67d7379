//! Counts the slots that each tenant holds, and decides who gets another one. No I/O; time and randomness are arguments.
//!
//! **The share.** A tenant that is not alone may hold as many slots as are free. Network switches share their memory among
//! ports by this rule, called dynamic threshold. One busy tenant gets half of the slots, two get a third each, and k tenants
//! get 1/(k+1) each. The rest stays free for tenants that hold none. The rule need not know beforehand which tenants are
//! busy. A tenant without other active tenants may take every slot, and a tenant that holds none is always admitted. (A
//! fixed share, the slots divided by the active tenants, would be less than two slots if tenants are many, so that no tenant
//! could have two objects in flight.) Small objects share a slot, so the book counts in units of slots: see [`crate::room`].
//!
//! **The turn.** A refused object gets a place in its tenant's virtual queue. The length of a place is the duration of one
//! of the tenant's objects, divided by the number of the tenant's objects in flight. So a backlog comes back spread over the
//! time that it needs, instead of being received again and again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::room::UNITS;

/// How long a tenant stays active after it was seen. A tenant is also active while one of its objects is in flight or waits
/// for its turn.
const ACTIVE: Duration = Duration::from_secs(30);
/// How often inactive tenants are forgotten.
const SWEEP: Duration = Duration::from_secs(5);
/// Shortest wait: if a message came back sooner, its tenant's share would still be used up.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Assumed duration of a tenant's object until the first one has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// A tenant without other active tenants counts as alone only if the worker's slots get free at least this often. If they get
/// free less often, messages of other tenants may wait unseen behind the tenant's backlog, so the tenant must leave slots free
/// for them.
const TELLING: Duration = Duration::from_millis(250);
/// Weight of the mean duration so far in the new mean. The latest duration has the weight 1.
const INERTIA: u32 = 7;

/// Limits on what tenants may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Number of slots of all tenants together.
    pub slots: usize,
    /// Number of objects in flight that one tenant may have at most, even if it is alone.
    pub max_objects: Option<usize>,
    /// Stored bytes in flight that one tenant may have at most. A larger object is admitted if it is the tenant's only one.
    pub max_bytes: Option<u64>,
    /// Longest wait for a turn.
    pub longest_wait: Duration,
}

/// The slots that every tenant holds, and its virtual queue.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    /// Units in flight.
    units: u64,
    /// The active tenants. Inactive ones are removed within [`SWEEP`].
    tenants: HashMap<String, Account>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Account {
    /// When each of its objects in flight was admitted.
    entered: Vec<Instant>,
    units: u64,
    bytes: u64,
    seen: Instant,
    /// Mean duration of its latest objects.
    mean: Option<Duration>,
    /// End of the virtual queue.
    next_turn: Instant,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self { entered: Vec::new(), units: 0, bytes: 0, seen: now, mean: None, next_turn: now }
    }

    fn is_active(&self, now: Instant) -> bool {
        !self.entered.is_empty() || self.next_turn > now || now.duration_since(self.seen) < ACTIVE
    }

    /// Expected duration of an object: the mean so far, or the mean age of the objects in flight if that is longer.
    fn object_time(&self, now: Instant) -> Duration {
        let ages: Duration = self.entered.iter().map(|entered| now.duration_since(*entered)).sum();
        let age = ages / u32::try_from(self.entered.len().max(1)).unwrap_or(u32::MAX);
        self.mean.unwrap_or(FIRST_GUESS).max(age)
    }

    /// Appends a place to the virtual queue, and returns the time until its turn.
    fn queue(&mut self, longest: Duration, now: Instant, chance: f64) -> Duration {
        let at_once = u32::try_from(self.entered.len().max(1)).unwrap_or(u32::MAX);
        let place = self.object_time(now) / at_once;
        // Waits are capped; a message beyond the cap comes back early and queues again.
        self.next_turn = (self.next_turn.max(now) + place).min(now + longest);
        let wait = (self.next_turn - now).max(SHORTEST_WAIT.min(longest));
        // Spreads the messages at the cap, so that they do not all come back at once.
        if wait == longest { wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0) } else { wait }
    }
}

impl Book {
    /// Starts with no object in flight.
    pub fn new(limits: Limits) -> Self {
        Self { limits, units: 0, tenants: HashMap::new(), swept: None }
    }

    /// Admits an object, if its tenant may have one more.
    ///
    /// # Errors
    /// The tenant's share is used up. The error is the time until the object's turn. `chance`, from 0 to 1, shortens the
    /// longest wait by up to a quarter.
    pub fn enter(
        &mut self,
        tenant_id: &str,
        bytes: u64,
        units: u32,
        now: Instant,
        chance: f64,
    ) -> Result<(), Duration> {
        self.sweep(now);
        let Limits { slots, max_objects, max_bytes, longest_wait } = self.limits;
        let free = (slots as u64).saturating_mul(UNITS.into()).saturating_sub(self.units);
        let others = self.tenants.len() > usize::from(self.tenants.contains_key(tenant_id));
        let account = self.account(tenant_id, now);
        let passing = account.object_time(now) / u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
        let alone = !others && passing <= TELLING;
        let held = account.entered.len();
        let fits = max_objects.is_none_or(|most| held < most)
            && max_bytes.is_none_or(|most| account.bytes.saturating_add(bytes) <= most);
        if held > 0 && !(fits && (alone || account.units < free)) {
            return Err(account.queue(longest_wait, now, chance));
        }
        self.enter_anyway(tenant_id, bytes, units, now);
        Ok(())
    }

    /// Admits an object regardless of the limits.
    pub fn enter_anyway(&mut self, tenant_id: &str, bytes: u64, units: u32, now: Instant) {
        self.units += u64::from(units);
        let account = self.account(tenant_id, now);
        account.entered.push(now);
        account.units += u64::from(units);
        account.bytes = account.bytes.saturating_add(bytes);
    }

    /// Adds units to an object in flight.
    pub fn grow(&mut self, tenant_id: &str, units: u32) {
        let Some(account) = self.tenants.get_mut(tenant_id) else { return };
        account.units += u64::from(units);
        self.units += u64::from(units);
    }

    /// Removes an object that was admitted at `since`, with all its units.
    pub fn leave(&mut self, tenant_id: &str, bytes: u64, units: u32, since: Instant, now: Instant) {
        let Some(account) = self.tenants.get_mut(tenant_id) else { return };
        let Some(at) = account.entered.iter().position(|entered| *entered == since) else { return };
        account.entered.swap_remove(at);
        account.bytes = account.bytes.saturating_sub(bytes);
        account.units = account.units.saturating_sub(units.into());
        account.seen = now;
        let took = now.saturating_duration_since(since);
        account.mean = Some(account.mean.map_or(took, |mean| (mean * INERTIA + took) / (INERTIA + 1)));
        self.units = self.units.saturating_sub(units.into());
    }

    fn account(&mut self, tenant_id: &str, now: Instant) -> &mut Account {
        if !self.tenants.contains_key(tenant_id) {
            self.tenants.insert(tenant_id.to_owned(), Account::new(now));
        }
        let account =
            self.tenants.get_mut(tenant_id).expect("the account was there, or has just been inserted");
        account.seen = now;
        account
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.tenants.retain(|_, account| account.is_active(now));
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
