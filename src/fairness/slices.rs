//! Decides which tenant has the processor next. No I/O; the length of a slice is an argument.
//!
//! **The order.** Each tenant has an account of the processor time that it has taken. The waiting tenant with the smallest
//! account goes first; among equals, the one that has waited longest. When a tenant comes back, its account is raised to the
//! level: the largest account among the tenants that have begun a slice. So a tenant cannot save time while it is away. A
//! tenant that needs little time waits only for the slices that run at that moment, however many other tenants are busy. The
//! rule is start-time fair queueing, which the Linux scheduler applies to processes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Processor time of all tenants, and the tasks that wait for it. `W` identifies a waiting task.
#[derive(Debug)]
pub(super) struct Slices<W> {
    /// Number of slices that may run at once. Interrupted slices that continue are not limited.
    at_once: usize,
    running: usize,
    /// The largest account among the tenants that have begun a slice.
    level: Duration,
    tenants: HashMap<Arc<str>, Account<W>>,
    /// Number of tasks that have waited so far. It gives each one a number in order of arrival.
    came: u64,
}

#[derive(Debug)]
struct Account<W> {
    taken: Duration,
    running: usize,
    waiting: VecDeque<(u64, W)>,
}

impl<W> Slices<W> {
    /// Starts with no slice running. `at_once` slices may run at once; 0 counts as 1.
    pub(super) fn new(at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self { at_once, running: 0, level: Duration::ZERO, tenants: HashMap::new(), came: 0 }
    }

    /// Begins a slice and returns true. Returns false if no more slices may run; then the caller must queue.
    pub(super) fn try_start(&mut self, tenant_id: &Arc<str>) -> bool {
        let begins = self.running < self.at_once;
        if begins {
            self.resume(tenant_id);
            let taken = self.account(tenant_id).taken;
            self.level = self.level.max(taken);
        }
        begins
    }

    /// Continues an interrupted slice, however many slices run, because the rest of a slice is short.
    pub(super) fn resume(&mut self, tenant_id: &Arc<str>) {
        self.running += 1;
        self.account(tenant_id).running += 1;
    }

    /// Adds a task to the tenant's queue. At least one slice must be running: the task is called when a slice ends.
    pub(super) fn queue(&mut self, tenant_id: &Arc<str>, waiter: W) {
        self.came += 1;
        let came = self.came;
        self.account(tenant_id).waiting.push_back((came, waiter));
    }

    /// Charges `time` to the tenant's account.
    pub(super) fn took(&mut self, tenant_id: &str, time: Duration) {
        if let Some(account) = self.tenants.get_mut(tenant_id) {
            account.taken += time;
        }
    }

    /// Begins another slice of a running task and returns true, unless another task is next: a task of another tenant whose
    /// account is not larger, or one of the same tenant if `turn_is_over`.
    pub(super) fn goes_on(&mut self, tenant_id: &str, turn_is_over: bool) -> bool {
        let Some(taken) = self.tenants.get(tenant_id).map(|own| own.taken) else { return false };
        let goes_first = |(id, other): (&Arc<str>, &Account<W>)| {
            let its_turn = if **id == *tenant_id { turn_is_over } else { other.taken <= taken };
            its_turn && !other.waiting.is_empty()
        };
        let goes_on = !self.tenants.iter().any(goes_first);
        if goes_on {
            self.level = self.level.max(taken);
        }
        goes_on
    }

    /// Ends a slice and begins the next one. Returns the next slice's tenant and task. If that task is gone, the caller must
    /// end its slice too.
    pub(super) fn end(&mut self, tenant_id: &str) -> Option<(Arc<str>, W)> {
        self.running -= 1;
        if let Some(account) = self.tenants.get_mut(tenant_id) {
            account.running -= 1;
        }
        if self.running >= self.at_once {
            return None;
        }
        let first = |account: &Account<W>| account.waiting.front().map(|(came, _)| (account.taken, *came));
        let waiting = self.tenants.iter_mut().filter_map(|(id, it)| Some((first(it)?, id, it)));
        let Some((_, id, account)) = waiting.min_by_key(|(first, ..)| *first) else {
            if self.running == 0 {
                // No task needs the processor, so the accounts no longer matter.
                self.tenants.clear();
            }
            return None;
        };
        let (_, waiter) = account.waiting.pop_front().expect("the chosen tenant's queue has a front");
        account.running += 1;
        self.running += 1;
        self.level = self.level.max(account.taken);
        Some((Arc::clone(id), waiter))
    }

