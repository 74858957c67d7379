//! Writes to the ledger: in calls of one object, and in calls that objects share.

use super::*;

impl Simulation {
    /// Asks the ledger's table for a write. Returns whether the table takes the write.
    pub(super) fn ask_ledger(&mut self) -> bool {
        let now = self.clock.now();
        self.outcome.ask(Scarce::LedgerWrites).ask(WRITE_UNITS, now);
        let takes = self.aws.write_ledger(&mut self.chance, now);
        self.outcome.ask(Scarce::LedgerWrites).refused += u64::from(!takes);
        takes
    }

    /// Makes a call to the ledger for one object.
    pub(super) fn write_ledger(&mut self, number: u32, next: Stage) {
        if self.ask_ledger() {
            return self.answered(number, Client::Ledger, next, 0.0);
        }
        if !self.retries(number, Client::Ledger, LEDGER_ATTEMPTS, LEDGER_FIRST_PAUSE) {
            self.ledger_throttles(number);
        }
    }

    /// Writes an entry in a call that objects of the worker share.
    pub(super) fn write_together(&mut self, number: u32, change: Change) {
        let (now, worker) = (self.clock.now(), self.objects[number as usize].worker);
        match self.workers[worker as usize].together(change).add(number, now) {
            Call::Now => self.call_together(worker, change),
            Call::At(at) => self.clock.at(at, Event::Together(worker, change)),
            Call::Joined => {}
        }
    }

    pub(super) fn together_is_due(&mut self, worker: u32, change: Change) {
        if self.workers[worker as usize].together(change).is_due(self.clock.now()) {
            self.call_together(worker, change);
        }
    }

    /// Makes a call with the entries of several objects. Each is written or throttled by itself.
    pub(super) fn call_together(&mut self, worker: u32, change: Change) {
        let mut entries = self.workers[worker as usize].together(change).call(self.clock.now());
        entries.retain(|number| {
            let takes = self.ask_ledger();
            if !takes {
                self.ledger_throttles(*number);
            }
            takes
        });
        let latency = match &self.settings.place {
            Place::Region(latencies) => {
                let of_entry = |_: &u32| self.chance.around(latencies.dynamodb, latencies.spread);
                entries.iter().map(of_entry).max()
            }
            Place::Loopback(_) => None,
        };
        let call = match self.free_calls.pop() {
            Some(call) => {
                self.calls[call as usize] = entries;
                call
            }
            None => {
                self.calls.push(entries);
                (self.calls.len() - 1) as u32
            }
        };
        match self.settings.place {
            Place::Region(_) => self.clock.after(latency.unwrap_or_default(), Event::Written(call)),
            Place::Loopback(loopback) => self.compute(MACHINE, Task::Together(call), loopback.call),
        }
    }

    /// Objects go on after their entries were written.
    pub(super) fn written(&mut self, call: u32) {
        for number in std::mem::take(&mut self.calls[call as usize]) {
            let object = &mut self.objects[number as usize];
            let next = match object.stage {
                Stage::Finish => Stage::Finished,
                // An INSERT fails if there is an entry, and then an UpdateItem takes the lease.
                _ if std::mem::replace(&mut object.has_entry, true) => Stage::Reclaim,
                _ => Stage::Enter,
            };
            self.go(number, next);
        }
        self.free_calls.push(call);
    }

    /// While the ledger throttles, a call is repeated for ten seconds (`Guarded::patiently` in src/ledger/claim.rs). Then the
    /// message of a claim waits, and an object that is delivered stays without its end.
    pub(super) fn ledger_throttles(&mut self, number: u32) {
        let object = &mut self.objects[number as usize];
        if self.clock.now() - object.since < LEDGER_PATIENCE {
            object.tries = 0;
            return self.clock.after(LEDGER_PAUSE, Event::Step(number));
        }
        match object.stage {
            Stage::Finish => self.go(number, Stage::Finished),
            _ => self.fail(number, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Fleet, Latencies, Load, Quotas};

    fn simulation(quotas: Quotas) -> Simulation {
        let (load, fleet) = (Load::of(1000), Fleet { daily_streams: false, ..Fleet::shipped() });
        let place = Place::Region(Latencies::in_region(1.0));
        Simulation::new(Settings { load, fleet, quotas, place }, 1, 1)
    }

    /// Write units that one object asks for.
    fn writes(bytes: f64, has_entry: bool) -> f64 {
        let mut simulation = simulation(Quotas::none());
        simulation.add_backlog(1, bytes);
        simulation.objects[0].has_entry = has_entry;
        simulation.drain().meter(Scarce::LedgerWrites).asked
    }

    #[test]
    fn an_object_writes_its_claim_and_its_end() {
        assert_eq!(writes(40e3, false), 2.0);
        assert_eq!(writes(2.0 * JSON_PER_PUT, false), 3.0, "and its progress after each further batch");
        assert_eq!(writes(40e3, true), 3.0, "the INSERT fails, and an UpdateItem takes the lease");
    }

    #[test]
    fn a_shared_call_takes_as_long_as_its_slowest_entry() {
        let Latencies { dynamodb, spread, .. } = Latencies::in_region(1.0);
        let (mut found, mut expected) = (0, 0);
        let mut chance = Chance::new(7);
        for seed in 0..500 {
            let mut simulation = simulation(Quotas::none());
            simulation.chance = Chance::new(seed);
            for number in 0..20 {
                simulation.workers[0].together(Change::Claim).add(number, 0);
            }
            simulation.call_together(0, Change::Claim);
            while !matches!(simulation.clock.next_before(SECOND), Some(Event::Written(0))) {}
            found += simulation.clock.now();
            expected += (0..20).map(|_| chance.around(dynamodb, spread)).max().unwrap_or_default();
        }
        assert!((found as f64 / expected as f64 - 1.0).abs() < 0.05, "{found} instead of {expected}");
    }

    #[test]
    fn while_the_table_throttles_claims_are_repeated_and_their_messages_come_again() {
        let mut simulation = simulation(Quotas { ledger_writes: 5.0, ..Quotas::none() });
        simulation.add_backlog(200, 40e3);
        let outcome = simulation.drain();
        assert_eq!(outcome.latency.total(), 200);
        assert!(outcome.meter(Scarce::LedgerWrites).refused > 200 && outcome.retried > 20);
        // 50 units are saved. After that the table takes five a second.
        assert!(outcome.seconds > (400.0 - 50.0) / 5.0 / 2.0, "{}", outcome.seconds);
    }

    #[test]
    fn an_object_whose_end_is_throttled_for_ten_seconds_is_done() {
        let mut simulation = simulation(Quotas { ledger_writes: 1.0, ..Quotas::none() });
        simulation.add_backlog(1, 40e3);
        let begun = simulation.clock.now();
        while simulation.free.is_empty() {
            if simulation.objects[0].stage == Stage::Finish {
                while simulation.aws.write_ledger(&mut simulation.chance, simulation.clock.now()) {}
            }
            let event = simulation.clock.next_before(Time::MAX).expect("the object goes on");
            simulation.happen(event);
        }
        let waited = in_seconds(simulation.clock.now() - begun);
        assert!((10.0..11.0).contains(&waited), "{waited}");
        assert_eq!(simulation.outcome.retried, 0);
    }
}
