//! What a run is to be, from its seed alone.

mod outage;
mod weather;

use std::time::Duration;

use fastrand::Rng;

pub use self::outage::Outage;
pub(crate) use self::weather::{ONE_BATCH, Weather};
use crate::{
    content::{Compression, Content, Damage, Framing, Size},
    notice::Shape,
};

/// From the first object to the last fault.
const PERIOD: Duration = Duration::from_secs(6);
/// Objects are uploaded within the first part of it.
const UPLOADS: Duration = Duration::from_secs(4);

/// What befalls the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Faults, every one before its call takes effect as far as PutLogEvents goes, and SIGKILL.
    Kills,
    /// The same faults, and nobody dies.
    Faults,
    /// Faults, and answers of PutLogEvents that are lost after CloudWatch Logs took the events: nobody can know then.
    LostAnswers,
    /// Faults, and a ledger that cannot be reached for seconds: deliveries go on without it.
    NoLedger,
    /// One service that cannot be reached for a minute, and nothing else: see [`Plan::outage`].
    Outage,
}

impl Kind {
    /// All that a seed makes plans of.
    pub const ALL: [Self; 4] = [Self::Kills, Self::Faults, Self::LostAnswers, Self::NoLedger];

    /// A word for people and options.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Faults => "faults",
            Self::LostAnswers => "lost-answers",
            Self::NoLedger => "no-ledger",
            Self::Outage => "outage",
        }
    }
}

/// One run. Times count from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What everything else follows from.
    pub seed: u64,
    /// What befalls the workers.
    pub kind: Kind,
    /// Workers that share the queue.
    pub workers: usize,
    /// Messages that each works on at once.
    pub(crate) concurrency: usize,
    /// Attempts of the SDK.
    pub(crate) attempts: u32,
    /// Whether the topic leaves its envelope away.
    pub(crate) raw_delivery: bool,
    /// Whether the buckets keep versions.
    pub(crate) versioned: bool,
    /// Of each tenant: what its second delivery wants, if it has one.
    pub(crate) tenants: Vec<Option<Wanted>>,
    pub(crate) objects: Vec<Object>,
    /// Messages beside those that the bucket sends by itself.
    pub(crate) messages: Vec<Message>,
    /// Messages after everything has been delivered: more of the same objects.
    pub(crate) late: Vec<Message>,
    pub(crate) weather: Vec<Weather>,
    /// What the workers are to say, and when.
    pub(crate) outage: Option<Outage>,
    pub(crate) kills: Vec<Kill>,
    /// When all faults end.
    pub(crate) period: Duration,
}

/// What a second delivery takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// The application `web` alone.
    Web,
}

/// An object to upload; its number is its position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) tenant: usize,
    pub(crate) application: &'static str,
    pub(crate) pod: usize,
    pub(crate) content: Content,
    pub(crate) at: Duration,
    /// Whether it goes to the bucket that tells nobody, so that a message of ours has to.
    pub(crate) silent: bool,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) at: Duration,
    pub(crate) shape: Shape,
    /// Objects that it tells of, or one that does not exist.
    pub(crate) objects: Vec<usize>,
    /// Whether all of them have been told of before.
    pub(crate) again: bool,
}

/// One SIGKILL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kill {
    pub(crate) worker: usize,
    /// When so many calls of that operation have arrived, and a little later; but at `latest` in any case.
    pub(crate) after: (&'static str, &'static str, u64),
    pub(crate) delay: Duration,
    pub(crate) latest: Duration,
    /// How long it takes until another takes its place.
    pub(crate) restart: Duration,
}

