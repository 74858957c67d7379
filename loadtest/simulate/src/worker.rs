//! The state of one worker: the messages in its room, its caches, and what it knows about accounts.

use std::collections::{HashMap, VecDeque};

use crate::{
    chance::Chance,
    clock::{SECOND, Time, in_seconds},
    cpu::Cpu,
    limit::Pace,
    room::Room,
    settings::{
        Fleet, INERTIA, MAX_MESSAGES, MAX_RETRY_DELAY, RETRY_TOKENS, SESSION_LIFE, SHORTEST_TURN, SLICE,
        SLOW, TENANT_TTL, UNITS, pace,
    },
    together::Together,
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
    /// Waits until a place comes free.
    Full,
    /// Waits for more room, but no longer than until this time.
    Gather(Time),
    /// Receives up to so many messages.
    Receive(usize),
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) number: u32,
    pub(crate) tenant: usize,
    pub(crate) units: usize,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    message: u32,
    tenant: usize,
    units: usize,
    since: Time,
}

/// Kinds of entries that objects write into the ledger together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Claim,
    End,
}

#[derive(Debug)]
pub(crate) struct Worker {
    room: Room,
    running: Vec<Running>,
    /// Messages that wait for room, the first first. Nothing is received meanwhile.
    ahead: VecDeque<Message>,
    /// Mean number of units of the latest messages.
    typical: f64,
    claims: Together,
    ends: Together,
    /// The worker has not started yet, or stops.
    pub(crate) takes_nothing: bool,
    /// A receive is open.
    pub(crate) receives: bool,
    /// Most messages of the open receive.
    pub(crate) asked: usize,
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
            room: Room::new(fleet.concurrency),
            running: Vec::new(),
            ahead: VecDeque::new(),
            typical: UNITS as f64,
            claims: Together::new(pace(fleet.concurrency)),
            ends: Together::new(pace(fleet.concurrency)),
            takes_nothing: true,
            receives: false,
            asked: 0,
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
        self.running.is_empty() && self.ahead.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn in_work(&self) -> usize {
        self.running.len()
    }

    /// Frees the memory of a worker that has ended.
    pub(crate) fn forget(&mut self) {
        (self.tenants, self.sessions) = (Cache::default(), Cache::default());
        (self.put_paces, self.creation_paces) = (HashMap::new(), HashMap::new());
    }

    pub(crate) fn together(&mut self, change: Change) -> &mut Together {
        match change {
            Change::Claim => &mut self.claims,
            Change::End => &mut self.ends,
        }
    }

    pub(crate) fn take_on(&mut self, message: Message) {
        self.typical = (self.typical * INERTIA + message.units as f64) / (INERTIA + 1.0);
        self.ahead.push_back(message);
    }

    /// Takes a place for the first message that waits, if there is room. The message has the place until [`Worker::leave`].
    pub(crate) fn admit(&mut self, now: Time) -> Option<(u32, usize)> {
        let Message { number, tenant, units } = *self.ahead.front()?;
        if self.running.len() == self.room.most_at_once() {
            return None;
        }
        let units = self.room.take(units)?;
        self.ahead.pop_front();
        self.running.push(Running { message: number, tenant, units, since: now });
        Some((number, units))
    }

    /// The receive loop of src/worker.rs: if there is room for few messages, it waits for more, unless the messages in work are
    /// slow.
    pub(crate) fn turn(&mut self, gather: Time, now: Time) -> Turn {
        let at_once = self.room.most_at_once() - self.running.len();
        let room = self.room.fits(self.room.free(), self.typical).min(at_once);
        if room == 0 || !self.ahead.is_empty() {
            return Turn::Full;
        }
        let slow = self.running.iter().filter(|running| now - running.since > SLOW);
        let slow: usize = slow.map(|running| running.units).sum();
        if room < MAX_MESSAGES.min(self.room.fits(self.room.total() - slow, self.typical) / 2) {
            let until = *self.gathers_until.get_or_insert(now + gather);
            if now < until {
                return Turn::Gather(until);
            }
        }
        self.gathers_until = None;
        Turn::Receive(room.min(MAX_MESSAGES))
    }

    /// Begins the work on the message that was admitted last, as src/fairness/book.rs does. `alone`: there are no other tenants.
    ///
    /// # Errors
    /// The tenant's share of the room is used up. The error is the time until the object's turn.
    pub(crate) fn enter(&mut self, alone: bool, now: Time) -> Result<(), Time> {
        let (own, others) = self.running.split_last().expect("a message was admitted");
        let tenant = own.tenant;
        let (mut held, mut units) = (0, 0);
        for other in others.iter().filter(|other| other.tenant == tenant) {
            (held, units) = (held + 1, units + other.units);
        }
        if held == 0 || alone || units < self.room.free() + own.units {
            return Ok(());
        }
        let place = self.mean_time / held as Time;
        let turn = self.turns.entry(tenant).or_default();
        *turn = ((*turn).max(now) + place).min(now + MAX_RETRY_DELAY);
        Err((*turn - now).max(SHORTEST_TURN))
    }

