//! The simulation: what happens to each object, one event after another.
//!
//! The way of an object is that of ARCHITECTURE.md: a collector writes it to S3, S3 announces it through SNS, a worker
//! receives the message, looks up the tenant, claims the object in the ledger, enters the account, gets the object, decodes
//! it, puts its batches, finishes it in the ledger, and deletes the message.

use crate::{
    autoscaler::Autoscaler,
    aws::Aws,
    chance::Chance,
    clock::{Clock, SECOND, Time, in_seconds},
    collector::{Collector, Written, shares},
    cpu::{Cpu, Slice},
    outcome::{Outcome, Scarce},
    queue::Queue,
    settings::{
        ACCOUNT_PAUSE, ATTEMPTS, COLLECTOR_PAUSE, CREATE_STREAM_RATE, FIRST_PAUSE, GATHER, JSON_PER_PUT,
        LEDGER_ATTEMPTS, LEDGER_FIRST_PAUSE, LEDGER_PATIENCE, LEDGER_PAUSE, LINGER, LONGEST_ACCOUNT_PAUSE,
        LONGEST_COLLECTOR_PAUSE, LONGEST_HIDING, LONGEST_PAUSE, MAX_HIDDEN, MAX_MESSAGES, MAX_RETRY_DELAY,
        PACE_BURST, POD_START, PUT_RATE, Place, QUERY_UNITS, RETRY_COST, RETRY_DELAY, RETRY_REFUND, SLICE,
        STS_PAUSE, SYNC, Settings,
    },
    worker::{Client, Shared, Turn, Worker, kept_for},
};

/// A part of a simulation with conditions of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) length: Time,
    /// The pods write so many times as many bytes as usual.
    pub(crate) logs: f64,
    /// Whether the workers run. When they start again, their caches are empty.
    pub(crate) workers: bool,
    /// Whether the UTC date changes at the phase's beginning.
    pub(crate) midnight: bool,
}

impl Phase {
    pub(crate) fn steady(name: &'static str, seconds: u64) -> Self {
        Self { name, length: seconds * SECOND, logs: 1.0, workers: true, midnight: false }
    }
}

/// Something that needs a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// The worker decodes an object, or a service on the same machine answers a call for it.
    Object(u32),
    /// The queue on the same machine answers a receive.
    Receive(u32),
    /// An event is published.
    Publish(u32),
    /// Nobody waits for the end.
    Aside,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The next object is closed.
    Write,
    /// A collector tries again to put an object.
    Store(u32),
    /// S3 tries again to announce an object.
    Announce(u32),
    /// A message becomes visible after a wait.
    Visible(u32),
    /// The receive loop looks again.
    Turn(u32),
    /// The answer to a receive arrives.
    Received(u32),
    /// An object goes on.
    Step(u32),
    Slice { cpu: u32, task: Task, left: Time },
    /// The deletes of a worker have waited long enough.
    Delete(u32),
    /// The autoscaler looks at the queue.
    Sync,
    /// A pod has started.
    Ready(u32),
}

/// What an object does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    LookUp,
    LookedUp,
    Claim,
    Enter,
    Entered,
    Get,
    Decode,
    PutTurn,
    Put,
    CreateTurn,
    Create,
    Created,
    PutDone,
    Finish,
    Finished,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    closed: Time,
    stage: Stage,
    /// When the object came to its stage.
    since: Time,
    tenant: usize,
    worker: u32,
    bytes: f64,
    batches: u32,
    /// Batches that are not put yet.
    left: u32,
    /// Receives of the message so far.
    attempts: u32,
    /// Refused attempts of the call that the object makes.
    tries: u8,
    needs_stream: bool,
    /// Whether the message is hidden until its retry.
    hidden: bool,
}

