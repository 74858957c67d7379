//! Kills and pauses of workers: which worker, when, and how.

use std::time::Duration;

use fastrand::Rng;

use super::{Kind, LONG_PERIOD, PERIOD, within};

/// A planned blow: the worker, the time, and the kind of blow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stroke {
    pub(crate) worker: usize,
    /// The blow comes `delay` after the given number of calls of an operation have arrived, and at `latest` in any case.
    pub(crate) after: (&'static str, &'static str, u64),
    pub(crate) delay: Duration,
    pub(crate) latest: Duration,
    pub(crate) blow: Blow,
}

/// Kind of a blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL. A new worker starts after `restart`.
    Kill { restart: Duration },
    /// SIGSTOP, and SIGCONT after `lasts`.
    Pause { lasts: Duration },
}

impl Blow {
    /// Attempt timeout of runs in which a pause may be longer than an attempt and shorter than the lease.
    pub(crate) const SHORT_ATTEMPT: Duration = Duration::from_secs(4);

    fn pause(rng: &mut Rng) -> Self {
        // Half of the pauses are longer than an attempt and shorter than the shortest lease (10 s). The others are long enough
        // for another worker to take over.
        let seconds = if rng.bool() { 5.0 + 4.0 * rng.f64() } else { 12.0 + 4.0 * rng.f64() };
        Self::Pause { lasts: Duration::from_secs_f64(seconds) }
    }
}

/// Plans the blows of a run of this kind. `lakes` tells whether there are lakes, and whether a lake's file has parts.
pub(super) fn strokes(kind: Kind, workers: usize, lakes: (bool, bool), rng: &mut Rng) -> Vec<Stroke> {
    let (count, pauses) = match kind {
        // One blow in four is a pause.
        Kind::Kills => (rng.usize(1..=4), 1),
        Kind::Pauses => (rng.usize(1..=3), 4),
        Kind::Faults | Kind::LostAnswers | Kind::NoLedger | Kind::Outage => (0, 0),
    };
    let (causes, period) = match lakes {
        (false, _) => (8, PERIOD),
        (true, false) => (10, PERIOD),
        (true, true) => (14, LONG_PERIOD),
    };
    let mut strokes: Vec<_> = (0..count)
        .map(|number| {
            let after = match rng.u8(..causes) {
                0 => ("s3", "GetObject", rng.u64(1..15)),
                1 => ("sqs", "DeleteMessageBatch", rng.u64(1..10)),
                // Workers make these calls only to the ledger. In runs without a ledger, `latest` decides.
                2 => ("dynamodb", "UpdateItem", rng.u64(1..40)),
                3 => ("dynamodb", "BatchExecuteStatement", rng.u64(1..30)),
                // The uploads of the run itself count too.
                8 | 9 => ("s3", "PutObject", rng.u64(5..60)),
                10 => ("s3", "CreateMultipartUpload", rng.u64(1..3)),
                11 => ("s3", "UploadPart", rng.u64(1..5)),
                12 | 13 => ("s3", "CompleteMultipartUpload", rng.u64(1..3)),
                _ => ("logs", "PutLogEvents", rng.u64(1..40)),
            };
            let restart = within(Duration::from_millis(1500), rng);
            // The blow with number 0 is always of the run's own kind.
            let paused = pauses == 4 || number > 0 && rng.usize(..4) < pauses;
            Stroke {
                worker: rng.usize(..workers),
                after,
                delay: Duration::from_micros(rng.u64(..20_000)),
                latest: Duration::from_millis(500) + within(period - Duration::from_millis(500), rng),
                blow: if paused { Blow::pause(rng) } else { Blow::Kill { restart } },
            }
        })
        .collect();
    strokes.sort_by_key(|stroke| stroke.latest);
    strokes
}