impl Plan {
    /// Makes the plan of that seed.
    pub fn new(seed: u64, kind: Kind, workers: usize) -> Self {
        // Neighbouring seeds are to have nothing in common.
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909);
        let tenants: Vec<_> = (0..rng.usize(3..=5)).map(|number| second_delivery(number, &mut rng)).collect();
        let mut objects: Vec<_> = (0..rng.usize(12..=24)).map(|_| object(tenants.len(), &mut rng)).collect();
        objects.sort_by_key(|object| object.at);
        let messages = messages(&objects, &mut rng);
        let whole: Vec<_> = (0..objects.len()).collect();
        let late = (0..rng.usize(1..=4))
            .map(|_| Message {
                at: Duration::ZERO,
                shape: some(&mut rng, &[Shape::Direct, Shape::EventBridge, Shape::Topic]),
                objects: vec![some(&mut rng, &whole)],
                again: true,
            })
            .collect();
        let mut weather: Vec<_> = (0..rng.usize(10..=20)).map(|_| Weather::usual(PERIOD, &mut rng)).collect();
        weather.extend((0..rng.usize(0..=2)).map(|_| Weather::outage(PERIOD, &mut rng)));
        let mut more = |one: fn(Duration, &mut Rng) -> Weather| {
            let count = rng.usize(1..=3);
            weather.extend(std::iter::repeat_with(|| one(PERIOD, &mut rng)).take(count));
        };
        match kind {
            Kind::Kills | Kind::Faults | Kind::Outage => {}
            Kind::LostAnswers => more(Weather::lost_answers),
            Kind::NoLedger => more(Weather::ledger_outage),
        }
        let kills = if kind == Kind::Kills { kills(workers, &mut rng) } else { Vec::new() };
        Self {
            seed,
            kind,
            workers,
            concurrency: some(&mut rng, &[1, 2, 4, 8]),
            attempts: rng.u32(2..=4),
            raw_delivery: rng.bool(),
            versioned: rng.bool(),
            tenants,
            objects,
            messages,
            late,
            weather,
            outage: None,
            kills,
            period: PERIOD,
        }
    }
}

fn second_delivery(number: usize, rng: &mut Rng) -> Option<Wanted> {
    // The first always has two, so that no run is without.
    match rng.u8(..4) {
        0 => Some(Wanted::All),
        1 => Some(Wanted::Web),
        _ => (number == 0).then_some(Wanted::All),
    }
}

fn object(tenants: usize, rng: &mut Rng) -> Object {
    let size = match rng.u8(..20) {
        0 => Size::Nothing,
        1..=3 => Size::Short(1),
        4..=9 => Size::Short(rng.usize(2..400)),
        10..=13 => Size::Long(rng.usize(30..90)),
        14..=16 => Size::Days(rng.usize(10..40)),
        17 => Size::Old(rng.usize(10..60)),
        _ => Size::Oversize,
    };
    let compression =
        some(rng, &[Compression::Gzip, Compression::Gzip, Compression::Zstd, Compression::None]);
    let framing = some(rng, &[Framing::Array, Framing::ArrayLines, Framing::Ndjson]);
    let damage = match (size, rng.u8(..12)) {
        (Size::Short(count @ 2..) | Size::Days(count), 0) => Damage::Nonsense(rng.usize(..count)),
        (Size::Short(20..) | Size::Long(_), 1) if compression == Compression::Gzip => Damage::Truncated,
        _ => Damage::Whole,
    };
    let members = if damage == Damage::Truncated { 1 } else { some(rng, &[1, 1, 2, 5]) };
    Object {
        tenant: rng.usize(..tenants),
        application: some(rng, &["web", "db"]),
        // Few, so that objects meet in one stream.
        pod: rng.usize(..3),
        content: Content { seed: rng.u64(..), size, framing, compression, members, damage },
        at: within(UPLOADS, rng),
        silent: rng.u8(..3) == 0,
    }
}

