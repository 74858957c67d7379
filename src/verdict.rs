//! Decides what becomes of a message: the one place where an error turns into a fate.
//!
//! Pure: chance comes in as an argument.

use std::time::Duration;

use crate::{
    copy::CopyError,
    credentials::AssumeError,
    decode::DecodeError,
    delivery::LaneError,
    event::{EventError, ObjectRef},
    ledger::LedgerError,
    object::ObjectError,
    quarantine::QuarantineError,
    records::{RecordError, RecordProblem},
    route::KeyError,
    sink::SinkError,
    tenant::{BadRow, LookupError},
};

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every record of every object is accounted for: delete it.
    Ack,
    /// It may go well later: it comes again after [`Cause::delay`].
    Retry(Cause),
    /// No retry can help: to the dead-letter queue.
    Poison(Cause),
    /// It was retried for longer than [`Backoff::max_age`]: to the dead-letter queue, with the reason of the last retry.
    Overdue(Cause),
}

impl Verdict {
    /// A word for metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry(_) => "retry",
            Self::Poison(_) => "poison",
            Self::Overdue(_) => "overdue",
        }
    }

    /// How long the message waits, if it is to be tried again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Retry(cause) => Some(cause.delay),
            Self::Ack | Self::Poison(_) | Self::Overdue(_) => None,
        }
    }
}

/// Why a message is not done, as attributes of its dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A word for counting and filtering, for example `unknown_tenant`.
    pub reason: &'static str,
    /// Name and value of the other attributes: `tenant`, `bucket`, `key`, `version`, `record_offset` and `error` of one failure;
    /// `tenants`, every tenant of all failures, joined by `/`, where there are several; and `failures`, how many there were.
    pub attributes: Vec<(&'static str, String)>,
    /// How long the message waits until it comes again, as a retry or because it cannot be sent to the dead-letter queue.
    pub delay: Duration,
}

impl Cause {
    /// The tenant, if it was known.
    pub fn tenant_id(&self) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| *name == "tenant").map(|(_, value)| value.as_str())
    }
}

/// A failure and what it happened to, as far as that was known.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct Failed {
    /// The object.
    pub object: Option<ObjectRef>,
    /// The tenant.
    pub tenant_id: Option<String>,
    /// The delivery, by its row's `type`.
    pub delivery: Option<String>,
    /// What happened.
    #[source]
    pub failure: Failure,
}

impl Failed {
    /// A failure with an object, of a tenant and a delivery as far as they are known.
    pub fn of(object: &ObjectRef, tenant_id: Option<&str>, delivery: Option<&str>, failure: Failure) -> Self {
        let (tenant_id, delivery) = (tenant_id.map(str::to_owned), delivery.map(str::to_owned));
        Self { object: Some(object.clone()), tenant_id, delivery, failure }
    }
}

/// Everything that can keep a message from being done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The body is no event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The key does not fit the layout.
    #[error("the key does not fit source.key_layout: {0}")]
    Key(KeyError),
    /// The bucket is not one of `source.buckets`.
    #[error("the bucket is not one of source.buckets")]
    ForeignBucket,
    /// The tenant has no row.
    #[error("the tenant has no row in the tenant table")]
    UnknownTenant,
    /// The tenant's settings pause it.
    #[error("the tenant is paused by its settings row")]
    TenantPaused,
    /// A row of the tenant cannot be used.
    #[error(transparent)]
    Row(BadRow),
    /// The tenant table cannot be read.
    #[error(transparent)]
    Lookup(LookupError),
    /// The tenant holds its share of the worker's slots; a turn to wait for, and nothing wrong.
    #[error("the tenant holds its share of the worker's slots; its turn comes in {wait:.1?}")]
    OverShare {
        /// Until then.
        wait: Duration,
    },
    /// The object cannot be read.
    #[error(transparent)]
    Object(ObjectError),
    /// The object cannot be decompressed, from a record on.
    #[error("after {records} good records: {error}")]
    Decode {
        /// Records read before.
        records: u64,
        /// What is wrong.
        error: DecodeError,
    },
    /// The object's text is no list of records, from a record on.
    #[error(transparent)]
    Record(RecordError),
    /// A record could not be read, and there is no quarantine; the others were delivered.
    #[error("{}", LaneError::Unkept(.0.clone()))]
    Unkept(RecordError),
    /// CloudWatch Logs did not take a batch.
    #[error(transparent)]
    Sink(SinkError),
    /// S3 did not copy the object.
    #[error(transparent)]
    Copy(CopyError),
    /// Records could not be put into quarantine.
    #[error(transparent)]
    Quarantine(QuarantineError),
    /// Another delivers the object; for that long at most, unless it goes on.
    #[error(
        "another worker is delivering the object; it may be taken over in {0:.1?}, unless its lease is renewed"
    )]
    Busy(Duration),
    /// Another took the object over, or the ledger cannot say whether.
    #[error(transparent)]
    Ledger(LedgerError),
    /// We have to stop.
    #[error("the worker is stopping")]
    Stopping,
    /// A defect of ours.
    #[error("{read} records were read and {accounted} are accounted for, which is a defect of logferry")]
    Unaccounted {
        /// Records given to the delivery.
        read: u64,
        /// Records whose fate is known.
        accounted: u64,
    },
    /// A defect of ours.
    #[error("a panic, which is a defect of logferry: {0}")]
    Panic(String),
}

