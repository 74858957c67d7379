//! Plans of runs. The kind, the number of workers and a seed determine everything in a plan.

mod outage;
mod stroke;
mod weather;

use std::time::Duration;

use fastrand::Rng;

pub use self::outage::Outage;
pub(crate) use self::stroke::{Blow, Stroke};
pub(crate) use self::weather::{ONE_BATCH, Weather};
use crate::{
    content::{Compression, Content, Damage, Framing, Size},
    notice::Shape,
};

/// Time from the first upload to the end of the last fault.
const PERIOD: Duration = Duration::from_secs(6);
/// The same in runs with large objects, whose lake files take seconds.
const LONG_PERIOD: Duration = Duration::from_secs(14);
/// All objects are uploaded within this first part of [`PERIOD`].
const UPLOADS: Duration = Duration::from_secs(4);

/// Failures that a run exposes the workers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Faults and SIGKILL; sometimes SIGSTOP. A fault of PutLogEvents always comes before the call takes effect.
    Kills,
    /// The same faults, and SIGSTOP for longer than the lease or for longer than an attempt of a call may take.
    Pauses,
    /// The same faults alone.
    Faults,
    /// The same faults, and answers of PutLogEvents that are lost after CloudWatch Logs accepted the events. No worker can
    /// know that they were accepted.
    LostAnswers,
    /// The same faults, and a ledger that is out of reach for seconds, so that deliveries go on without it.
    NoLedger,
    /// One service that is out of reach for a minute, and no other fault: see [`Plan::outage`].
    Outage,
}

impl Kind {
    /// The kinds that [`Plan::new`] makes.
    pub const ALL: [Self; 5] = [Self::Kills, Self::Pauses, Self::Faults, Self::LostAnswers, Self::NoLedger];

    /// Name of the kind in reports and options.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Pauses => "pauses",
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
    /// Seed of the random choices.
    pub seed: u64,
    /// Failures that the workers are exposed to.
    pub kind: Kind,
    /// Number of workers that share the queue.
    pub workers: usize,
    /// Messages that each worker works on at once.
    pub(crate) concurrency: usize,
    /// Attempts of the SDK per call.
    pub(crate) attempts: u32,
    /// Whether the topic delivers without the SNS envelope.
    pub(crate) raw_delivery: bool,
    /// Whether the buckets are versioned.
    pub(crate) versioned: bool,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) quarantine: bool,
    /// Number of waiting messages that a worker keeps hidden. The worker sends further waiting messages anew.
    pub(crate) max_hidden: usize,
    pub(crate) objects: Vec<Object>,
    /// Messages in addition to those that the bucket sends.
    pub(crate) messages: Vec<Message>,
    /// Messages about the same objects after everything has been delivered.
    pub(crate) late: Vec<Message>,
    pub(crate) weather: Vec<Weather>,
    /// Outage that the workers should report, if there is one.
    pub(crate) outage: Option<Outage>,
    pub(crate) denials: Vec<Denial>,
    pub(crate) strokes: Vec<Stroke>,
    /// End of all faults.
    pub(crate) period: Duration,
}

/// Settings of a tenant's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tenant {
    /// Objects that the tenant's second delivery takes, if there is a second one.
    pub(crate) second: Option<Wanted>,
    /// Whether records that are too long for one event go to the quarantine instead of being split.
    pub(crate) quarantines_oversize: bool,
    /// Whether the tenant's objects are also copied into a bucket of the tenant.
    pub(crate) has_bucket: bool,
    /// Format of the tenant's lake, if there is one. It takes all objects of the tenant.
    pub(crate) lake: Option<LakeFormat>,
}

/// Format of a lake's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LakeFormat {
    Ndjson,
    Parquet,
}

/// A period in which STS refuses a tenant's roles. The sessions of the roles end when the period begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Denial {
    pub(crate) tenant: usize,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// Objects that a second delivery takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// Objects of the application `web`.
    Web,
}

/// An object to upload. Its number is its index.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) tenant: usize,
    pub(crate) application: &'static str,
    pub(crate) pod: usize,
    pub(crate) content: Content,
    pub(crate) at: Duration,
    /// Whether the object goes to the bucket without notifications, so that the run itself must send a message about it.
    pub(crate) silent: bool,
    /// Index of an earlier object whose key this object reuses, as a newer version.
    pub(crate) replaces: Option<usize>,
}

impl Object {
    /// Returns whether the object cannot be read to its end.
    pub(crate) fn is_damaged(&self) -> bool {
        matches!(self.content.damage, Damage::Nonsense(_) | Damage::Truncated)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) at: Duration,
    pub(crate) shape: Shape,
    /// Indexes of the objects that the message names. An index past the last object stands for a missing object.
    pub(crate) objects: Vec<usize>,
    /// Whether earlier messages named all of these objects.
    pub(crate) again: bool,
}

