//! Which tenant has the processor next. Pure: what a slice took comes in as an argument.
//!
//! **The order.** Every tenant has an account of the processor time that it took. Of those who wait, the one that took least
//! goes first, and among equals the one that waits longest. A tenant that was away begins level with whoever runs now: it
//! neither has saved time up nor pays for what others took meanwhile. (Start-time fair queueing; what the Linux scheduler
//! does among processes.) So beside any number of busy tenants one that wants little waits for the slices that run at that
//! moment, and no longer.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Every tenant's processor time, and who waits for some. `W` is the waiter's address.
#[derive(Debug)]
pub(super) struct Slices<W> {
    /// How many may run at once.
    at_once: usize,
    free: usize,
    /// What the tenant that began last had taken by then.
    level: Duration,
    tenants: HashMap<Arc<str>, Account<W>>,
    /// Waiters so far, to tell who came first.
    came: u64,
}

#[derive(Debug)]
struct Account<W> {
    taken: Duration,
    running: usize,
    waiting: VecDeque<(u64, W)>,
}

impl<W> Slices<W> {
    /// Nobody runs yet; `at_once` slices may, one at least.
    pub(super) fn new(at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self { at_once, free: at_once, level: Duration::ZERO, tenants: HashMap::new(), came: 0 }
    }

    /// Begins a slice.
    ///
    /// # Errors
    /// As many run as may. The waiter is queued.
    pub(super) fn begin(&mut self, tenant_id: &Arc<str>, waiter: W) -> Result<(), Waiting> {
        if self.free == 0 {
            self.queue(tenant_id, waiter);
            return Err(Waiting);
        }
        let account = self.account(tenant_id);
        account.running += 1;
        let taken = account.taken;
        self.level = self.level.max(taken);
        self.free -= 1;
        Ok(())
    }

    /// Queues a waiter while others run, one of whom will call it as it ends.
    pub(super) fn queue(&mut self, tenant_id: &Arc<str>, waiter: W) {
        self.came += 1;
        let came = self.came;
        self.account(tenant_id).waiting.push_back((came, waiter));
    }

    /// Ends a slice that took so long, and begins the next one: of that tenant, for that waiter. A waiter that is gone ends
    /// it at once.
    pub(super) fn end(&mut self, tenant_id: &str, took: Duration) -> Option<(Arc<str>, W)> {
        if let Some(account) = self.tenants.get_mut(tenant_id) {
            account.running -= 1;
            account.taken += took;
        }
        let first = |account: &Account<W>| account.waiting.front().map(|(came, _)| (account.taken, *came));
        let waiting = self.tenants.iter_mut().filter_map(|(id, it)| Some((first(it)?, id, it)));
        let Some((_, id, account)) = waiting.min_by_key(|(first, ..)| *first) else {
            self.free += 1;
            if self.free == self.at_once {
                // Nobody wants the processor: nobody is ahead of anybody.
                self.tenants.clear();
            }
            return None;
        };
        let (_, waiter) = account.waiting.pop_front().expect("its front was looked at");
        account.running += 1;
        self.level = self.level.max(account.taken);
        Some((Arc::clone(id), waiter))
    }

    fn account(&mut self, tenant_id: &Arc<str>) -> &mut Account<W> {
        if !self.tenants.contains_key(tenant_id) {
            if self.tenants.len() == self.tenants.capacity() {
                // Before the table grows: who is not ahead of the level is as good as new.
                let level = self.level;
                self.tenants.retain(|_, it| it.running > 0 || !it.waiting.is_empty() || it.taken > level);
            }
            let account = Account { taken: self.level, running: 0, waiting: VecDeque::new() };
            self.tenants.insert(Arc::clone(tenant_id), account);
        }
        let level = self.level;
        let account = self.tenants.get_mut(tenant_id).expect("it was there, or has just been inserted");
        if account.running == 0 && account.waiting.is_empty() {
            account.taken = account.taken.max(level);
        }
        account
    }
}

