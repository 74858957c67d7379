//! From the pod to the queue: the collector puts an object, and S3 announces it through SNS.

use super::*;

impl Simulation {
    pub(super) fn write(&mut self) {
        if !self.writes {
            return;
        }
        let wait = self.chance.interval(self.collector.rate);
        self.clock.after(wait, Event::Write);
        let daily = self.settings.fleet.daily_streams;
        let since_midnight = self.midnight.filter(|_| daily).map(|midnight| self.clock.now() - midnight);
        let written = self.collector.write(since_midnight, &mut self.chance);
        self.outcome.written += 1;
        let object = self.insert(written);
        self.store(object);
    }

    pub(super) fn insert(&mut self, written: Written) -> u32 {
        let now = self.clock.now();
        let object = Object {
            closed: now,
            stage: Stage::LookUp,
            since: now,
            tenant: written.tenant,
            worker: 0,
            bytes: written.bytes,
            batches: ((written.bytes / JSON_PER_PUT).ceil() as u32).max(1),
            left: 0,
            attempts: 0,
            tries: 0,
            needs_stream: written.needs_stream,
            has_entry: false,
            hidden: false,
        };
        match self.free.pop() {
            Some(place) => {
                self.objects[place as usize] = object;
                place
            }
            None => {
                self.objects.push(object);
                (self.objects.len() - 1) as u32
            }
        }
    }

    pub(super) fn store(&mut self, number: u32) {
        let now = self.clock.now();
        self.outcome.ask(Scarce::S3Puts).ask(1.0, now);
        let tenant = self.objects[number as usize].tenant;
        if self.aws.put_object(tenant, now) {
            self.objects[number as usize].tries = 0;
            return self.announce(number);
        }
        self.outcome.ask(Scarce::S3Puts).refused += 1;
        self.wait_outside(number, Event::Store(number));
    }

    pub(super) fn announce(&mut self, number: u32) {
        let now = self.clock.now();
        if let Place::Loopback(loopback) = self.settings.place {
            return self.compute(MACHINE, Task::Publish(number), loopback.publish);
        }
        self.outcome.ask(Scarce::SnsPublishes).ask(1.0, now);
        if self.aws.publish(now) {
            self.objects[number as usize].tries = 0;
            self.queue.add(number);
            return self.wake();
        }
        self.outcome.ask(Scarce::SnsPublishes).refused += 1;
        // AWS does not say how S3 repeats a notification. The model does it like the collector.
        self.wait_outside(number, Event::Announce(number));
    }

    /// A refused call of a collector or of S3 is repeated without end.
    pub(super) fn wait_outside(&mut self, number: u32, again: Event) {
        let object = &mut self.objects[number as usize];
        let pause = (COLLECTOR_PAUSE << object.tries.min(10)).min(LONGEST_COLLECTOR_PAUSE);
        object.tries = object.tries.saturating_add(1);
        let wait = (pause as f64 * (0.5 + self.chance.fraction() / 2.0)) as Time;
        self.clock.after(wait, again);
    }

    /// Gives messages to the long polls that are open.
    pub(super) fn wake(&mut self) {
        while let Some(worker) = self.queue.answer() {
            self.receive(worker);
        }
    }
}