/// What one failure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Retry,
    Poison,
}

impl Failure {
    /// A word for metrics and dead letters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Event(_) => "bad_event",
            Self::Key(_) => "bad_key",
            Self::ForeignBucket => "foreign_bucket",
            Self::UnknownTenant => "unknown_tenant",
            Self::TenantPaused => "tenant_paused",
            Self::Row(_) => "bad_tenant_row",
            Self::Lookup(_) => "tenant_lookup",
            Self::OverShare { .. } => "over_share",
            Self::Sink(SinkError::Session(AssumeError::Denied { .. } | AssumeError::Open { .. }))
            | Self::Copy(CopyError::Session(AssumeError::Denied { .. } | AssumeError::Open { .. })) => {
                "role_denied"
            }
            Self::Sink(SinkError::Session(AssumeError::Unavailable { .. }))
            | Self::Copy(CopyError::Session(AssumeError::Unavailable { .. })) => "role_unavailable",
            Self::Object(ObjectError::Missing(_)) | Self::Copy(CopyError::SourceMissing(_)) => {
                "object_missing"
            }
            Self::Object(ObjectError::Denied(_)) => "object_denied",
            Self::Object(ObjectError::ChecksumMismatch(_)) => "checksum_mismatch",
            Self::Object(ObjectError::Unavailable(_)) => "object_unavailable",
            Self::Decode { error: DecodeError::TooLarge { .. }, .. }
            | Self::Object(ObjectError::TooLarge { .. })
            | Self::Copy(CopyError::TooLarge(_)) => "object_too_large",
            Self::Decode { error: DecodeError::WindowTooLarge { .. }, .. } => "window_too_large",
            Self::Record(RecordError { problem: RecordProblem::Unsupported(_), .. })
            | Self::Decode { error: DecodeError::Dictionary { .. }, .. } => "unsupported_format",
            Self::Unkept(_) => "record_too_long",
            Self::Decode { .. } | Self::Record(_) => "corrupt_object",
            Self::Sink(SinkError::NotFound(_)) => "group_missing",
            Self::Sink(SinkError::Denied(_) | SinkError::Held { .. }) => "group_denied",
            Self::Sink(SinkError::Throttled(_) | SinkError::Paused { .. })
            | Self::Copy(CopyError::Throttled(_)) => "throttled",
            Self::Copy(CopyError::KeyTooLong(_)) => "key_too_long",
            Self::Copy(CopyError::Collision { .. }) => "copy_collision",
            Self::Copy(CopyError::NoSuchBucket(_)) => "bucket_missing",
            Self::Copy(CopyError::WrongRegion(_)) => "bucket_elsewhere",
            Self::Copy(CopyError::Denied(_)) => "bucket_denied",
            Self::Copy(CopyError::Refused(_)) => "copy_refused",
            Self::Copy(CopyError::Unavailable(_)) => "bucket_unavailable",
            Self::Sink(SinkError::Refused(_)) => "batch_refused",
            Self::Sink(SinkError::InvalidSequenceToken { .. } | SinkError::DataAlreadyAccepted { .. }) => {
                "sequence"
            }
            Self::Sink(SinkError::LeaseEnded(_)) => "lease_ended",
            Self::Sink(SinkError::Unavailable(_) | SinkError::Unreached { .. }) => "logs_unavailable",
            Self::Quarantine(_) => "quarantine",
            Self::Busy(_) => "object_busy",
            Self::Ledger(LedgerError::Lost(_)) => "lease_lost",
            Self::Ledger(LedgerError::Throttled(_) | LedgerError::Unavailable(_)) => "ledger_unavailable",
            Self::Ledger(LedgerError::Unreadable(_)) => "ledger_unreadable",
            Self::Stopping => "stopping",
            Self::Unaccounted { .. } => "unaccounted",
            Self::Panic(_) => "panic",
        }
    }

    /// The record from which on nothing could be read.
    pub fn record_offset(&self) -> Option<u64> {
        match self {
            Self::Decode { records, .. } => Some(*records),
            Self::Record(error) | Self::Unkept(error) => Some(error.index),
            _ => None,
        }
    }

    /// How long it is certain that trying again is of no use: until a refused role or a denied group is probed, an
    /// account that throttles is asked again, another's lease ends, or the tenant's turn comes.
    pub fn held_for(&self) -> Option<Duration> {
        match self {
            Self::Sink(
                SinkError::Session(AssumeError::Open { probe_in, .. }) | SinkError::Held { probe_in, .. },
            )
            | Self::Copy(CopyError::Session(AssumeError::Open { probe_in, .. })) => Some(*probe_in),
            Self::Sink(SinkError::Paused { retry_in, .. } | SinkError::Unreached { retry_in, .. }) => {
                Some(*retry_in)
            }
            Self::Busy(left) => Some(*left),
            Self::OverShare { wait } => Some(*wait),
            _ => None,
        }
    }

    /// How much an operator should hear of it.
    pub fn notice(&self) -> Notice {
        match self.held_for() {
            // A role's breaker has said so, once for all messages; the others are everyday life.
            Some(_) => Notice::Expected,
            None if matches!(self, Self::Stopping) => Notice::Expected,
            None if matches!(self, Self::Unaccounted { .. } | Self::Panic(_)) => Notice::Defect,
            None => Notice::Unexpected,
        }
    }

    /// Whether the message comes again because of it.
    pub fn comes_again(&self) -> bool {
        self.fate() == Fate::Retry
    }

    fn fate(&self) -> Fate {
        match self {
            Self::Event(_)
            | Self::Key(_)
            | Self::ForeignBucket
            | Self::UnknownTenant
            | Self::TenantPaused
            | Self::Row(_)
            | Self::Decode { .. }
            | Self::Record(_)
            | Self::Unkept(_)
            | Self::Object(ObjectError::Missing(_) | ObjectError::TooLarge { .. })
            // A second attempt would take up behind the difference and hide it: the letter is the evidence.
            | Self::Unaccounted { .. }
            | Self::Copy(
                CopyError::SourceMissing(_)
                | CopyError::TooLarge(_)
                | CopyError::KeyTooLong(_)
                | CopyError::Collision { .. },
            ) => Fate::Poison,
            Self::Lookup(_)
            | Self::OverShare { .. }
            | Self::Object(
                ObjectError::Denied(_) | ObjectError::ChecksumMismatch(_) | ObjectError::Unavailable(_),
            )
            | Self::Sink(_)
            // A bucket that is not there, or not where the row says, is the customer's to make or the row's to mend: soon.
            | Self::Copy(
                CopyError::NoSuchBucket(_)
                | CopyError::WrongRegion(_)
                | CopyError::Denied(_)
                | CopyError::Session(_)
                | CopyError::Throttled(_)
                | CopyError::Refused(_)
                | CopyError::Unavailable(_),
            )
            | Self::Quarantine(_)
            | Self::Busy(_)
            // To go on without an entry that cannot be read could repeat everything; whoever mends or deletes it is in time until
            // the message has waited too long.
            | Self::Ledger(_)
            | Self::Stopping
            | Self::Panic(_) => Fate::Retry,
        }
    }
}

