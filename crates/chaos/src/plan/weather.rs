//! Faults of a run: which calls fail, how, when, and how often.

use std::time::Duration;

use fastrand::Rng;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};

use super::{LONG_PERIOD, PERIOD, some, within};

/// Suffix of the keys of objects that are delivered in one batch, which is sent after the whole object was read. Bits are
/// flipped only in these objects: a longer object is partly delivered before the checksum at its end can show the wrong bit.
pub(crate) const ONE_BATCH: &str = ".one-batch";

/// One fault rule, and the period in which it is active.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) fault: Fault,
}

impl PartialEq for Weather {
    fn eq(&self, other: &Self) -> bool {
        let Fault { service, operation, effect, probability, times, .. } = &self.fault;
        let theirs = &other.fault;
        (self.from, self.to, service, operation, effect, times)
            == (other.from, other.to, &theirs.service, &theirs.operation, &theirs.effect, &theirs.times)
            && *probability == theirs.probability
    }
}

/// A call (service and operation) and the errors that it may fail with (AWS's status and code). Untrue errors are left out:
/// that an object is missing, that a batch was accepted before, that a condition failed.
type Refusals = (&'static str, &'static str, &'static [(u16, &'static str)]);

const REFUSALS: [Refusals; 16] = [
    (
        "logs",
        "PutLogEvents",
        &[
            (400, "ThrottlingException"),
            (503, "ServiceUnavailableException"),
            (500, "InternalFailure"),
            (400, "ExpiredTokenException"),
            (400, "UnrecognizedClientException"),
            (400, "AccessDeniedException"),
            (400, "ResourceNotFoundException"),
        ],
    ),
    (
        "logs",
        "CreateLogStream",
        &[
            (400, "ThrottlingException"),
            (503, "ServiceUnavailableException"),
            (400, "LimitExceededException"),
            (400, "OperationAbortedException"),
        ],
    ),
    ("s3", "GetObject", &[(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")]),
    (
        "sqs",
        "ReceiveMessage",
        &[
            (500, "InternalFailure"),
            (503, "ServiceUnavailable"),
            (403, "RequestThrottled"),
            (403, "OverLimit"),
        ],
    ),
    ("sqs", "DeleteMessageBatch", &[(500, "InternalFailure"), (403, "RequestThrottled")]),
    ("sqs", "ChangeMessageVisibilityBatch", &[(500, "InternalFailure"), (403, "RequestThrottled")]),
    ("sqs", "SendMessage", &[(500, "InternalFailure"), (403, "RequestThrottled")]),
    (
        "sts",
        "AssumeRole",
        &[(400, "Throttling"), (503, "ServiceUnavailable"), (500, "InternalFailure"), (403, "AccessDenied")],
    ),
    ("dynamodb", "Query", DYNAMODB),
    ("dynamodb", LEDGER, DYNAMODB),
    ("sqs", "ChangeMessageVisibility", &[(500, "InternalFailure"), (403, "RequestThrottled")]),
    ("sqs", "SendMessageBatch", &[(500, "InternalFailure"), (403, "RequestThrottled")]),
    ("s3", "CopyObject", &[(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")]),
    ("s3", "HeadObject", &[(503, "SlowDown"), (500, "InternalError")]),
    // Files of the quarantine.
    ("s3", "PutObject", &[(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")]),
    ("dynamodb", STATEMENTS, DYNAMODB),
];

const FILES: &[(u16, &str)] = &[(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")];
/// The calls that write a large file of a lake.
const IN_PARTS: [&str; 4] =
    ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"];

/// The calls to the ledger.
const LEDGER: &str = "UpdateItem|BatchExecuteStatement";
/// The statements of such a batch, which fail one by one.
const STATEMENTS: &str = "PartiQLInsert|PartiQLUpdate";

const DYNAMODB: &[(u16, &str)] = &[
    (400, "ProvisionedThroughputExceededException"),
    (400, "ThrottlingException"),
    (500, "InternalServerError"),
];

fn refusal(refusals: &[(u16, &str)], rng: &mut Rng) -> ErrorAnswer {
    let (status, code) = some(rng, refusals);
    ErrorAnswer::new(status, code)
}

impl Weather {
    /// One call that fails sometimes. Most faults hit before the call takes effect. The answer of a call that took effect is
    /// lost only if a repetition of the call does no harm.
    pub(super) fn usual(period: Duration, rng: &mut Rng) -> Self {
        // The calls that matter most have several entries.
        let call = some(rng, &[0, 0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11, 11, 12, 13, 14, 15]);
        let (service, operation, refusals) = REFUSALS[call];
        let effect = match (rng.u8(..10), service, operation) {
            (0..5, _, _) => Effect::Error(refusal(refusals, rng)),
            // A statement answers, or its call does not.
            (5, _, STATEMENTS) => Effect::After { error: Some(refusal(refusals, rng)) },
            (_, _, STATEMENTS) => Effect::Error(refusal(refusals, rng)),
            (5, _, _) => Effect::Latency { milliseconds: rng.u64(20..900) },
            (6, "s3", "GetObject") => Effect::HalfBody,
            (7, "s3", "GetObject") => Effect::WrongChecksum,
            // The longest object arrives within a minute, well before the run gives up (`stage::SETTLE`).
            (8, "s3", "GetObject") => Effect::SlowBody { bytes_per_second: rng.u64(150_000..400_000) },
            // The call takes effect and its answer is lost. The consequences: a message waits for its visibility
            // timeout, is deleted or sent twice; a ledger entry, a copy, a file or a letter is written twice.
            (7 | 8, "sqs" | "dynamodb", _) | (7 | 8, "s3", "CopyObject" | "PutObject") => {
                Effect::After { error: None }
            }
            _ => Effect::Reset,
        };
        let probability = match effect {
            // After each such fault, messages stay hidden for the 10 s of their visibility timeout.
            Effect::After { .. } if operation == "ReceiveMessage" => 0.1,
            // Rare enough for the SDK's retries to succeed. Runs with an unreachable ledger are a kind of their own.
            _ if operation == LEDGER => 0.05,
            _ => some(rng, &[0.1, 0.3, 0.5]),
        };
        let contains = (effect == Effect::WrongChecksum).then(|| ONE_BATCH.to_owned());
        let fault =
            Fault { probability: Some(probability), contains, ..worker_s(service, operation, effect) };
        Self::new(period, 4, rng, fault)
    }

    /// One service that is out of reach for a while. For DynamoDB this is the tenant table alone.
    pub(super) fn outage(period: Duration, rng: &mut Rng) -> Self {
        let services = [("logs", "*"), ("s3", "*"), ("sqs", "*"), ("sts", "*"), ("dynamodb", "Query")];
        let (service, operation) = some(rng, &services);
        Self::new(period, 2, rng, worker_s(service, operation, Effect::Reset))
    }

    /// A ledger that throttles or delays half of its calls, or all of them, for a moment. It counts as within reach.
    pub(super) fn throttled_ledger(period: Duration, rng: &mut Rng) -> Self {
        let throttled = Effect::Error(ErrorAnswer::new(400, "ProvisionedThroughputExceededException"));
        let slow = Effect::Latency { milliseconds: rng.u64(100..900) };
        let effect = some(rng, &[throttled, slow]);
        let fault =
            Fault { probability: Some(some(rng, &[0.5, 1.0])), ..worker_s("dynamodb", LEDGER, effect) };
        Self::new(period, 2, rng, fault)
    }

    /// Delays about half of all puts, so that a pause often interrupts one.
    pub(super) fn slow_puts(period: Duration, rng: &mut Rng) -> Self {
        let effect = Effect::Latency { milliseconds: rng.u64(300..1500) };
        let fault = Fault { probability: Some(0.5), ..worker_s("logs", "PutLogEvents", effect) };
        Self { from: Duration::ZERO, to: period, fault }
    }

    /// A ledger that is out of reach for longer than workers wait for it.
    pub(super) fn ledger_outage(rng: &mut Rng) -> Self {
        let from = within(Duration::from_secs(3), rng);
        let lasts = Self::OUT_OF_REACH + Duration::from_secs(2) + within(Duration::from_secs(3), rng);
        Self { from, to: from + lasts, fault: worker_s("dynamodb", LEDGER, Effect::Reset) }
    }

    /// Value of `ledger.out_of_reach_after` in runs of the kind [`Kind::NoLedger`].
    pub(crate) const OUT_OF_REACH: Duration = Duration::from_secs(5);

    /// PutLogEvents calls whose answer is lost after the events were accepted.
    pub(super) fn lost_answers(period: Duration, rng: &mut Rng) -> Self {
        let error = ErrorAnswer::new(503, "ServiceUnavailableException");
        let effect = some(
            rng,
            &[Effect::After { error: None }, Effect::After { error: Some(error) }, Effect::HalfBody],
        );
        let fault = worker_s("logs", "PutLogEvents", effect);
        let fault = Fault { probability: Some(0.3), times: Some(rng.u64(1..=3)), ..fault };
        // Earlier rules hit some of these calls first, so this rule is active for the whole period.
        Self { from: Duration::ZERO, to: period, fault }
    }

    /// Calls that write a lake's files, and that fail or whose answer is lost: a rule for each of the calls. `large` tells
    /// whether files are large enough for parts.
    pub(super) fn of_lakes(large: bool, rng: &mut Rng) -> Vec<Self> {
        let period = if large { LONG_PERIOD } else { PERIOD };
        let calls = ["PutObject"].iter().chain(if large { &IN_PARTS[..] } else { &[] });
        calls.map(|call| Self::of_lake(period, call, rng)).collect()
    }

    fn of_lake(period: Duration, operation: &str, rng: &mut Rng) -> Self {
        let effect = match (rng.u8(..8), operation) {
            // S3 begins its answer before the parts are put together, so an error may come with the status 200.
            (0 | 1, "CompleteMultipartUpload") => Effect::Error(ErrorAnswer::new(200, "InternalError")),
            (0..4, _) => Effect::Error(refusal(FILES, rng)),
            // A file that is written again replaces itself.
            (4 | 5, _) => Effect::After { error: None },
            (6, _) => Effect::Latency { milliseconds: rng.u64(100..1500) },
            _ => Effect::Reset,
        };
        let fault = Fault {
            probability: Some(some(rng, &[0.5, 1.0])),
            times: Some(rng.u64(1..=4)),
            ..worker_s("s3", operation, effect)
        };
        // Few of these calls are made, so the rule is active until it is used up.
        Self { from: Duration::ZERO, to: period, fault }
    }

    /// Makes slow bodies so fast that large objects arrive within seconds.
    pub(super) fn let_large_objects_pass(&mut self) {
        if let Effect::SlowBody { bytes_per_second } = &mut self.fault.effect {
            *bytes_per_second *= 20;
        }
    }

    /// Resets the connection of every call of an operation.
    pub(super) fn unreachable(from: Duration, to: Duration, service: &str, operation: &str) -> Self {
        Self { from, to, fault: worker_s(service, operation, Effect::Reset) }
    }

    fn new(period: Duration, seconds: u64, rng: &mut Rng, fault: Fault) -> Self {
        let from = within(period - Duration::from_millis(500), rng);
        let lasts = Duration::from_millis(100) + within(Duration::from_secs(seconds), rng);
        Self { from, to: (from + lasts).min(period), fault }
    }
}

/// A fault rule for the calls of workers only. Workers call with sessions of roles, and the run itself as the accounts' root,
/// which is no session.
fn worker_s(service: &str, operation: &str, effect: Effect) -> Fault {
    Fault { sessions_only: true, ..Fault::new(service, operation, effect) }
}
