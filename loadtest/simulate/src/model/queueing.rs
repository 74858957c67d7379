//! Between the queue and the places in a worker's room: the receive loop, and what becomes of a message afterwards.

use super::*;

impl Simulation {
    pub(super) fn turn(&mut self, number: u32) {
        while let Some((message, units)) = self.workers[number as usize].admit(self.clock.now()) {
            self.start(message, number, units);
        }
        let worker = &mut self.workers[number as usize];
        if worker.receives || worker.takes_nothing {
            return;
        }
        match worker.turn(GATHER, self.clock.now()) {
            Turn::Full => {}
            Turn::Gather(until) => self.clock.at(until, Event::Turn(number)),
            Turn::Receive(most) => {
                (worker.receives, worker.asked) = (true, most);
                self.queue.poll(number);
                self.wake();
            }
        }
    }

    pub(super) fn receive(&mut self, number: u32) {
        let worker = &mut self.workers[number as usize];
        self.queue.receive(worker.asked, &mut worker.incoming);
        self.outcome.ask(Scarce::InFlight).level(self.queue.in_flight() as f64);
        match &self.settings.place {
            Place::Region(latencies) => {
                let latency = self.chance.around(latencies.receive, latencies.spread);
                self.clock.after(latency, Event::Received(number));
            }
            Place::Loopback(loopback) => self.compute(MACHINE, Task::Receive(number), loopback.call),
        }
    }

    pub(super) fn received(&mut self, number: u32) {
        let worker = &mut self.workers[number as usize];
        worker.receives = false;
        let mut messages = std::mem::take(&mut worker.incoming);
        for number in messages.drain(..) {
            let Object { tenant, bytes, .. } = self.objects[number as usize];
            worker.take_on(Message { number, tenant, units: units(bytes) });
        }
        // The allocation is used again.
        worker.incoming = messages;
        self.turn(number);
    }

    pub(super) fn start(&mut self, number: u32, worker: u32, units: usize) {
        let now = self.clock.now();
        self.busy += units;
        self.outcome.ask(Scarce::Slots).level(self.busy as f64 / UNITS as f64);
        let object = &mut self.objects[number as usize];
        object.worker = worker;
        object.attempts += 1;
        object.tries = 0;
        object.left = object.batches;
        (object.stage, object.since) = (Stage::LookUp, now);
        let alone = self.settings.load.tenants == 1;
        match self.workers[worker as usize].enter(alone, now) {
            Ok(()) => self.step(number),
            Err(wait) => {
                self.outcome.deferred += 1;
                self.leave_room(number);
                self.come_again(number, wait);
            }
        }
    }

    /// Gives the message back to the queue. `earliest` is the time before which a retry would fail.
    pub(super) fn fail(&mut self, number: u32, earliest: Time) {
        self.outcome.retried += 1;
        let Object { attempts, stage, .. } = self.objects[number as usize];
        if stage > Stage::Reclaim && self.settings.fleet.ledger {
            // The claim is given back. If the ledger throttles, the lease runs out instead.
            self.ask_ledger();
        }
        self.leave_room(number);
        let full = (RETRY_DELAY << (attempts - 1).min(20)).min(MAX_RETRY_DELAY);
        let delay = (full as f64 * (1.0 - self.chance.fraction() / 4.0)) as Time;
        self.come_again(number, delay.max(earliest));
    }

    /// Hides the message for a short wait. For a long one, or if many are hidden, sends the message anew with a delay.
    pub(super) fn come_again(&mut self, number: u32, wait: Time) {
        let object = &mut self.objects[number as usize];
        let worker = &mut self.workers[object.worker as usize];
        object.hidden = wait <= LONGEST_HIDING && worker.hidden < self.settings.fleet.max_hidden;
        match object.hidden {
            true => worker.hidden += 1,
            false => self.queue.leave(1),
        }
        self.clock.after(wait, Event::Visible(number));
    }

    pub(super) fn visible(&mut self, number: u32) {
        let object = &mut self.objects[number as usize];
        if std::mem::take(&mut object.hidden) {
            self.workers[object.worker as usize].hidden -= 1;
            self.queue.leave(1);
        }
        self.queue.add(number);
        self.wake();
    }

    pub(super) fn leave_room(&mut self, number: u32) {
        let worker = self.objects[number as usize].worker;
        let (units, time) = self.workers[worker as usize].leave(number, self.clock.now());
        self.outcome.slot_time.add(time);
        self.busy -= units;
        let own = &mut self.workers[worker as usize];
        match own.takes_nothing && own.is_idle() {
            true => own.forget(),
            // The loop looks again when the answer of an open receive has arrived.
            false if own.receives => {}
            false => self.clock.after(0, Event::Turn(worker)),
        }
    }

    pub(super) fn finish(&mut self, number: u32) {
        let worker = self.objects[number as usize].worker;
        self.leave_room(number);
        self.free.push(number);
        let own = &mut self.workers[worker as usize];
        own.deletes += 1;
        match own.deletes {
            1 => self.clock.after(LINGER, Event::Delete(worker)),
            MAX_MESSAGES => self.delete(worker),
            _ => {}
        }
    }

    pub(super) fn delete(&mut self, worker: u32) {
        let deletes = std::mem::take(&mut self.workers[worker as usize].deletes);
        if deletes == 0 {
            return;
        }
        self.queue.leave(deletes);
        if let Place::Loopback(loopback) = self.settings.place {
            self.compute(MACHINE, Task::Aside, loopback.call);
        }
        self.wake();
    }
}
