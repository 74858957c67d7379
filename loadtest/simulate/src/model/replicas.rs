//! Replicas come and go.

use super::*;

impl Simulation {
    pub(super) fn scale(&mut self) {
        self.clock.after(SYNC, Event::Sync);
        if !self.scales {
            return;
        }
        let (current, messages) = (self.replicas.len(), self.queue.waiting() + self.queue.in_flight());
        let wanted = self.autoscaler.decide(current, messages, self.clock.now());
        if wanted > current {
            self.order(wanted - current);
        }
        for _ in wanted..current {
            self.retire();
        }
    }

    pub(super) fn order(&mut self, count: usize) {
        for _ in 0..count {
            let worker = self.workers.len() as u32;
            self.workers.push(Worker::new(&self.settings.fleet));
            self.replicas.push(worker);
            self.clock.after(POD_START, Event::Ready(worker));
        }
        self.recount();
    }

    pub(super) fn retire(&mut self) {
        let Some(worker) = self.replicas.pop() else { return };
        let own = &mut self.workers[worker as usize];
        own.takes_nothing = true;
        if self.queue.close(worker) {
            own.receives = false;
        }
        if own.is_idle() {
            own.forget();
        }
        self.recount();
    }

    pub(super) fn count_replicas(&mut self) {
        let replicas = self.replicas.len();
        self.outcome.ask(Scarce::Workers).level(replicas as f64);
        self.outcome.most_replicas = self.outcome.most_replicas.max(replicas);
        self.outcome.least_replicas = self.outcome.least_replicas.min(replicas);
    }

    /// Counts the replicas, and how long their caches keep what is not used.
    pub(super) fn recount(&mut self) {
        self.count_replicas();
        let rate = self.collector.rate / self.replicas.len().max(1) as f64;
        self.keep = kept_for(&self.shares, rate, self.settings.fleet.cache_capacity);
    }

    pub(super) fn ready(&mut self, worker: u32) {
        if self.replicas.contains(&worker) && self.workers[worker as usize].takes_nothing {
            self.workers[worker as usize].takes_nothing = false;
            self.turn(worker);
        }
    }

    pub(super) fn stop_all(&mut self) {
        self.scales = false;
        self.stopped = self.replicas.len();
        (0..self.stopped).for_each(|_| self.retire());
    }

    pub(super) fn start_again(&mut self) {
        self.scales = true;
        self.order(self.stopped);
    }
}