/// A simulation of all workers and services.
#[derive(Debug)]
pub(crate) struct Simulation {
    settings: Settings,
    clock: Clock<Event>,
    chance: Chance,
    shares: Vec<f64>,
    collector: Collector,
    writes: bool,
    midnight: Option<Time>,
    aws: Aws,
    queue: Queue,
    objects: Vec<Object>,
    free: Vec<u32>,
    workers: Vec<Worker>,
    /// Replicas that were ordered and not ended, by index into `workers`.
    replicas: Vec<u32>,
    autoscaler: Autoscaler,
    scales: bool,
    /// Replicas when all workers were stopped.
    stopped: usize,
    /// The cores of the machine that everything shares, if it is one.
    machine: Option<Cpu<Task>>,
    working: usize,
    keep: Time,
    outcome: Outcome,
}

/// Index that stands for the shared machine instead of a worker's processor.
const MACHINE: u32 = u32::MAX;

impl Simulation {
    /// Starts with `replicas` workers that have run for hours, and with an empty queue.
    pub(crate) fn new(settings: Settings, replicas: usize, seed: u64) -> Self {
        let shares = shares(&settings.load);
        let mut simulation = Self {
            clock: Clock::new(),
            chance: Chance::new(seed),
            collector: Collector::new(&settings.load, 1.0),
            writes: false,
            midnight: None,
            aws: Aws::new(&settings.quotas, settings.load.tenants),
            queue: Queue::new(settings.quotas.in_flight),
            objects: Vec::new(),
            free: Vec::new(),
            workers: Vec::new(),
            replicas: Vec::new(),
            autoscaler: Autoscaler::new(&settings.fleet),
            scales: false,
            stopped: 0,
            machine: match settings.place {
                Place::Region(_) => None,
                Place::Loopback(loopback) => Some(Cpu::new(loopback.cores, SLICE)),
            },
            working: 0,
            keep: Time::MAX,
            outcome: Outcome::new(""),
            shares,
            settings,
        };
        simulation.order(replicas);
        let rate = simulation.collector.rate / replicas as f64;
        for worker in simulation.replicas.clone() {
            let own = &mut simulation.workers[worker as usize];
            own.warm_up(&simulation.shares, rate, simulation.keep, &mut simulation.chance, 0);
            simulation.ready(worker);
        }
        simulation
    }

    /// Lets pods write, and KEDA scale the workers.
    pub(crate) fn go_live(&mut self) {
        self.writes = true;
        self.scales = true;
        self.clock.after(SYNC, Event::Sync);
        self.clock.after(0, Event::Write);
    }

    /// Puts messages of objects of this size into the queue, for tenants in turn.
    pub(crate) fn add_backlog(&mut self, count: usize, bytes: f64) {
        for number in 0..count {
            let tenant = number % self.shares.len();
            let object = self.insert(Written { tenant, bytes, needs_stream: false });
            self.queue.add(object);
        }
        self.wake();
    }

    /// Publishes events about objects of this size at a steady rate per second, and runs until `end`.
    pub(crate) fn publish_steadily(&mut self, rate: f64, bytes: f64, seconds: f64) -> Outcome {
        self.outcome = Outcome::new("");
        let count = (rate * seconds) as u64;
        for number in 0..count {
            let at = (number as f64 / rate * SECOND as f64) as Time;
            while let Some(event) = self.clock.next_before(at) {
                self.happen(event);
            }
            let tenant = number as usize % self.shares.len();
            let object = self.insert(Written { tenant, bytes, needs_stream: false });
            self.announce(object);
        }
        self.drain(seconds)
    }

    /// Runs until no message is left. The outcome's length is the time that this took.
    pub(crate) fn drain(&mut self, already: f64) -> Outcome {
        let begun = self.clock.now();
        while self.free.len() < self.objects.len() {
            if let Some(event) = self.clock.next_before(Time::MAX) {
                self.happen(event);
            }
        }
        let mut outcome = std::mem::replace(&mut self.outcome, Outcome::new(""));
        outcome.seconds = already + in_seconds(self.clock.now() - begun);
        outcome
    }

