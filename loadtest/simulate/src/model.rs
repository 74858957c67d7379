//! The simulation: what happens to each object, one event after another.
//!
//! The way of an object is that of ARCHITECTURE.md: a collector writes it to S3, S3 announces it through SNS, a worker
//! receives the message, looks up the tenant, claims the object in the ledger, enters the account, gets the object, decodes
//! it, puts its batches, finishes it in the ledger, and deletes the message.

mod ledger;
mod queueing;
mod replicas;
mod source;
mod way;

use crate::{
    autoscaler::Autoscaler,
    aws::Aws,
    chance::Chance,
    clock::{Clock, MILLISECOND, SECOND, Time, in_seconds},
    collector::{Collector, Written, shares},
    cpu::{Cpu, Slice},
    outcome::{Outcome, Scarce},
    queue::Queue,
    room::units,
    settings::{
        ACCOUNT_PAUSE, ATTEMPTS, COLLECTOR_PAUSE, CREATE_STREAM_RATE, FIRST_PAUSE, GATHER, JSON_PER_PUT,
        LEDGER_ATTEMPTS, LEDGER_FIRST_PAUSE, LEDGER_PATIENCE, LEDGER_PAUSE, LINGER, LONGEST_ACCOUNT_PAUSE,
        LONGEST_COLLECTOR_PAUSE, LONGEST_HIDING, LONGEST_PAUSE, MAX_MESSAGES, MAX_RETRY_DELAY, PACE_BURST,
        POD_START, Place, QUERY_UNITS, RETRY_COST, RETRY_DELAY, RETRY_REFUND, SLICE, STS_PAUSE, SYNC,
        Settings, UNITS, WRITE_UNITS,
    },
    together::Call,
    worker::{Change, Client, Message, Shared, Turn, Worker, kept_for},
};

/// A part of a simulation with conditions of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) length: Time,
    /// The pods write so many times as many bytes as usual.
    pub(crate) logs: f64,
    /// Whether the workers run. When they start again, their caches are empty.
    pub(crate) workers: bool,
    /// Whether the UTC date changes at the phase's beginning.
    pub(crate) midnight: bool,
}

impl Phase {
    pub(crate) fn steady(seconds: u64) -> Self {
        Self { length: seconds * SECOND, logs: 1.0, workers: true, midnight: false }
    }
}

/// Something that needs a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// The worker decodes an object.
    Object(u32),
    /// A service on the same machine answers a call for an object.
    Call(u32),
    /// The ledger on the same machine answers a call that objects share.
    Together(u32),
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
    Slice {
        cpu: u32,
        task: Task,
        left: Time,
    },
    /// Entries of a worker's objects have waited for others.
    Together(u32, Change),
    /// The answer to a call that objects share arrives.
    Written(u32),
    /// The deletes of a worker have waited long enough.
    Delete(u32),
    /// The autoscaler looks at the queue.
    Sync,
    /// A pod has started.
    Ready(u32),
}

/// What an object does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    LookUp,
    LookedUp,
    Claim,
    /// Takes the lease of an entry that an earlier attempt made.
    Reclaim,
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
    /// Whether the ledger has an entry of the object.
    has_entry: bool,
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
    /// Whether the pods write.
    writes: bool,
    /// When the UTC date changed.
    midnight: Option<Time>,
    aws: Aws,
    queue: Queue,
    /// The objects whose messages are not deleted, at the indices that are not in `free`.
    objects: Vec<Object>,
    free: Vec<u32>,
    workers: Vec<Worker>,
    /// Replicas that were ordered and not ended, by index into `workers`.
    replicas: Vec<u32>,
    autoscaler: Autoscaler,
    /// Whether the autoscaler decides.
    scales: bool,
    /// Replicas when all workers were stopped.
    stopped: usize,
    /// The cores of the machine that everything shares, if it is one.
    machine: Option<Cpu<Task>>,
    /// Entries of the calls that objects share, at the indices that are not in `free_calls`.
    calls: Vec<Vec<u32>>,
    free_calls: Vec<u32>,
    /// Units of slots in use.
    busy: usize,
    /// How long workers' caches keep what is not used.
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
            autoscaler: Autoscaler::new(&settings.fleet, replicas),
            scales: false,
            stopped: 0,
            machine: match settings.place {
                Place::Region(_) => None,
                Place::Loopback(loopback) => Some(Cpu::new(loopback.cores, SLICE)),
            },
            calls: Vec::new(),
            free_calls: Vec::new(),
            busy: 0,
            keep: Time::MAX,
            outcome: Outcome::new(),
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

    /// Puts messages of objects as the pods write them into the queue.
    #[cfg(test)]
    pub(crate) fn add_mix(&mut self, count: usize) {
        for _ in 0..count {
            let written = self.collector.write(None, &mut self.chance);
            let object = self.insert(Written { needs_stream: false, ..written });
            self.queue.add(object);
        }
        self.wake();
    }

    /// Publishes events about objects of this size at a steady rate per second, until no message is left.
    pub(crate) fn publish_steadily(&mut self, rate: f64, bytes: f64, count: usize) -> Outcome {
        for number in 0..count {
            // The clock of CloudWatch Logs shows whole milliseconds, and events come at any time between them.
            let between = (self.chance.fraction() * MILLISECOND as f64) as Time;
            let at = (number as f64 / rate * SECOND as f64) as Time + between;
            while let Some(event) = self.clock.next_before(at) {
                self.happen(event);
            }
            let tenant = number % self.shares.len();
            let object = self.insert(Written { tenant, bytes, needs_stream: false });
            self.announce(object);
        }
        self.drain()
    }

    /// Runs until no message is left. The outcome's length is the time that this took.
    pub(crate) fn drain(&mut self) -> Outcome {
        let begun = self.clock.now();
        while self.free.len() < self.objects.len() {
            if let Some(event) = self.clock.next_before(Time::MAX) {
                self.happen(event);
            }
        }
        let mut outcome = std::mem::replace(&mut self.outcome, Outcome::new());
        outcome.seconds = in_seconds(self.clock.now() - begun);
        outcome
    }

    /// Processor time that was used on the shared machine.
    #[cfg(test)]
    pub(crate) fn machine_time(&self) -> Time {
        self.machine.as_ref().map_or(0, |machine| machine.used)
    }

    #[cfg(test)]
    pub(crate) fn messages_in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    #[cfg(test)]
    pub(crate) fn messages_in_work(&self) -> usize {
        self.workers.iter().map(Worker::in_work).sum()
    }

    /// Runs a phase.
    pub(crate) fn run(&mut self, phase: &Phase) -> Outcome {
        self.outcome = Outcome::new();
        self.count_replicas();
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
        let mut outcome = std::mem::replace(&mut self.outcome, Outcome::new());
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
            Event::Together(worker, change) => self.together_is_due(worker, change),
            Event::Written(call) => self.written(call),
            Event::Delete(worker) => self.delete(worker),
            Event::Sync => self.scale(),
            Event::Ready(worker) => self.ready(worker),
        }
    }

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
        let answer = match task {
            _ if left > 0 => return,
            Task::Object(number) => return self.step(number),
            Task::Call(number) => Event::Step(number),
            Task::Together(call) => Event::Written(call),
            Task::Receive(worker) => Event::Received(worker),
            Task::Publish(number) => Event::Visible(number),
            Task::Aside => return,
        };
        if let Place::Loopback(loopback) = self.settings.place {
            self.clock.after(loopback.handover, answer);
        }
    }
}
