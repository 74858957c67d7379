//! The state of one worker: its slots, its caches, and what it knows about accounts.

use std::collections::HashMap;

use crate::{
    chance::Chance,
    clock::{SECOND, Time, in_seconds},
    cpu::Cpu,
    limit::Pace,
    settings::{
        Fleet, MAX_MESSAGES, MAX_RETRY_DELAY, RETRY_TOKENS, SESSION_LIFE, SHORTEST_TURN, SLICE, SLOW,
        TENANT_TTL,
    },
};

/// A client with retry tokens of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    S3,
    Sts,
    Tenants,
    Ledger,
    /// The client of one customer's account. Its tokens are not counted, because every account has its own.
    Account,
}

/// Something that one call fetches for all objects of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shared {
    Tenant,
    Session,
}

/// What the receive loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Waits until a slot comes free.
    Full,
    /// Waits for more free slots, but no longer than until this time.
    Gather(Time),
    /// Receives as many messages as it has free slots.
    Receive,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    message: u32,
    tenant: usize,
    since: Time,
}

#[derive(Debug)]
pub(crate) struct Worker {
    slots: usize,
    running: Vec<Running>,
    /// The worker has not started yet, or stops.
    pub(crate) takes_nothing: bool,
    /// A receive is open.
    pub(crate) receives: bool,
    /// Messages of the answer that is on its way.
    pub(crate) incoming: Vec<u32>,
    /// Finished messages that are not deleted yet.
    pub(crate) deletes: usize,
    /// Messages that are hidden until their retry.
    pub(crate) hidden: usize,
    pub(crate) cpu: Cpu<crate::model::Task>,
    gathers_until: Option<Time>,
    tenants: Cache,
    sessions: Cache,
    /// Calls for something shared that are under way, and the messages that wait for them.
    pub(crate) flights: HashMap<(Shared, usize), Vec<u32>>,
    /// Roles for which STS is left alone until this time.
    pub(crate) sts_holds: HashMap<usize, Time>,
    /// Accounts that throttle: they are left alone until the time, and the length of that pause.
    pub(crate) pauses: HashMap<usize, (Time, Time)>,
    pub(crate) put_paces: HashMap<usize, Pace>,
    pub(crate) creation_paces: HashMap<usize, Pace>,
    /// End of each tenant's virtual queue.
    turns: HashMap<usize, Time>,
    mean_time: Time,
    tokens: [f64; 4],
}

impl Worker {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        Self {
            slots: fleet.concurrency,
            running: Vec::new(),
            takes_nothing: true,
            receives: false,
            incoming: Vec::new(),
            deletes: 0,
            hidden: 0,
            cpu: Cpu::new(fleet.cores, SLICE),
            gathers_until: None,
            tenants: Cache::default(),
            sessions: Cache::default(),
            flights: HashMap::new(),
            sts_holds: HashMap::new(),
            pauses: HashMap::new(),
            put_paces: HashMap::new(),
            creation_paces: HashMap::new(),
            turns: HashMap::new(),
            mean_time: SECOND,
            tokens: [RETRY_TOKENS; 4],
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Frees the memory of a worker that has ended.
    pub(crate) fn forget(&mut self) {
        (self.tenants, self.sessions) = (Cache::default(), Cache::default());
        (self.put_paces, self.creation_paces) = (HashMap::new(), HashMap::new());
    }

    pub(crate) fn room(&self) -> usize {
        self.slots - self.running.len()
    }

    /// The receive loop of src/worker.rs: if few slots are free, it waits for more, unless the busy ones are slow.
    pub(crate) fn turn(&mut self, gather: Time, now: Time) -> Turn {
        let room = self.room();
        if room == 0 {
            return Turn::Full;
        }
        let slow = self.running.iter().filter(|running| now - running.since > SLOW).count();
        if room < MAX_MESSAGES.min((self.slots - slow) / 2) {
            let until = *self.gathers_until.get_or_insert(now + gather);
            if now < until {
                return Turn::Gather(until);
            }
        }
        self.gathers_until = None;
        Turn::Receive
    }

    /// Takes a message into a slot, as src/fairness/book.rs does. `alone`: there are no other tenants.
    ///
    /// # Errors
    /// The tenant's share of the slots is used up. The error is the time until the object's turn. The message has a slot all the
    /// same until [`Worker::leave`].
    pub(crate) fn enter(&mut self, message: u32, tenant: usize, alone: bool, now: Time) -> Result<(), Time> {
        let free = self.room();
        let held = self.running.iter().filter(|running| running.tenant == tenant).count();
        self.running.push(Running { message, tenant, since: now });
        if held == 0 || alone || held < free {
            return Ok(());
        }
        let place = self.mean_time / held as Time;
        let turn = self.turns.entry(tenant).or_default();
        *turn = ((*turn).max(now) + place).min(now + MAX_RETRY_DELAY);
        Err((*turn - now).max(SHORTEST_TURN))
    }