    fn account(&mut self, tenant_id: &Arc<str>) -> &mut Account<W> {
        if !self.tenants.contains_key(tenant_id) {
            if self.tenants.len() == self.tenants.capacity() {
                // Before the table grows: forget idle tenants at or below the level, because they would begin at the level
                // anyway.
                let level = self.level;
                self.tenants.retain(|_, it| it.running > 0 || !it.waiting.is_empty() || it.taken > level);
            }
            let account = Account { taken: self.level, running: 0, waiting: VecDeque::new() };
            self.tenants.insert(Arc::clone(tenant_id), account);
        }
        let level = self.level;
        let account =
            self.tenants.get_mut(tenant_id).expect("the account was there, or has just been inserted");
        if account.running == 0 && account.waiting.is_empty() {
            account.taken = account.taken.max(level);
        }
        account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(1);

    fn id(name: &str) -> Arc<str> {
        name.into()
    }

    /// Ends a slice of this length.
    fn end<W>(book: &mut Slices<W>, tenant_id: &str, took: Duration) -> Option<(Arc<str>, W)> {
        book.took(tenant_id, took);
        book.end(tenant_id)
    }

    /// Runs `slices` slices for tenants whose tasks always need the processor. Returns the number of slices of each tenant.
    fn run(at_once: usize, greedy: &[(&str, usize)], slices: usize) -> HashMap<Arc<str>, usize> {
        let mut book = Slices::new(at_once);
        let mut running = VecDeque::new();
        for (name, tasks) in greedy {
            for _ in 0..*tasks {
                match book.try_start(&id(name)) {
                    true => running.push_back(id(name)),
                    false => book.queue(&id(name), ()),
                }
            }
        }
        let mut had: HashMap<_, usize> = HashMap::new();
        for slice in 0..slices {
            let ends = running.pop_front().expect("a task runs");
            *had.entry(Arc::clone(&ends)).or_default() += 1;
            book.took(&ends, SLICE);
            // In this test, a turn lasts ten slices.
            if book.goes_on(&ends, slice % 10 == 9) {
                running.push_back(ends);
                continue;
            }
            // The task queues again before the next one is chosen.
            book.queue(&ends, ());
            let (next, ()) = book.end(&ends).expect("a task waits");
            running.push_back(next);
        }
        had
    }

    #[test]
    fn tenants_get_equal_time_however_many_tasks_they_have() {
        for at_once in [1, 2] {
            let had = run(at_once, &[("a", 24), ("b", 2), ("c", 3)], 300);
            for name in ["a", "b", "c"] {
                assert!((98..=102).contains(&had[name]), "{at_once} at once: {had:?}");
            }
        }
    }

    #[test]
    fn a_tenant_that_needs_little_waits_only_for_the_running_slices() {
        let mut book = Slices::new(2);
        for _ in 0..24 {
            if !book.try_start(&id("greedy")) {
                book.queue(&id("greedy"), "greedy");
            }
        }
        for _ in 0..100 {
            assert!(!book.try_start(&id("small")));
            book.queue(&id("small"), "small");
            book.took("greedy", SLICE);
            assert!(!book.goes_on("greedy", false), "the small tenant's account is smaller");
            book.queue(&id("greedy"), "greedy");
            let (next, waiter) = book.end("greedy").expect("a task waits");
            assert_eq!((next.as_ref(), waiter), ("small", "small"));
            let (next, _) = end(&mut book, "small", SLICE / 100).expect("a task waits");
            assert_eq!(next.as_ref(), "greedy");
            // Meanwhile, the greedy tenant gets more time.
            for _ in 0..10 {
                book.took("greedy", SLICE);
                assert!(book.goes_on("greedy", false), "only its own tasks wait");
            }
        }
    }

    #[test]
    fn a_tenant_s_own_objects_take_turns() {
        let mut book = Slices::new(1);
        assert!(book.try_start(&id("acme")));
        assert!(book.goes_on("acme", true), "no task waits");
        book.queue(&id("acme"), "second");
        assert!(book.goes_on("acme", false));
        assert!(!book.goes_on("acme", true));
        book.queue(&id("acme"), "first");
        assert_eq!(end(&mut book, "acme", SLICE).map(|(_, waiter)| waiter), Some("second"));
    }

    #[test]
    fn a_tenant_saves_no_time_while_it_is_away() {
        let mut book = Slices::new(1);
        assert!(book.try_start(&id("old")), "no task runs");
        for _ in 0..1000 {
            book.took("old", SLICE);
            assert!(book.goes_on("old", true), "no task waits");
        }
        book.queue(&id("old"), ());
        book.took("old", SLICE);
        // New tenants begin at the old one's level, not at zero. After one slice each, it is the old one's turn again.
        for name in ["new", "newer"] {
            for _ in 0..50 {
                assert!(!book.try_start(&id(name)));
                book.queue(&id(name), ());
            }
        }
        let order: Vec<_> = {
            let mut running = "old".to_owned();
            std::iter::repeat_with(|| {
                let (next, ()) = book.end(&running).expect("a task waits");
                running = next.to_string();
                book.took(&running, SLICE);
                running.clone()
            })
            .take(3)
            .collect()
        };
        assert_eq!(order, ["new", "newer", "old"]);
    }

    #[test]
    fn accounts_of_idle_tenants_are_forgotten() {
        let mut book: Slices<()> = Slices::new(2);
        assert!(book.try_start(&id("there")), "no task runs");
        for n in 0..10_000 {
            let visitor = format!("visitor-{n}");
            assert!(book.try_start(&id(&visitor)), "one is free");
            assert_eq!(end(&mut book, &visitor, SLICE), None);
            if n % 100 == 0 {
                // A busy tenant's slices raise the level.
                book.took("there", SLICE);
                assert!(book.goes_on("there", true), "no task waits");
            }
        }
        assert!(book.tenants.len() < 500, "{}", book.tenants.len());
    }
}