/// As many slices run as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting;

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(1);

    fn id(name: &str) -> Arc<str> {
        name.into()
    }

    /// Tenants who want the processor all the time, in so many tasks each; says what each had after so many slices.
    fn run(at_once: usize, greedy: &[(&str, usize)], slices: usize) -> HashMap<Arc<str>, usize> {
        let mut book = Slices::new(at_once);
        let mut running = VecDeque::new();
        for (name, tasks) in greedy {
            for _ in 0..*tasks {
                if book.begin(&id(name), ()).is_ok() {
                    running.push_back(id(name));
                }
            }
        }
        let mut had: HashMap<_, usize> = HashMap::new();
        for _ in 0..slices {
            let ends = running.pop_front().expect("somebody runs");
            *had.entry(Arc::clone(&ends)).or_default() += 1;
            // It comes again before the next one is chosen, and after.
            let again = book.begin(&ends, ());
            assert_eq!(again, Err(Waiting));
            let (next, ()) = book.end(&ends, SLICE).expect("somebody waits");
            running.push_back(next);
        }
        had
    }

    #[test]
    fn tenants_share_alike_however_many_tasks_they_have() {
        for at_once in [1, 2] {
            let had = run(at_once, &[("a", 24), ("b", 2), ("c", 3)], 300);
            for name in ["a", "b", "c"] {
                assert!((99..=101).contains(&had[name]), "{at_once} at once: {had:?}");
            }
        }
    }

    #[test]
    fn who_wants_little_waits_for_what_runs_and_no_longer() {
        let mut book = Slices::new(2);
        for _ in 0..24 {
            let _ = book.begin(&id("greedy"), "greedy");
        }
        for _ in 0..100 {
            assert_eq!(book.begin(&id("small"), "small"), Err(Waiting));
            let (next, waiter) = book.end("greedy", SLICE).expect("somebody waits");
            assert_eq!((next.as_ref(), waiter), ("small", "small"), "its account is the smaller one");
            let (next, _) = book.end("small", SLICE / 100).expect("somebody waits");
            assert_eq!(next.as_ref(), "greedy");
            // Meanwhile the greedy one has more of it.
            assert_eq!(book.begin(&id("greedy"), "greedy"), Err(Waiting));
            for _ in 0..10 {
                assert_eq!(book.begin(&id("greedy"), "greedy"), Err(Waiting));
                assert_eq!(book.end("greedy", SLICE).map(|(_, waiter)| waiter), Some("greedy"));
            }
        }
    }

    #[test]
    fn nobody_saves_up_while_away() {
        let mut book = Slices::new(1);
        book.begin(&id("old"), ()).expect("nobody runs");
        for _ in 0..2 {
            assert_eq!(book.begin(&id("old"), ()), Err(Waiting));
        }
        book.end("old", 1000 * SLICE).expect("it waits");
        // New ones begin where the old one is, not at nothing: after one slice it is the old one's turn again.
        for name in ["new", "newer"] {
            for _ in 0..50 {
                assert_eq!(book.begin(&id(name), ()), Err(Waiting));
            }
        }
        let order: Vec<_> = {
            let mut running = "old".to_owned();
            std::iter::repeat_with(|| {
                let (next, ()) = book.end(&running, SLICE).expect("somebody waits");
                running = next.to_string();
                running.clone()
            })
            .take(3)
            .collect()
        };
        assert_eq!(order, ["new", "newer", "old"]);
    }

    #[test]
    fn accounts_of_those_who_are_gone_do_not_pile_up() {
        let mut book = Slices::new(2);
        book.begin(&id("there"), ()).expect("nobody runs");
        for n in 0..10_000 {
            let visitor = format!("visitor-{n}");
            book.begin(&id(&visitor), ()).expect("one is free");
            assert_eq!(book.end(&visitor, SLICE), None);
            if n % 100 == 0 {
                // A busy tenant's slices move the level on.
                assert_eq!(book.end("there", SLICE), None, "nobody waits");
                book.begin(&id("there"), ()).expect("one is free");
            }
        }
        assert!(book.tenants.len() < 500, "{}", book.tenants.len());
    }
}