    /// Frees a message's slot. Returns the time that the message had it.
    pub(crate) fn leave(&mut self, message: u32, now: Time) -> Time {
        let at = self.running.iter().position(|running| running.message == message);
        let running = self.running.swap_remove(at.expect("the message has a slot"));
        let time = now - running.since;
        // `INERTIA` in src/fairness/book.rs.
        self.mean_time = (7 * self.mean_time + time) / 8;
        time
    }

    fn cache(&mut self, shared: Shared) -> &mut Cache {
        match shared {
            Shared::Tenant => &mut self.tenants,
            Shared::Session => &mut self.sessions,
        }
    }

    /// Whether the worker has a tenant's rows or session. What was not used for `keep` has been evicted.
    pub(crate) fn has(&mut self, shared: Shared, tenant: usize, keep: Time, now: Time) -> bool {
        self.cache(shared).has(tenant, keep, now)
    }

    pub(crate) fn remember(&mut self, shared: Shared, tenant: usize, tenants: usize, now: Time) {
        self.cache(shared).remember(tenant, tenants, now + life(shared), now);
    }

    /// Fills the caches as they are after hours at `rate` objects per second.
    pub(crate) fn warm_up(&mut self, shares: &[f64], rate: f64, keep: Time, chance: &mut Chance, now: Time) {
        for shared in [Shared::Tenant, Shared::Session] {
            let life = life(shared);
            for (tenant, share) in shares.iter().enumerate() {
                let asked = rate * share;
                let in_life = asked * in_seconds(life);
                // An entry lives for `life`, then the tenant's next object renews it.
                let fresh = in_life / (1.0 + in_life);
                let kept = 1.0 - (-asked * in_seconds(keep)).exp();
                if chance.fraction() < fresh * kept {
                    let until = now + (chance.fraction() * life as f64) as Time;
                    self.cache(shared).remember(tenant, shares.len(), until, now);
                }
            }
        }
    }

    /// Pays for a retry. Returns false if the client has too few tokens.
    pub(crate) fn pay(&mut self, client: Client, cost: f64) -> bool {
        let Some(tokens) = self.tokens.get_mut(client as usize) else { return true };
        let enough = *tokens >= cost;
        if enough {
            *tokens -= cost;
        }
        enough
    }

    pub(crate) fn refund(&mut self, client: Client, tokens: f64) {
        let Some(all) = self.tokens.get_mut(client as usize) else { return };
        *all = (*all + tokens).min(RETRY_TOKENS);
    }
}

fn life(shared: Shared) -> Time {
    match shared {
        Shared::Tenant => TENANT_TTL,
        Shared::Session => SESSION_LIFE,
    }
}

/// For each tenant, the seconds until which its entry is fresh and in which the entry was used last.
#[derive(Debug, Default)]
struct Cache(Vec<(u16, u16)>);

impl Cache {
    fn has(&mut self, tenant: usize, keep: Time, now: Time) -> bool {
        let second = (now / SECOND) as u16;
        let Some((until, used)) = self.0.get_mut(tenant) else { return false };
        let has = *until > second && Time::from(second - *used) * SECOND <= keep;
        if has {
            *used = second;
        }
        has
    }

