//! Who holds how many slots, and who may have another one. Pure: time and chance come in as arguments.
//!
//! **The share.** Among others, a tenant may hold as many slots as are free: a dynamic threshold, as switches use it to share
//! their memory among ports. One busy tenant gets half of the slots, two a third each, k of them 1/(k + 1) each, and as many are
//! left free for those who hold none. Nobody has to be known as busy beforehand, and a tenant with two objects at once is not
//! held against a share of a fraction of a slot. A tenant that nobody else is active beside may take every slot, and one that
//! holds none enters always. (A fixed share of slots / active tenants would leave a fraction of a slot among many.)
//!
//! **The turn.** What is refused queues in its tenant's virtual queue: each place is the time that one of the tenant's objects
//! takes, divided by those it works on at once, so a backlog comes back spread over the time that it needs, and is not received
//! again and again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A tenant is active while it has something in flight, waits for a turn, or was seen that lately.
const ACTIVE: Duration = Duration::from_secs(30);
/// How often those who are not are forgotten.
const SWEEP: Duration = Duration::from_secs(5);
/// Sooner, the message would only be in its own way.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// What an object takes, as long as none of the tenant's has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// A tenant that nobody else is seen beside is alone, as long as a message passes at least that often. Else it may hide who
/// waits behind its backlog, and the backlog has to go out of the way to see.
const TELLING: Duration = Duration::from_millis(250);
/// The weight of what is known of a tenant's objects against the latest one.
const INERTIA: u32 = 7;

/// What tenants may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects worked on at once, all tenants together.
    pub slots: usize,
    /// Most objects of one tenant, whoever else is there.
    pub max_objects: Option<usize>,
    /// Most stored bytes of one tenant's objects in flight; a larger object enters alone.
    pub max_bytes: Option<u64>,
    /// No turn is farther away.
    pub longest_wait: Duration,
}

/// What every tenant holds, and its virtual queue.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    objects: usize,
    /// Those who are active, give or take [`SWEEP`].
    tenants: HashMap<String, Account>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Account {
    /// When each of its objects in flight entered.
    entered: Vec<Instant>,
    bytes: u64,
    seen: Instant,
    /// What its objects took lately.
    mean: Option<Duration>,
    /// The end of its virtual queue.
    next_turn: Instant,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self { entered: Vec::new(), bytes: 0, seen: now, mean: None, next_turn: now }
    }

    fn is_active(&self, now: Instant) -> bool {
        !self.entered.is_empty() || self.next_turn > now || now.duration_since(self.seen) < ACTIVE
    }

    /// What an object takes by all that is known: those that ended, and those that have not for long.
    fn object_time(&self, now: Instant) -> Duration {
        let ages: Duration = self.entered.iter().map(|entered| now.duration_since(*entered)).sum();
        let age = ages / u32::try_from(self.entered.len().max(1)).unwrap_or(u32::MAX);
        self.mean.unwrap_or(FIRST_GUESS).max(age)
    }

    /// Moves the end of the virtual queue on by a place, and says how far away it is.
    fn queue(&mut self, longest: Duration, now: Instant, chance: f64) -> Duration {
        let at_once = u32::try_from(self.entered.len().max(1)).unwrap_or(u32::MAX);
        let place = self.object_time(now) / at_once;
        // Beyond the longest wait nobody stands: whoever would be there comes before and queues again.
        self.next_turn = (self.next_turn.max(now) + place).min(now + longest);
        let wait = (self.next_turn - now).max(SHORTEST_WAIT.min(longest));
        // Those at the end do not all come at once.
        if wait == longest { wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0) } else { wait }
    }
}

impl Book {
    /// Nothing is in flight yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, objects: 0, tenants: HashMap::new(), swept: None }
    }

    /// Takes an object in, if its tenant may have one more.
    ///
    /// # Errors
    /// It may not: how long until the object's turn; `chance`, 0 to 1, takes off up to a quarter of the longest wait.
    pub fn enter(&mut self, tenant_id: &str, bytes: u64, now: Instant, chance: f64) -> Result<(), Duration> {
        self.sweep(now);
        let Limits { slots, max_objects, max_bytes, longest_wait } = self.limits;
        let free = slots.saturating_sub(self.objects);
        let others = self.tenants.len() > usize::from(self.tenants.contains_key(tenant_id));
        let account = self.account(tenant_id, now);
        let passing = account.object_time(now) / u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
        let alone = !others && passing <= TELLING;
        let held = account.entered.len();
        let fits = max_objects.is_none_or(|most| held < most)
            && max_bytes.is_none_or(|most| account.bytes.saturating_add(bytes) <= most);
        if held > 0 && !(fits && (alone || held < free)) {
            return Err(account.queue(longest_wait, now, chance));
        }
        self.enter_anyway(tenant_id, bytes, now);
        Ok(())
    }

    /// Takes an object in.
    pub fn enter_anyway(&mut self, tenant_id: &str, bytes: u64, now: Instant) {
        self.objects += 1;
        let account = self.account(tenant_id, now);
        account.entered.push(now);
        account.bytes = account.bytes.saturating_add(bytes);
    }

    /// Lets go of an object that entered at `since`.
    pub fn leave(&mut self, tenant_id: &str, bytes: u64, since: Instant, now: Instant) {
        let Some(account) = self.tenants.get_mut(tenant_id) else { return };
        let Some(at) = account.entered.iter().position(|entered| *entered == since) else { return };
        account.entered.swap_remove(at);
        account.bytes = account.bytes.saturating_sub(bytes);
        account.seen = now;
        let took = now.saturating_duration_since(since);
        account.mean = Some(account.mean.map_or(took, |mean| (mean * INERTIA + took) / (INERTIA + 1)));
        self.objects -= 1;
    }

    fn account(&mut self, tenant_id: &str, now: Instant) -> &mut Account {
        if !self.tenants.contains_key(tenant_id) {
            self.tenants.insert(tenant_id.to_owned(), Account::new(now));
        }
        let account = self.tenants.get_mut(tenant_id).expect("it was there, or has just been inserted");
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