impl Plan {
    /// Makes the plan of a seed. Equal arguments give equal plans.
    pub fn new(seed: u64, kind: Kind, workers: usize) -> Self {
        // Neighbouring seeds must not give similar plans.
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909);
        let quarantine = rng.bool();
        let tenants: Vec<_> =
            (0..rng.usize(3..=5)).map(|number| tenant(number, quarantine, &mut rng)).collect();
        let versioned = rng.bool();
        let mut objects: Vec<_> =
            (0..rng.usize(12..=24)).map(|_| object(tenants.len(), quarantine, &mut rng)).collect();
        let lakes: Vec<_> = (0..tenants.len()).filter(|tenant| tenants[*tenant].lake.is_some()).collect();
        // Large objects take seconds, so few plans have some.
        let large = if lakes.is_empty() || rng.u8(..3) > 0 { 0 } else { rng.usize(1..=2) };
        objects.extend((0..large).map(|_| large_object(&lakes, &mut rng)));
        objects.sort_by_key(|object| object.at);
        if versioned {
            replace(&mut objects, &mut rng);
        }
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
        weather.extend((0..rng.usize(0..=2)).map(|_| Weather::throttled_ledger(PERIOD, &mut rng)));
        if !lakes.is_empty() {
            weather.extend(Weather::of_lakes(large > 0, &mut rng));
        }
        let mut more = |one: fn(Duration, &mut Rng) -> Weather| {
            let count = rng.usize(1..=3);
            weather.extend(std::iter::repeat_with(|| one(PERIOD, &mut rng)).take(count));
        };
        match kind {
            Kind::Kills | Kind::Faults | Kind::Outage => {}
            Kind::Pauses => weather.push(Weather::slow_puts(PERIOD, &mut rng)),
            Kind::LostAnswers => more(Weather::lost_answers),
            Kind::NoLedger => weather.push(Weather::ledger_outage(&mut rng)),
        }
        if large > 0 {
            weather.iter_mut().for_each(Weather::let_large_objects_pass);
        }
        let denials = match kind {
            Kind::Outage => Vec::new(),
            _ => (0..rng.usize(0..=2)).map(|_| denial(tenants.len(), &mut rng)).collect(),
        };
        let strokes = stroke::strokes(kind, workers, (!lakes.is_empty(), large > 0), &mut rng);
        let period = weather.iter().map(|weather| weather.to).fold(PERIOD, Duration::max);
        Self {
            seed,
            kind,
            workers,
            concurrency: some(&mut rng, &[1, 2, 4, 8]),
            attempts: rng.u32(2..=4),
            raw_delivery: rng.bool(),
            versioned,
            tenants,
            quarantine,
            max_hidden: some(&mut rng, &[0, 2, 1000]),
            objects,
            messages,
            late,
            weather,
            outage: None,
            denials,
            strokes,
            period,
        }
    }
}

fn tenant(number: usize, quarantine: bool, rng: &mut Rng) -> Tenant {
    // The first tenant always has two deliveries and a bucket, so that every run covers both.
    let second = match rng.u8(..4) {
        0 => Some(Wanted::All),
        1 => Some(Wanted::Web),
        _ => (number == 0).then_some(Wanted::All),
    };
    let quarantines_oversize = quarantine && rng.bool();
    let has_bucket = number == 0 || rng.u8(..3) == 0;
    let lake = some(rng, &[None, None, None, None, Some(LakeFormat::Ndjson), Some(LakeFormat::Parquet)]);
    Tenant { second, quarantines_oversize, has_bucket, lake }
}

fn denial(tenants: usize, rng: &mut Rng) -> Denial {
    let from = within(PERIOD - Duration::from_millis(500), rng);
    let to = from + Duration::from_millis(500) + within(Duration::from_secs(3), rng);
    Denial { tenant: rng.usize(..tenants), from, to: to.min(PERIOD) }
}

/// Makes every third suitable object a newer version of an earlier one.
fn replace(objects: &mut [Object], rng: &mut Rng) {
    let fit = |object: &Object| {
        object.content.damage == Damage::Whole && matches!(object.content.size, Size::Short(_))
    };
    for newer in 1..objects.len() {
        let older = rng.usize(..newer);
        if rng.u8(..3) == 0 && fit(&objects[newer]) && fit(&objects[older]) {
            let Object { tenant, application, pod, silent, .. } = objects[older];
            let object = &mut objects[newer];
            *object = Object { tenant, application, pod, silent, replaces: Some(older), ..object.clone() };
        }
    }
}

fn object(tenants: usize, quarantine: bool, rng: &mut Rng) -> Object {
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
        (Size::Short(count @ 2..) | Size::Days(count), 0) if quarantine && framing == Framing::Ndjson => {
            Damage::BadLine(rng.usize(..count))
        }
        (Size::Short(count @ 2..) | Size::Days(count), 0) => Damage::Nonsense(rng.usize(..count)),
        (Size::Short(20..) | Size::Long(_), 1) if compression == Compression::Gzip => Damage::Truncated,
        _ => Damage::Whole,
    };
    let members = if damage == Damage::Truncated { 1 } else { some(rng, &[1, 1, 2, 5]) };
    Object {
        tenant: rng.usize(..tenants),
        application: some(rng, &["web", "db"]),
        // Few pods, so that objects share a stream.
        pod: rng.usize(..3),
        content: Content { seed: rng.u64(..), size, framing, compression, members, damage },
        at: within(UPLOADS, rng),
        silent: rng.u8(..3) == 0,
        replaces: None,
    }
}