    /// Runs a phase.
    pub(crate) fn run(&mut self, phase: &Phase) -> Outcome {
        self.outcome = Outcome::new(phase.name);
        self.collector = Collector::new(&self.settings.load, phase.logs);
        if phase.midnight {
            self.midnight = Some(self.clock.now());
        }
        match (phase.workers, self.scales) {
            (false, true) => self.stop_all(),
            (true, false) if self.stopped > 0 => self.start_again(),
            _ => {}
        }
        let end = self.clock.now() + phase.length;
        while let Some(event) = self.clock.next_before(end) {
            self.happen(event);
        }
        let mut outcome = std::mem::replace(&mut self.outcome, Outcome::new(""));
        outcome.seconds = in_seconds(phase.length);
        outcome.left = self.objects.len() - self.free.len();
        outcome
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write => self.write(),
            Event::Store(object) => self.store(object),
            Event::Announce(object) => self.announce(object),
            Event::Visible(object) => self.visible(object),
            Event::Turn(worker) => self.turn(worker),
            Event::Received(worker) => self.received(worker),
            Event::Step(object) => self.step(object),
            Event::Slice { cpu, task, left } => self.slice_ended(cpu, task, left),
            Event::Delete(worker) => self.delete(worker),
            Event::Sync => self.scale(),
            Event::Ready(worker) => self.ready(worker),
        }
    }

    // From the pod to the queue.

    fn write(&mut self) {
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

    fn insert(&mut self, written: Written) -> u32 {
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

    fn store(&mut self, number: u32) {
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

    fn announce(&mut self, number: u32) {
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
    fn wait_outside(&mut self, number: u32, again: Event) {
        let object = &mut self.objects[number as usize];
        let pause = (COLLECTOR_PAUSE << object.tries.min(10)).min(LONGEST_COLLECTOR_PAUSE);
        object.tries = object.tries.saturating_add(1);
        let wait = (pause as f64 * (0.5 + self.chance.fraction() / 2.0)) as Time;
        self.clock.after(wait, again);
    }

    /// Gives messages to the long polls that are open.
    fn wake(&mut self) {
        while let Some(worker) = self.queue.answer() {
            let room = self.workers[worker as usize].room();
            self.receive(worker, room.min(MAX_MESSAGES));
        }
    }

    // The receive loop.

    fn turn(&mut self, number: u32) {
        let worker = &mut self.workers[number as usize];
        if worker.receives || worker.takes_nothing {
            return;
        }
        match worker.turn(GATHER, self.clock.now()) {
            Turn::Full => {}
            Turn::Gather(until) => self.clock.at(until, Event::Turn(number)),
            Turn::Receive => {
                worker.receives = true;
                self.queue.poll(number);
                self.wake();
            }
        }
    }

    fn receive(&mut self, number: u32, most: usize) {
        let worker = &mut self.workers[number as usize];
        self.queue.receive(most, &mut worker.incoming);
        self.outcome.ask(Scarce::InFlight).level(self.queue.in_flight() as f64);
        match &self.settings.place {
            Place::Region(latencies) => {
                let latency = self.chance.around(latencies.receive, latencies.spread);
                self.clock.after(latency, Event::Received(number));
            }
            Place::Loopback(loopback) => self.compute(MACHINE, Task::Receive(number), loopback.call),
        }
    }

    fn received(&mut self, number: u32) {
        let worker = &mut self.workers[number as usize];
        worker.receives = false;
        let messages = std::mem::take(&mut worker.incoming);
        for message in &messages {
            self.start(*message, number);
        }
        // The allocation is used again.
        let worker = &mut self.workers[number as usize];
        worker.incoming = messages;
        worker.incoming.clear();
        self.turn(number);
    }

    fn start(&mut self, number: u32, worker: u32) {
        let now = self.clock.now();
        self.working += 1;
        self.outcome.ask(Scarce::Slots).level(self.working as f64);
        let object = &mut self.objects[number as usize];
        object.worker = worker;
        object.attempts += 1;
        object.tries = 0;
        object.left = object.batches;
        (object.stage, object.since) = (Stage::LookUp, now);
        let alone = self.settings.load.tenants == 1;
        match self.workers[worker as usize].enter(number, object.tenant, alone, now) {
            Ok(()) => self.step(number),
            Err(wait) => {
                self.outcome.deferred += 1;
                self.leave_slot(number);
                self.come_again(number, wait);
            }
        }
    }

    // The object's way through a worker.

    fn step(&mut self, number: u32) {
        let now = self.clock.now();
        let object = self.objects[number as usize];
        let Object { tenant, worker, .. } = object;
        let own = &mut self.workers[worker as usize];
        match object.stage {
            Stage::LookUp => {
                if own.has(Shared::Tenant, tenant, self.keep, now) {
                    return self.go(number, Stage::Claim);
                }
                if self.joins_flight(number, Shared::Tenant) {
                    return;
                }
                self.outcome.ask(Scarce::TenantReads).ask(QUERY_UNITS, now);
                match self.aws.query_tenant(QUERY_UNITS, now) {
                    true => self.answered(number, Client::Tenants, Stage::LookedUp, 0.0),
                    false => {
                        self.outcome.ask(Scarce::TenantReads).refused += 1;
                        if !self.retries(number, Client::Tenants, ATTEMPTS, FIRST_PAUSE) {
                            self.flight_fails(number, Shared::Tenant);
                        }
                    }
                }
            }
            Stage::LookedUp => {
                own.remember(Shared::Tenant, tenant, self.shares.len(), now);
                self.flight_ends(number, Shared::Tenant);
                self.go(number, Stage::Claim);
            }
            Stage::Claim if !self.settings.fleet.ledger => self.go(number, Stage::Enter),
            Stage::Claim => self.write_ledger(number, Stage::Enter),
            Stage::Enter => {
                if let Some((until, _)) = own.pauses.get(&tenant)
                    && *until > now
                {
                    let wait = *until - now;
                    return self.fail(number, wait);
                }
                if own.has(Shared::Session, tenant, self.keep, now) {
                    return self.go(number, Stage::Get);
                }
                if own.sts_holds.get(&tenant).is_some_and(|until| *until > now) {
                    return self.fail(number, 0);
                }
                if self.joins_flight(number, Shared::Session) {
                    return;
                }
                self.outcome.ask(Scarce::AssumeRoles).ask(1.0, now);
                match self.aws.assume_role(now) {
                    true => self.answered(number, Client::Sts, Stage::Entered, 0.0),
                    false => {
                        self.outcome.ask(Scarce::AssumeRoles).refused += 1;
                        if !self.retries(number, Client::Sts, ATTEMPTS, FIRST_PAUSE) {
                            self.workers[worker as usize].sts_holds.insert(tenant, now + STS_PAUSE);
                            self.flight_fails(number, Shared::Session);
                        }
                    }
                }
            }
            Stage::Entered => {
                own.remember(Shared::Session, tenant, self.shares.len(), now);
                self.flight_ends(number, Shared::Session);
                self.go(number, Stage::Get);
            }
            Stage::Get => {
                self.outcome.ask(Scarce::S3Gets).ask(1.0, now);
                match self.aws.get_object(tenant, now) {
                    true => self.answered(number, Client::S3, Stage::Decode, 0.0),
                    false => {
                        self.outcome.ask(Scarce::S3Gets).refused += 1;
                        if !self.retries(number, Client::S3, ATTEMPTS, FIRST_PAUSE) {
                            self.fail(number, 0);
                        }
                    }
                }
            }
            Stage::Decode => {
                let work = self.settings.fleet.work;
                let bytes = object.bytes / f64::from(object.batches);
                let first = if object.left == object.batches { work.object } else { 0 };
                self.at_stage(number, Stage::PutTurn);
                let cpu = if self.machine.is_some() { MACHINE } else { worker };
                self.compute(cpu, Task::Object(number), first + (work.byte * bytes) as Time);
            }
            Stage::PutTurn => {
                let wait = own.put_paces.entry(tenant).or_default().take(SECOND / PUT_RATE, PACE_BURST, now);
                self.at_stage(number, Stage::Put);
                self.clock.after(wait, Event::Step(number));
            }
            Stage::Put => self.put(number),
            Stage::CreateTurn => {
                let pace = own.creation_paces.entry(tenant).or_default();
                let wait = pace.take(SECOND / CREATE_STREAM_RATE, PACE_BURST, now);
                self.at_stage(number, Stage::Create);
                self.clock.after(wait, Event::Step(number));
            }
            Stage::Create => self.create_stream(number),
            Stage::Created => {
                self.objects[number as usize].needs_stream = false;
                self.go(number, Stage::PutTurn);
            }
            Stage::PutDone => {
                let object = &mut self.objects[number as usize];
                object.left -= 1;
                if object.left > 0 {
                    // The checkpoint is written while the next batch is put, so nobody waits for it.
                    if self.settings.fleet.ledger {
                        self.outcome.ask(Scarce::LedgerWrites).ask(1.0, now);
                        self.aws.write_ledger(&mut self.chance, now);
                    }
                    return self.go(number, Stage::Decode);
                }
                self.outcome.latency.add(now - object.closed);
                self.go(number, Stage::Finish);
            }
            Stage::Finish if !self.settings.fleet.ledger => self.go(number, Stage::Finished),
            Stage::Finish => self.write_ledger(number, Stage::Finished),
            Stage::Finished => self.finish(number),
        }
    }

    fn at_stage(&mut self, number: u32, stage: Stage) {
        let object = &mut self.objects[number as usize];
        (object.stage, object.since, object.tries) = (stage, self.clock.now(), 0);
    }

    fn go(&mut self, number: u32, stage: Stage) {
        self.at_stage(number, stage);
        self.step(number);
    }

    /// A service answers a call: the object is at its next stage after the latency.
    fn answered(&mut self, number: u32, client: Client, next: Stage, bytes: f64) {
        let object = &self.objects[number as usize];
        let refund = if object.tries == 0 { RETRY_REFUND } else { RETRY_COST };
        self.workers[object.worker as usize].refund(client, refund);
        self.takes_time(number, next, bytes);
    }

    fn takes_time(&mut self, number: u32, next: Stage, bytes: f64) {
        self.at_stage(number, next);
        match &self.settings.place {
            Place::Region(latencies) => {
                let median = match next {
                    Stage::Decode => latencies.get,
                    Stage::Entered => latencies.assume_role,
                    Stage::PutDone | Stage::CreateTurn => latencies.put,
                    Stage::Created => latencies.create_stream,
                    _ => latencies.dynamodb,
                };
                let latency = self.chance.around(median, latencies.spread);
                self.clock.after(latency, Event::Step(number));
            }
            Place::Loopback(loopback) => {
                let work = loopback.call + (loopback.byte * bytes) as Time;
                self.compute(MACHINE, Task::Object(number), work);
            }
        }
    }

    /// The SDK's retry of a throttled call. Returns false if there is none.
    fn retries(&mut self, number: u32, client: Client, attempts: u8, first_pause: Time) -> bool {
        let object = &mut self.objects[number as usize];
        object.tries += 1;
        if object.tries >= attempts || !self.workers[object.worker as usize].pay(client, RETRY_COST) {
            return false;
        }
        let longest = (first_pause << (object.tries - 1)).min(LONGEST_PAUSE);
        let wait = (longest as f64 * self.chance.fraction()) as Time;
        self.clock.after(wait, Event::Step(number));
        true
    }

    /// Waits for a call that another object of the tenant makes, if there is one. Otherwise, the object makes the call.
    fn joins_flight(&mut self, number: u32, shared: Shared) -> bool {
        let Object { tenant, worker, tries, .. } = self.objects[number as usize];
        if tries > 0 {
            return false;
        }
        let flights = &mut self.workers[worker as usize].flights;
        match flights.get_mut(&(shared, tenant)) {
            Some(waiting) => {
                waiting.push(number);
                true
            }
            None => {
                flights.insert((shared, tenant), Vec::new());
                false
            }
        }
    }

    fn flight_ends(&mut self, number: u32, shared: Shared) {
        let Object { tenant, worker, .. } = self.objects[number as usize];
        let waiting = self.workers[worker as usize].flights.remove(&(shared, tenant));
        for other in waiting.into_iter().flatten() {
            self.clock.after(0, Event::Step(other));
        }
    }

    /// The objects that waited share the failure.
    fn flight_fails(&mut self, number: u32, shared: Shared) {
        let Object { tenant, worker, .. } = self.objects[number as usize];
        let waiting = self.workers[worker as usize].flights.remove(&(shared, tenant));
        for other in waiting.into_iter().flatten() {
            self.fail(other, 0);
        }
        self.fail(number, 0);
    }

    /// Makes a call to the ledger. While it throttles, the call is repeated for ten seconds; then the message waits.
    fn write_ledger(&mut self, number: u32, next: Stage) {
        let now = self.clock.now();
        self.outcome.ask(Scarce::LedgerWrites).ask(1.0, now);
        if self.aws.write_ledger(&mut self.chance, now) {
            return self.answered(number, Client::Ledger, next, 0.0);
        }
        self.outcome.ask(Scarce::LedgerWrites).refused += 1;
        if self.retries(number, Client::Ledger, LEDGER_ATTEMPTS, LEDGER_FIRST_PAUSE) {
            return;
        }
        let object = &mut self.objects[number as usize];
        if now - object.since < LEDGER_PATIENCE {
            object.tries = 0;
            return self.clock.after(LEDGER_PAUSE, Event::Step(number));
        }
        self.fail(number, 0);
    }

    /// Puts a batch. If its stream is missing, the put is refused, the stream is created, and the batch is put again.
    fn put(&mut self, number: u32) {
        let now = self.clock.now();
        let Object { tenant, bytes, batches, needs_stream, .. } = self.objects[number as usize];
        if tenant == 0 {
            self.outcome.ask(Scarce::Puts).ask(1.0, now);
        }
        if !self.aws.put_log_events(tenant, now) {
            return self.account_throttles(number, Scarce::Puts);
        }
        self.account_answers(number);
        match needs_stream {
            true => self.takes_time(number, Stage::CreateTurn, 0.0),
            false => self.takes_time(number, Stage::PutDone, bytes / f64::from(batches)),
        }
    }

    fn create_stream(&mut self, number: u32) {
        let (now, tenant) = (self.clock.now(), self.objects[number as usize].tenant);
        if tenant == 0 {
            self.outcome.ask(Scarce::StreamCreations).ask(1.0, now);
        }
        if !self.aws.create_log_stream(tenant, now) {
            return self.account_throttles(number, Scarce::StreamCreations);
        }
        self.account_answers(number);
        self.takes_time(number, Stage::Created, 0.0);
    }

    /// If an account throttles in spite of the SDK's retries, the worker leaves it alone for a while (src/budget.rs).
    fn account_throttles(&mut self, number: u32, scarce: Scarce) {
        let now = self.clock.now();
        let Object { tenant, worker, .. } = self.objects[number as usize];
        if tenant == 0 {
            self.outcome.ask(scarce).refused += 1;
        }
        if self.retries(number, Client::Account, ATTEMPTS, FIRST_PAUSE) {
            return;
        }
        let pauses = &mut self.workers[worker as usize].pauses;
        let (until, length) = pauses.get(&tenant).copied().unwrap_or_default();
        let length = match until > now {
            true => length,
            false => (2 * length).clamp(ACCOUNT_PAUSE, LONGEST_ACCOUNT_PAUSE),
        };
        pauses.insert(tenant, (now + length, length));
        self.fail(number, length);
    }

    fn account_answers(&mut self, number: u32) {
        let Object { tenant, worker, .. } = self.objects[number as usize];
        self.workers[worker as usize].pauses.remove(&tenant);
    }

    // The end of the work on a message.

    /// Gives the message back to the queue. `earliest` is the time before which a retry would fail.
    fn fail(&mut self, number: u32, earliest: Time) {
        self.outcome.retried += 1;
        let attempts = self.objects[number as usize].attempts;
        self.leave_slot(number);
        let full = (RETRY_DELAY << (attempts - 1).min(20)).min(MAX_RETRY_DELAY);
        let delay = (full as f64 * (1.0 - self.chance.fraction() / 4.0)) as Time;
        self.come_again(number, delay.max(earliest));
    }

    /// Hides the message for a short wait. For a long one, or if many are hidden, sends the message anew with a delay.
    fn come_again(&mut self, number: u32, wait: Time) {
        let object = &mut self.objects[number as usize];
        let worker = &mut self.workers[object.worker as usize];
        object.hidden = wait <= LONGEST_HIDING && worker.hidden < MAX_HIDDEN;
        match object.hidden {
            true => worker.hidden += 1,
            false => self.queue.leave(1),
        }
        self.clock.after(wait, Event::Visible(number));
    }

    fn visible(&mut self, number: u32) {
        let object = &mut self.objects[number as usize];
        if std::mem::take(&mut object.hidden) {
            self.workers[object.worker as usize].hidden -= 1;
            self.queue.leave(1);
        }
        self.queue.add(number);
        self.wake();
    }

    fn leave_slot(&mut self, number: u32) {
        let worker = self.objects[number as usize].worker;
        let time = self.workers[worker as usize].leave(number, self.clock.now());
        self.outcome.slot_time.add(time);
        self.working -= 1;
        let own = &mut self.workers[worker as usize];
        match own.takes_nothing && own.is_idle() {
            true => own.forget(),
            // The loop looks again when the answer of an open receive has arrived.
            false if own.receives => {}
            false => self.clock.after(0, Event::Turn(worker)),
        }
    }

    fn finish(&mut self, number: u32) {
        let worker = self.objects[number as usize].worker;
        self.leave_slot(number);
        self.free.push(number);
        let own = &mut self.workers[worker as usize];
        own.deletes += 1;
        match own.deletes {
            1 => self.clock.after(LINGER, Event::Delete(worker)),
            MAX_MESSAGES => self.delete(worker),
            _ => {}
        }
    }

    fn delete(&mut self, worker: u32) {
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

    // Processors.

    fn compute(&mut self, cpu: u32, task: Task, work: Time) {
        let slice = self.cpu(cpu).add(task, work);
        self.run_slice(cpu, slice);
    }

    fn cpu(&mut self, cpu: u32) -> &mut Cpu<Task> {
        match &mut self.machine {
            Some(machine) if cpu == MACHINE => machine,
            _ => &mut self.workers[cpu as usize].cpu,
        }
    }

    fn run_slice(&mut self, cpu: u32, slice: Option<Slice<Task>>) {
        if let Some(Slice { task, length, left }) = slice {
            self.clock.after(length, Event::Slice { cpu, task, left });
        }
    }

    fn slice_ended(&mut self, cpu: u32, task: Task, left: Time) {
        let next = self.cpu(cpu).ended(task, left);
        self.run_slice(cpu, next);
        match task {
            _ if left > 0 => {}
            Task::Object(number) => self.step(number),
            Task::Receive(worker) => self.received(worker),
            Task::Publish(number) => {
                self.queue.add(number);
                self.wake();
            }
            Task::Aside => {}
        }
    }

    // Replicas.

    fn scale(&mut self) {
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

    fn order(&mut self, count: usize) {
        for _ in 0..count {
            let worker = self.workers.len() as u32;
            self.workers.push(Worker::new(&self.settings.fleet));
            self.replicas.push(worker);
            self.clock.after(POD_START, Event::Ready(worker));
        }
        self.recount();
    }

    fn retire(&mut self) {
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

    fn recount(&mut self) {
        let replicas = self.replicas.len();
        self.outcome.most_replicas = self.outcome.most_replicas.max(replicas);
        let rate = self.collector.rate / replicas.max(1) as f64;
        self.keep = kept_for(&self.shares, rate, self.settings.fleet.cache_capacity);
    }

    fn ready(&mut self, worker: u32) {
        if self.replicas.contains(&worker) && self.workers[worker as usize].takes_nothing {
            self.workers[worker as usize].takes_nothing = false;
            self.turn(worker);
        }
    }

    fn stop_all(&mut self) {
        self.scales = false;
        self.stopped = self.replicas.len();
        (0..self.stopped).for_each(|_| self.retire());
    }

    fn start_again(&mut self) {
        self.scales = true;
        self.order(self.stopped);
    }
}