/// Tells of every object that its bucket does not tell of, some together, and of others again; and of one that is not
/// there.
fn messages(objects: &[Object], rng: &mut Rng) -> Vec<Message> {
    let mut messages = Vec::new();
    let silent: Vec<_> = (0..objects.len()).filter(|number| objects[*number].silent).collect();
    let mut rest = &silent[..];
    while !rest.is_empty() {
        let shape = some(rng, &[Shape::Direct, Shape::Direct, Shape::EventBridge, Shape::Topic]);
        let together = if shape == Shape::EventBridge { 1 } else { rng.usize(1..=3).min(rest.len()) };
        let (these, others) = rest.split_at(together);
        rest = others;
        let at = these.iter().map(|number| objects[*number].at).max().unwrap_or_default();
        messages.push(Message { at, shape, objects: these.to_vec(), again: false });
    }
    for (number, object) in objects.iter().enumerate() {
        // Some come again at once, some while the first is worked on, some later.
        for _ in 0..some(rng, &[0, 0, 0, 1, 1, 2]) {
            let pause = some(rng, &[Duration::ZERO, Duration::from_millis(200), Duration::from_millis(1500)]);
            let at = object.at + if pause.is_zero() { pause } else { within(pause, rng) };
            let shape = some(rng, &[Shape::Direct, Shape::EventBridge, Shape::Topic]);
            messages.push(Message { at, shape, objects: vec![number], again: true });
        }
    }
    if rng.bool() {
        let at = within(UPLOADS, rng);
        messages.push(Message { at, shape: Shape::Direct, objects: vec![objects.len()], again: false });
    }
    messages.sort_by_key(|message| message.at);
    messages
}

fn kills(workers: usize, rng: &mut Rng) -> Vec<Kill> {
    let mut kills: Vec<_> = (0..rng.usize(1..=4))
        .map(|_| {
            let after = match rng.u8(..8) {
                0 => ("s3", "GetObject", rng.u64(1..15)),
                1 => ("sqs", "DeleteMessageBatch", rng.u64(1..10)),
                // The ledger's; without one it is never called, and `latest` decides.
                2 | 3 => ("dynamodb", "UpdateItem", rng.u64(1..60)),
                _ => ("logs", "PutLogEvents", rng.u64(1..40)),
            };
            Kill {
                worker: rng.usize(..workers),
                after,
                delay: Duration::from_micros(rng.u64(..20_000)),
                latest: Duration::from_millis(500) + within(PERIOD - Duration::from_millis(500), rng),
                restart: within(Duration::from_millis(1500), rng),
            }
        })
        .collect();
    kills.sort_by_key(|kill| kill.latest);
    kills
}

fn some<T: Clone>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

fn within(period: Duration, rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.u64(..u64::try_from(period.as_micros()).expect("a run is short")))
}

#[cfg(test)]
mod tests {
    use logferry_sandbox::faults::Effect;

    use super::*;

    fn loses_an_answer(weather: &&Weather) -> bool {
        weather.fault.operation == "PutLogEvents"
            && matches!(weather.fault.effect, Effect::After { .. } | Effect::HalfBody)
    }

    #[test]
    fn the_seed_decides_everything() {
        let plan = |seed| Plan::new(seed, Kind::Kills, 3);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7).objects, plan(8).objects);
    }

    #[test]
    fn plans_make_sense() {
        for seed in 0..500 {
            let kind = Kind::ALL[seed as usize % 4];
            let plan = Plan::new(seed, kind, 3);
            let lost = plan.weather.iter().filter(loses_an_answer).count();
            assert_eq!(lost > 0, kind == Kind::LostAnswers, "{seed}");
            assert_eq!(!plan.kills.is_empty(), kind == Kind::Kills, "{seed}");
            assert!(
                plan.weather.iter().all(|weather| weather.from < weather.to && weather.to <= plan.period)
            );
            for (number, object) in plan.objects.iter().enumerate() {
                let mut told = plan.messages.iter().filter(|message| message.objects.contains(&number));
                let first = told.clone().filter(|message| !message.again).count();
                assert_eq!(first, usize::from(object.silent), "seed {seed} object {number}");
                assert!(told.all(|message| message.at >= object.at), "nobody tells before it is there");
            }
        }
    }
}