/// An object whose lake files are uploaded in parts.
fn large_object(lakes: &[usize], rng: &mut Rng) -> Object {
    let object = object(1, false, rng);
    let content = Content { size: Size::Noise, damage: Damage::Whole, ..object.content };
    Object { tenant: some(rng, lakes), content, at: object.at / 4, ..object }
}

/// Plans the messages that the run itself sends: about every object in the bucket without notifications, some about several
/// of these objects; repeated messages about any object; and in half of the plans one about a missing object.
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
        // A repeated message comes at once, while the first is being worked on, or later.
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
    use crate::{content, stage::SETTLE};

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
    fn a_third_of_all_tenants_have_a_lake() {
        let plans: Vec<_> = (0..200).map(|seed| Plan::new(seed, Kind::Kills, 3)).collect();
        let tenants: Vec<_> = plans.iter().flat_map(|plan| &plan.tenants).collect();
        let percent = |format| {
            tenants.iter().filter(|tenant| tenant.lake == Some(format)).count() * 100 / tenants.len()
        };
        for format in [LakeFormat::Ndjson, LakeFormat::Parquet] {
            assert!((12..21).contains(&percent(format)), "{format:?}");
        }
        let in_parts = |plan: &&Plan| plan.objects.iter().any(|object| object.content.size == Size::Noise);
        assert!((30..70).contains(&plans.iter().filter(in_parts).count()));
    }

    #[test]
    fn the_seeds_of_cargo_test_have_lakes_of_both_formats_and_files_in_parts() {
        let plans: Vec<_> = (1..=5).map(|seed| Plan::new(seed, Kind::Kills, 3)).collect();
        let lakes: Vec<_> = plans.iter().flat_map(|plan| &plan.tenants).map(|tenant| tenant.lake).collect();
        assert!(
            [LakeFormat::Ndjson, LakeFormat::Parquet].iter().all(|format| lakes.contains(&Some(*format)))
        );
        let mut objects = plans.iter().flat_map(|plan| &plan.objects);
        assert!(objects.any(|object| object.content.size == Size::Noise));
    }

    #[test]
    fn plans_are_consistent() {
        for seed in 0..500 {
            let kind = Kind::ALL[seed as usize % Kind::ALL.len()];
            let plan = Plan::new(seed, kind, 3);
            let lost = plan.weather.iter().filter(loses_an_answer).count();
            assert_eq!(lost > 0, kind == Kind::LostAnswers, "{seed}");
            let struck = matches!(kind, Kind::Kills | Kind::Pauses);
            assert_eq!(!plan.strokes.is_empty(), struck, "{seed}");
            let large = plan.objects.iter().filter(|object| object.content.size == Size::Noise);
            assert!(large.clone().count() <= 2, "{seed}");
            assert!(large.clone().all(|object| plan.tenants[object.tenant].lake.is_some()), "{seed}");
            let killed = plan.strokes.iter().any(|stroke| matches!(stroke.blow, Blow::Kill { .. }));
            assert!(!killed || kind == Kind::Kills, "{seed}");
            for weather in &plan.weather {
                let Effect::SlowBody { bytes_per_second } = weather.fault.effect else { continue };
                let longest = plan.objects.iter().map(|object| longest_text(object.content.size)).max();
                let seconds = longest.unwrap_or_default() / bytes_per_second;
                assert!(seconds <= SETTLE.as_secs() / 2, "{seed}: an object takes {seconds} s to arrive");
            }
            for denial in &plan.denials {
                assert!(
                    denial.from < denial.to && denial.to <= plan.period && denial.tenant < plan.tenants.len()
                );
            }
            for object in plan.objects.iter().filter(|object| !plan.quarantine || object.replaces.is_some()) {
                assert!(
                    !matches!(object.content.damage, Damage::BadLine(_)),
                    "{seed}: a bad line needs a quarantine, and its object must not replace another"
                );
                let Some(older) = object.replaces.map(|older| &plan.objects[older]) else { continue };
                assert!(plan.versioned && older.at <= object.at && older.silent == object.silent, "{seed}");
            }
            assert!(
                plan.weather.iter().all(|weather| weather.from < weather.to && weather.to <= plan.period)
            );
            for (number, object) in plan.objects.iter().enumerate() {
                let mut told = plan.messages.iter().filter(|message| message.objects.contains(&number));
                let first = told.clone().filter(|message| !message.again).count();
                assert_eq!(first, usize::from(object.silent), "seed {seed} object {number}");
                assert!(told.all(|message| message.at >= object.at), "no message comes before its object");
            }
        }
    }

    /// Most bytes of an object's messages, as if compression made none shorter. Objects of other sizes are small.
    fn longest_text(size: Size) -> u64 {
        let bytes = match size {
            Size::Long(count) => count * content::LONG.end,
            Size::Noise => content::NOISY * content::NOISE,
            _ => 0,
        };
        bytes as u64
    }
}