    fn remember(&mut self, tenant: usize, tenants: usize, until: Time, now: Time) {
        self.0.resize(tenants, (0, 0));
        self.0[tenant] = (until.div_ceil(SECOND) as u16, (now / SECOND) as u16);
    }
}

/// How long a cache that evicts the least recently used entry keeps an entry that is not used again: Che's approximation.
/// `rate` is the number of objects per second. Source: Che, Tung and Wang, "Hierarchical Web caching systems" (2002).
pub(crate) fn kept_for(shares: &[f64], rate: f64, capacity: usize) -> Time {
    if shares.len() <= capacity {
        return Time::MAX;
    }
    let entries = |time: f64| -> f64 { shares.iter().map(|share| 1.0 - (-rate * share * time).exp()).sum() };
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if entries(middle) < capacity as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    crate::clock::seconds(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::MILLISECOND, settings::GATHER};

    fn busy(slots: usize, running: u32, since: Time) -> Worker {
        let mut worker = Worker::new(&Fleet { concurrency: slots, ..Fleet::shipped() });
        for message in 0..running {
            worker.running.push(Running { message, tenant: message as usize, since });
        }
        worker
    }

    #[test]
    fn a_receive_waits_for_ten_or_half_of_the_slots_that_are_not_slow() {
        let now = SECOND;
        for (slots, running, since, expected) in [
            (16, 0, now, Turn::Receive),
            (16, 16, now, Turn::Full),
            (16, 8, now, Turn::Receive),
            (16, 9, now, Turn::Gather(now + GATHER)),
            (16, 9, now - 201 * MILLISECOND, Turn::Receive),
            (64, 54, now, Turn::Receive),
            (64, 55, now, Turn::Gather(now + GATHER)),
            (8, 5, now, Turn::Gather(now + GATHER)),
            (8, 4, now, Turn::Receive),
        ] {
            assert_eq!(busy(slots, running, since).turn(GATHER, now), expected, "{running} of {slots}");
        }
        let mut worker = busy(16, 15, now);
        assert_eq!(worker.turn(GATHER, now), Turn::Gather(now + GATHER));
        assert_eq!(worker.turn(GATHER, now + GATHER), Turn::Receive, "after 20 ms, any slot is enough");
        assert_eq!(
            worker.turn(GATHER, now + GATHER),
            Turn::Gather(now + 2 * GATHER),
            "the next wait begins anew"
        );
    }

    #[test]
    fn a_busy_tenant_gets_half_of_the_slots_and_the_rest_a_turn() {
        let mut worker = busy(16, 0, 0);
        let admitted = (0..16).filter(|message| worker.enter(*message, 7, false, 0).is_ok()).count();
        assert_eq!(admitted, 8);
        let mut worker = busy(16, 8, 0);
        let waits: Vec<_> = (20..24).map(|message| worker.enter(message, 0, false, 0)).collect();
        assert_eq!(waits, [Ok(()), Ok(()), Ok(()), Ok(())], "eight slots are free");
        // The tenant has four objects that take a second each, so the turns are a quarter of a second apart.
        let refused: Vec<_> = (24..44)
            .map(|message| {
                let refused = worker.enter(message, 0, false, 0);
                worker.leave(message, 0);
                worker.mean_time = SECOND;
                refused
            })
            .collect();
        assert_eq!(refused[..2], [Err(SECOND), Err(SECOND)], "the shortest wait");
        assert_eq!(refused[18..], [Err(19 * SECOND / 5), Err(20 * SECOND / 5)]);
        assert_eq!(worker.leave(20, 3 * SECOND), 3 * SECOND);
    }

    #[test]
    fn entries_are_fresh_for_their_life_and_kept_while_they_are_used() {
        let (mut worker, keep) = (busy(1, 0, 0), 100 * SECOND);
        let start = 10 * SECOND;
        worker.remember(Shared::Tenant, 3, 5, start);
        for (second, expected) in [(10, true), (100, true), (190, true), (309, false)] {
            assert_eq!(worker.has(Shared::Tenant, 3, keep, second * SECOND), expected, "at {second} s");
        }
        worker.remember(Shared::Tenant, 3, 5, start);
        assert!(worker.has(Shared::Tenant, 3, Time::MAX, 309 * SECOND));
        assert!(!worker.has(Shared::Tenant, 3, Time::MAX, 310 * SECOND), "the rows are too old");
        assert!(!worker.has(Shared::Tenant, 4, keep, start) && !worker.has(Shared::Session, 3, keep, start));
    }

    #[test]
    fn a_warm_cache_has_what_the_formula_says() {
        let shares = vec![1e-3; 1000];
        let mut worker = busy(1, 0, 0);
        worker.warm_up(&shares, 10.0, Time::MAX, &mut Chance::new(1), SECOND);
        // An object per 100 s of each tenant: rows are fresh for 300 of 400 s.
        let fresh = (0..1000).filter(|tenant| worker.has(Shared::Tenant, *tenant, Time::MAX, SECOND)).count();
        assert!((710..790).contains(&fresh), "{fresh}");
    }

    /// Against a cache that really evicts the least recently used entry.
    #[test]
    fn entries_are_kept_as_long_as_in_an_lru_cache() {
        let load = crate::settings::Load { skew: 0.8, ..crate::settings::Load::of(4000) };
        let (shares, capacity, rate) = (crate::collector::shares(&load), 500, 100.0);
        let weighted = crate::chance::Weighted::new(&shares);
        let mut chance = Chance::new(5);
        let (mut order, mut hits, mut asked) = (std::collections::VecDeque::<usize>::new(), 0, 0);
        for turn in 0..60_000 {
            let tenant = weighted.choose(&mut chance);
            let at = order.iter().position(|cached| *cached == tenant);
            if turn > 10_000 {
                asked += 1;
                hits += usize::from(at.is_some());
            }
            at.map(|at| order.remove(at));
            order.push_front(tenant);
            order.truncate(capacity);
        }
        let keep = in_seconds(kept_for(&shares, rate, capacity));
        let expected: f64 = shares.iter().map(|share| share * (1.0 - (-rate * share * keep).exp())).sum();
        let found = hits as f64 / f64::from(asked);
        assert!((found / expected - 1.0).abs() < 0.03, "{found} instead of {expected}");
        assert_eq!(kept_for(&shares, rate, 2000), Time::MAX);
    }

    #[test]
    fn retries_cost_tokens() {
        let mut worker = busy(1, 0, 0);
        assert_eq!((0..200).filter(|_| worker.pay(Client::Sts, 5.0)).count(), 100);
        assert!(worker.pay(Client::S3, 5.0), "each client has tokens of its own");
        worker.refund(Client::Sts, 5.0);
        assert!(worker.pay(Client::Sts, 5.0) && !worker.pay(Client::Sts, 5.0));
    }
}