impl From<LaneError> for Failure {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Sink(error) => Self::Sink(error),
            LaneError::Quarantine(error) => Self::Quarantine(error),
            LaneError::Unkept(error) => Self::Unkept(error),
            LaneError::Ledger(error) => Self::Ledger(error),
        }
    }
}

/// Whether something is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It was said already, or happens every day.
    Expected,
    /// It is.
    Unexpected,
    /// It must not happen at all.
    Defect,
}

/// How long a message that failed waits, doubling with each attempt up to a ceiling, less by chance; and how long it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first attempt.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// From a message's first receive to its last retry.
    pub max_age: Duration,
}

impl Backoff {
    /// The delay after that many attempts; `chance`, 0 to 1, takes off up to a quarter.
    fn delay(&self, attempts: u32, chance: f64) -> Duration {
        self.full(attempts).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0)
    }

    /// The same, but not before `earliest` as far as the longest delay allows: an attempt before that would come to nothing.
    /// Chance then adds up to a quarter of the delay, so that messages which wait for the same moment do not come at once.
    fn delay_until(&self, earliest: Duration, attempts: u32, chance: f64) -> Duration {
        let delay = self.delay(attempts, chance);
        if earliest <= delay {
            return delay;
        }
        match self.longest.checked_sub(earliest) {
            Some(room) => earliest + room.min(self.full(attempts) / 4).mul_f64(chance.clamp(0.0, 1.0)),
            None => self.delay(u32::MAX, chance),
        }
    }

    fn full(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

/// Decides about a message after so many `attempts`, at that `age` since its first receive.
///
/// What may yet go well comes first: once it has, only the poison is left to be judged. And what may go well soon does not
/// wait for what can only go well later.
///
/// Past `backoff.max_age` nothing is retried but what nothing is wrong with: a message that waits for its tenant's turn, or
/// that a stopping worker gives back.
pub fn decide(failures: &[Failed], attempts: u32, age: Duration, backoff: &Backoff, chance: f64) -> Verdict {
    let cause = |failed, delay| cause(failed, failures, delay);
    if let Some(failed) = failures.iter().find(|failed| matches!(failed.failure, Failure::Stopping)) {
        // Others have room for it.
        return Verdict::Retry(cause(failed, Duration::ZERO));
    }
    let again = || failures.iter().filter(|failed| failed.failure.comes_again());
    let delay = backoff.delay(attempts, chance);
    let waits_for_its_turn = |failed: &&Failed| matches!(failed.failure, Failure::OverShare { .. });
    if age > backoff.max_age
        && let Some(failed) = again().find(|failed| !waits_for_its_turn(failed))
    {
        return Verdict::Overdue(cause(failed, delay));
    }
    let delays = again().map(|failed| match &failed.failure {
        // A place in a queue: it is not graded, and chance is in it.
        Failure::OverShare { wait } => (*wait, failed),
        failure => (backoff.delay_until(failure.held_for().unwrap_or_default(), attempts, chance), failed),
    });
    match (delays.min_by_key(|(delay, _)| *delay), failures.first()) {
        (Some((earliest, failed)), _) => Verdict::Retry(cause(failed, earliest)),
        (None, Some(failed)) => Verdict::Poison(cause(failed, delay)),
        (None, None) => Verdict::Ack,
    }
}

/// What a letter says of `failed`, which is one of `failures`.
fn cause(failed: &Failed, failures: &[Failed], delay: Duration) -> Cause {
    let mut attributes = Vec::new();
    let mut add = |name, value: Option<String>| attributes.extend(value.map(|value| (name, value)));
    add("tenant", failed.tenant_id.clone());
    let mut tenants: Vec<_> = failures.iter().filter_map(|failed| failed.tenant_id.as_deref()).collect();
    tenants.sort_unstable();
    tenants.dedup();
    // No tenant's name has a slash: it is a segment of a key.
    add("tenants", (tenants.len() > 1).then(|| tenants.join("/")));
    if let Some(object) = &failed.object {
        add("bucket", Some(object.bucket.clone()));
        add("key", Some(object.key.clone()));
        add("version", object.version_id.clone());
    }
    add("record_offset", failed.failure.record_offset().map(|offset| offset.to_string()));
    add("error", Some(failed.to_string()));
    add("failures", Some(failures.len().to_string()));
    Cause { reason: failed.failure.reason(), attributes, delay }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(10),
        longest: Duration::from_secs(60),
        max_age: Duration::from_secs(3600),
    };

    /// The verdict on a message that is young.
    fn judge(failures: &[Failed], attempts: u32, chance: f64) -> Verdict {
        decide(failures, attempts, BACKOFF.max_age, &BACKOFF, chance)
    }

    fn failed(failure: Failure) -> Failed {
        let object = ObjectRef {
            bucket: "b".into(),
            key: "k".into(),
            version_id: Some("v".into()),
            ..ObjectRef::default()
        };
        Failed { object: Some(object), tenant_id: Some("acme".into()), delivery: None, failure }
    }

    fn record(index: u64) -> Failure {
        Failure::Record(RecordError { index, problem: RecordProblem::Truncated("record") })
    }

    fn denied() -> AssumeError {
        AssumeError::Denied {
            role: "r".into(),
            external_id: None,
            code: "AccessDenied".into(),
            message: "no".into(),
        }
    }

    fn open(seconds: u64) -> AssumeError {
        AssumeError::Open { refusal: denied().into(), probe_in: Duration::from_secs(seconds) }
    }

    fn held(seconds: u64) -> SinkError {
        SinkError::Held { denied: text().into(), probe_in: Duration::from_secs(seconds) }
    }

    fn paused(seconds: u64) -> SinkError {
        SinkError::Paused { account: text(), region: text(), retry_in: Duration::from_secs(seconds) }
    }

    fn unreached(seconds: u64) -> SinkError {
        SinkError::Unreached { region: text(), retry_in: Duration::from_secs(seconds) }
    }

    fn text() -> String {
        "words".to_owned()
    }

    /// Every kind of failure, its reason, and whether it is poison: the table of the contract.
    fn table() -> Vec<(Failure, &'static str, bool)> {
        let row = BadRow { tenant_id: text(), name: text(), enabled: true, problems: Vec::new() };
        let lookup = LookupError { tenant_id: text(), table: text(), problem: text() };
        let unavailable = || AssumeError::Unavailable { role: text(), problem: text() };
        let truncated = DecodeError::Truncated { format: "gzip", produced: 1 };
        vec![
            (Failure::Event(EventError::Unknown(text())), "bad_event", true),
            (Failure::Key(KeyError::EmptySegment(1)), "bad_key", true),
            (Failure::ForeignBucket, "foreign_bucket", true),
            (Failure::UnknownTenant, "unknown_tenant", true),
            (Failure::TenantPaused, "tenant_paused", true),
            (Failure::Row(row), "bad_tenant_row", true),
            (Failure::Decode { records: 3, error: truncated }, "corrupt_object", true),
            (
                Failure::Decode { records: 3, error: DecodeError::TooLarge { limit: 1 } },
                "object_too_large",
                true,
            ),
            (
                Failure::Decode {
                    records: 3,
                    error: DecodeError::WindowTooLarge { window: 2, limit: 1, produced: 0 },
                },
                "window_too_large",
                true,
            ),
            (
                Failure::Decode { records: 3, error: DecodeError::Dictionary { id: 7, produced: 0 } },
                "unsupported_format",
                true,
            ),
            (record(1), "corrupt_object", true),
            (
                Failure::Record(RecordError { index: 0, problem: RecordProblem::Unsupported(text()) }),
                "unsupported_format",
                true,
            ),
            (
                Failure::Unkept(RecordError { index: 3, problem: RecordProblem::SteppedOver }),
                "record_too_long",
                true,
            ),
            (Failure::Object(ObjectError::Missing(text())), "object_missing", true),
            (Failure::Object(ObjectError::TooLarge { stored: 2, limit: 1 }), "object_too_large", true),
            (Failure::Object(ObjectError::Denied(text())), "object_denied", false),
            (Failure::Object(ObjectError::ChecksumMismatch(text())), "checksum_mismatch", false),
            (Failure::Object(ObjectError::Unavailable(text())), "object_unavailable", false),
            (Failure::Lookup(lookup), "tenant_lookup", false),
            (Failure::OverShare { wait: BACKOFF.first }, "over_share", false),
            (Failure::Sink(SinkError::Session(open(0))), "role_denied", false),
            (Failure::Sink(SinkError::Session(denied())), "role_denied", false),
            (Failure::Sink(SinkError::Session(unavailable())), "role_unavailable", false),
            (Failure::Sink(SinkError::NotFound(text())), "group_missing", false),
            (Failure::Sink(SinkError::Denied(text())), "group_denied", false),
            (Failure::Sink(held(0)), "group_denied", false),
            (Failure::Sink(SinkError::Throttled(text())), "throttled", false),
            (Failure::Sink(paused(0)), "throttled", false),
            (Failure::Sink(SinkError::Refused(text())), "batch_refused", false),
            (Failure::Sink(SinkError::InvalidSequenceToken { expected: None }), "sequence", false),
            (Failure::Sink(SinkError::Unavailable(text())), "logs_unavailable", false),
            (Failure::Sink(unreached(7)), "logs_unavailable", false),
            (Failure::Quarantine(QuarantineError { key: text(), problem: text() }), "quarantine", false),
            (Failure::Busy(Duration::ZERO), "object_busy", false),
            (Failure::Ledger(LedgerError::Lost(text())), "lease_lost", false),
            (Failure::Ledger(LedgerError::Throttled(text())), "ledger_unavailable", false),
            (Failure::Ledger(LedgerError::Unavailable(text())), "ledger_unavailable", false),
            (Failure::Ledger(LedgerError::Unreadable(text())), "ledger_unreadable", false),
            (Failure::Copy(CopyError::SourceMissing(text())), "object_missing", true),
            (Failure::Copy(CopyError::TooLarge(text())), "object_too_large", true),
            (Failure::Copy(CopyError::KeyTooLong(1025)), "key_too_long", true),
            (Failure::Copy(CopyError::Collision { key: text(), original: text() }), "copy_collision", true),
            (Failure::Copy(CopyError::NoSuchBucket(text())), "bucket_missing", false),
            (Failure::Copy(CopyError::WrongRegion(text())), "bucket_elsewhere", false),
            (Failure::Copy(CopyError::Denied(text())), "bucket_denied", false),
            (Failure::Copy(CopyError::Session(denied())), "role_denied", false),
            (Failure::Copy(CopyError::Session(open(0))), "role_denied", false),
            (Failure::Copy(CopyError::Session(unavailable())), "role_unavailable", false),
            (Failure::Copy(CopyError::Throttled(text())), "throttled", false),
            (Failure::Copy(CopyError::Refused(text())), "copy_refused", false),
            (Failure::Copy(CopyError::Unavailable(text())), "bucket_unavailable", false),
            (Failure::Unaccounted { read: 2, accounted: 1 }, "unaccounted", true),
            (Failure::Panic(text()), "panic", false),
        ]
    }

    #[test]
    fn every_failure_has_its_fate() {
        for (failure, reason, is_poison) in table() {
            assert_eq!(failure.reason(), reason);
            let (cause, was_poison) = match judge(&[failed(failure)], 1, 0.0) {
                Verdict::Poison(cause) => (cause, true),
                Verdict::Retry(cause) => (cause, false),
                other => panic!("{reason}: {other:?}"),
            };
            assert_eq!((cause.reason, cause.delay, was_poison), (reason, BACKOFF.first, is_poison));
        }
    }

    #[test]
    fn nothing_wrong_is_an_ack_and_a_retry_beats_poison() {
        assert_eq!(judge(&[], 1, 0.5), Verdict::Ack);
        let failures = [failed(Failure::ForeignBucket), failed(Failure::Panic(text()))];
        assert!(matches!(judge(&failures, 1, 0.0), Verdict::Retry(cause) if cause.reason == "panic"));
    }

    #[test]
    fn what_was_retried_for_too_long_is_a_letter_with_its_reason() {
        let check = |failures: Vec<Failure>, overdue: Option<&str>| {
            let failures: Vec<_> = failures.into_iter().map(failed).collect();
            let young = judge(&failures, 7, 0.0);
            let verdict = decide(&failures, 7, BACKOFF.max_age + Duration::from_millis(1), &BACKOFF, 0.0);
            match overdue {
                None => assert_eq!(verdict, young),
                Some(reason) => {
                    assert!(matches!(young, Verdict::Retry(_)), "{young:?}");
                    assert!(
                        matches!(&verdict, Verdict::Overdue(cause) if cause.reason == reason),
                        "{verdict:?}"
                    );
                }
            }
        };
        for (failure, reason, is_poison) in table() {
            let is_turn = matches!(failure, Failure::OverShare { .. });
            check(vec![failure], (!is_poison && !is_turn).then_some(reason));
        }
        let turn = || Failure::OverShare { wait: Duration::from_secs(3) };
        check(vec![turn(), Failure::Panic(text())], Some("panic"));
        check(vec![turn(), Failure::ForeignBucket], None);
        check(vec![Failure::ForeignBucket, Failure::Panic(text())], Some("panic"));
        check(vec![Failure::Panic(text()), Failure::Stopping], None);
        check(vec![], None);
    }

    #[test]
    fn a_letter_names_every_tenant_that_failed() {
        let of = |tenant: &str| Failed { tenant_id: Some(tenant.into()), ..failed(Failure::UnknownTenant) };
        let check = |failures: &[Failed], expected: Option<&str>| {
            let Verdict::Poison(cause) = judge(failures, 1, 0.0) else { panic!("poison") };
            let tenants = cause.attributes.iter().find(|(name, _)| *name == "tenants");
            assert_eq!(tenants.map(|(_, value)| value.as_str()), expected);
            assert_eq!(cause.tenant_id(), failures[0].tenant_id.as_deref());
        };
        check(&[of("globex"), of("acme"), of("globex")], Some("acme/globex"));
        check(&[of("acme"), of("acme")], None);
        check(&[Failed { tenant_id: None, ..of("") }], None);
    }

    #[test]
    fn delays_are_graded_and_jittered() {
        for (attempts, chance, seconds) in [
            (0, 0.0, 10.0),
            (1, 0.0, 10.0),
            (2, 0.0, 20.0),
            (3, 0.0, 40.0),
            (4, 0.0, 60.0),
            (1000, 0.0, 60.0),
            (1, 1.0, 7.5),
            (3, 0.5, 35.0),
        ] {
            let verdict = judge(&[failed(Failure::Panic(text()))], attempts, chance);
            assert_eq!(verdict.retry_after(), Some(Duration::from_secs_f64(seconds)), "{attempts} {chance}");
        }
    }

    #[test]
    fn what_waits_for_a_probe_does_not_come_before_it() {
        let check = |failures: Vec<Failure>, attempts, chance, seconds: f64| {
            let failures: Vec<_> = failures.into_iter().map(failed).collect();
            let verdict = judge(&failures, attempts, chance);
            assert_eq!(verdict.retry_after(), Some(Duration::from_secs_f64(seconds)), "{failures:?}");
        };
        let role = |seconds| Failure::Sink(SinkError::Session(open(seconds)));
        check(vec![role(30)], 1, 0.0, 30.0);
        check(vec![role(30)], 1, 1.0, 32.5);
        check(vec![Failure::Sink(SinkError::Session(open(30)))], 3, 1.0, 30.0);
        check(vec![Failure::Copy(CopyError::Session(open(30)))], 3, 1.0, 30.0);
        check(vec![Failure::Sink(held(30))], 1, 0.0, 30.0);
        // Its own delay is longer.
        check(vec![role(30)], 3, 0.0, 40.0);
        check(vec![role(30)], 3, 0.5, 35.0);
        // Room to the longest delay only, and a probe beyond it.
        check(vec![role(58)], 2, 1.0, 60.0);
        check(vec![role(60)], 1, 0.7, 60.0);
        check(vec![role(300)], 1, 0.0, 60.0);
        check(vec![role(300)], 1, 1.0, 45.0);
        // The probe that is due, and others that need not wait.
        check(vec![role(0)], 1, 0.0, 10.0);
        check(vec![role(50), role(30)], 1, 0.0, 30.0);
        check(vec![role(30), Failure::Sink(SinkError::Throttled(text()))], 1, 0.0, 10.0);
        check(vec![role(30), Failure::ForeignBucket], 1, 0.0, 30.0);
        check(vec![Failure::Sink(paused(30))], 1, 0.0, 30.0);
        // A turn is kept to, however often the message came.
        let turn = |seconds| Failure::OverShare { wait: Duration::from_secs(seconds) };
        check(vec![turn(3)], 1, 0.5, 3.0);
        check(vec![turn(3)], 7, 0.5, 3.0);
        check(vec![turn(45), role(30)], 1, 0.0, 30.0);
        check(vec![turn(3), role(30), Failure::ForeignBucket], 1, 0.0, 3.0);
    }

    #[test]
    fn poison_says_what_it_is_about() {
        let Verdict::Poison(poison) = judge(&[failed(record(7))], 1, 0.0) else { panic!("poison") };
        let expected =
            [("tenant", "acme"), ("bucket", "b"), ("key", "k"), ("version", "v"), ("record_offset", "7")];
        for (name, value) in expected {
            assert!(poison.attributes.contains(&(name, value.to_owned())), "{name}");
        }
        assert!(poison.attributes.iter().any(|(name, value)| *name == "error" && value.contains("record 7")));
    }
}