    /// Frees a message's place. Returns the number of its units, and the time that the message had it.
    pub(crate) fn leave(&mut self, message: u32, now: Time) -> (usize, Time) {
        let at = self.running.iter().position(|running| running.message == message);
        let running = self.running.swap_remove(at.expect("the message has a place"));
        self.room.give_back(running.units);
        let time = now - running.since;
        // `INERTIA` in src/fairness/book.rs.
        self.mean_time = (7 * self.mean_time + time) / 8;
        (running.units, time)
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

    /// A worker with messages of `units` units in work, each of another tenant.
    fn busy_with(slots: usize, running: u32, units: usize, since: Time) -> Worker {
        let mut worker = Worker::new(&Fleet { concurrency: slots, ..Fleet::shipped() });
        for number in 0..running {
            worker.take_on(Message { number, tenant: number as usize, units });
            worker.admit(since).expect("there is room");
        }
        worker
    }

    fn busy(slots: usize, running: u32, since: Time) -> Worker {
        busy_with(slots, running, UNITS, since)
    }

    #[test]
    fn a_receive_waits_for_ten_or_half_of_the_slots_that_are_not_slow() {
        let now = SECOND;
        for (slots, running, since, expected) in [
            (16, 0, now, Turn::Receive(10)),
            (16, 16, now, Turn::Full),
            (16, 8, now, Turn::Receive(8)),
            (16, 9, now, Turn::Gather(now + GATHER)),
            (16, 9, now - 201 * MILLISECOND, Turn::Receive(7)),
            (64, 54, now, Turn::Receive(10)),
            (64, 55, now, Turn::Gather(now + GATHER)),
            (8, 5, now, Turn::Gather(now + GATHER)),
            (8, 4, now, Turn::Receive(4)),
        ] {
            assert_eq!(busy(slots, running, since).turn(GATHER, now), expected, "{running} of {slots}");
        }
        let mut worker = busy(16, 15, now);
        assert_eq!(worker.turn(GATHER, now), Turn::Gather(now + GATHER));
        assert_eq!(worker.turn(GATHER, now + GATHER), Turn::Receive(1), "after 20 ms, any room is enough");
        assert_eq!(
            worker.turn(GATHER, now + GATHER),
            Turn::Gather(now + 2 * GATHER),
            "the next wait begins anew"
        );
    }

    #[test]
    fn a_receive_asks_for_what_probably_fits() {
        // The mean of the latest messages is near one unit. 120 units are shared.
        assert_eq!(busy_with(16, 100, 1, 0).turn(GATHER, 0), Turn::Receive(10));
        assert_eq!(busy_with(16, 116, 1, 0).turn(GATHER, 0), Turn::Gather(GATHER));
        assert_eq!(busy_with(16, 115, 1, 0).turn(0, 0), Turn::Receive(5), "four small ones and a slot");
        let mut worker = busy_with(16, 116, 1, 0);
        for (number, units) in [(200, 8), (201, 2), (202, 1)] {
            worker.take_on(Message { number, tenant: 0, units });
        }
        let admitted: Vec<_> = std::iter::from_fn(|| worker.admit(0)).collect();
        assert_eq!(admitted, [(200, 8), (201, 2), (202, 1)]);
    }

    #[test]
    fn nothing_is_received_while_a_message_waits_for_room() {
        let mut worker = busy(16, 15, 0);
        for number in [20, 21] {
            worker.take_on(Message { number, tenant: 0, units: 5 });
        }
        worker.typical = 1.0;
        assert_eq!((worker.admit(0), worker.admit(0)), (Some((20, 5)), None));
        assert_eq!(worker.turn(0, SECOND), Turn::Full, "three units are free");
        assert!(!worker.is_idle());
        worker.leave(3, SECOND);
        assert_eq!((worker.admit(SECOND), worker.turn(0, SECOND)), (Some((21, 5)), Turn::Receive(6)));
    }

    #[test]
    fn at_most_128_small_messages_are_in_work() {
        let mut worker = busy_with(64, 128, 1, 0);
        worker.take_on(Message { number: 200, tenant: 0, units: 1 });
        assert_eq!((worker.admit(0), worker.turn(0, 0)), (None, Turn::Full));
        worker.leave(0, 0);
        assert_eq!(worker.admit(0), Some((200, 1)));
    }

    /// Takes a message of this tenant and begins its work.
    fn enter(worker: &mut Worker, number: u32, tenant: usize, units: usize) -> Result<(), Time> {
        worker.take_on(Message { number, tenant, units });
        worker.admit(0).expect("there is room");
        worker.enter(false, 0)
    }

    #[test]
    fn a_busy_tenant_gets_half_of_the_room_and_the_rest_a_turn() {
        for (units, expected) in [(1, 64), (UNITS, 8)] {
            let mut worker = busy(16, 0, 0);
            let admitted = (0..100).find(|number| enter(&mut worker, *number, 7, units).is_err());
            assert_eq!(admitted, Some(expected), "of {units} units");
        }
        let mut worker = busy(16, 8, 0);
        let waits: Vec<_> = (20..24).map(|number| enter(&mut worker, number, 0, UNITS)).collect();
        assert_eq!(waits, [Ok(()), Ok(()), Ok(()), Ok(())], "eight slots are free");
        // The tenant has five objects that take a second each, so the turns are a fifth of a second apart.
        let refused: Vec<_> = (24..44)
            .map(|number| {
                let refused = enter(&mut worker, number, 0, UNITS);
                worker.leave(number, 0);
                worker.mean_time = SECOND;
                refused
            })
            .collect();
        assert_eq!(refused[..2], [Err(SECOND), Err(SECOND)], "the shortest wait");
        assert_eq!(refused[18..], [Err(19 * SECOND / 5), Err(20 * SECOND / 5)]);
        assert_eq!(worker.leave(20, 3 * SECOND), (UNITS, 3 * SECOND));
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
