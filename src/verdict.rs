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
    health,
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
    /// `tenants`, every tenant of all failures, joined by `/`, where there were several failures; and `failures`, how many there
    /// were.
    pub attributes: Vec<(&'static str, String)>,
    /// How long the message waits until it comes again, as a retry or because it cannot be sent to the dead-letter queue.
    pub delay: Duration,
    /// [`Tries::refusals`], which the message takes along.
    pub refusals: u32,
}

/// What is known of a message's receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// How many there were, this one included.
    pub attempts: u32,
    /// In how many of them AWS refused something for what it is, this one included.
    pub refusals: u32,
    /// How long ago the first was.
    pub age: Duration,
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
    /// Others have all of the memory for large zstd windows; nothing wrong.
    #[error(
        "other objects have all of source.zstd_windows; raise it if that happens often, or compress with smaller windows"
    )]
    NoWindow,
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
    /// A record could not be read, or is refused by itself, and there is no quarantine; the others were delivered.
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
    /// It may go well later.
    Retry,
    /// It was refused for what it is. AWS is known to be wrong about that at times, but not again and again: it is tried until
    /// [`Backoff::max_refusals`], and poison then.
    Refusal,
    /// No retry can help.
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
            Self::NoWindow => "window_memory",
            Self::Sink(SinkError::Ours(_) | SinkError::Session(AssumeError::Ours(_)))
            | Self::Copy(CopyError::Ours(_) | CopyError::Session(AssumeError::Ours(_)))
            | Self::Object(ObjectError::Ours(_)) => "identity",
            Self::Sink(SinkError::Session(AssumeError::Denied { .. } | AssumeError::Held { .. }))
            | Self::Copy(CopyError::Session(AssumeError::Denied { .. } | AssumeError::Held { .. })) => {
                "role_denied"
            }
            Self::Sink(SinkError::Session(AssumeError::Unavailable { .. }))
            | Self::Copy(CopyError::Session(AssumeError::Unavailable { .. })) => "role_unavailable",
            Self::Object(ObjectError::Missing(_)) | Self::Copy(CopyError::SourceMissing(_)) => {
                "object_missing"
            }
            Self::Object(ObjectError::NoBucket(_) | ObjectError::BucketGone(_)) => "source_bucket_missing",
            Self::Object(ObjectError::Refused(_)) => "object_refused",
            Self::Object(ObjectError::Archived(_)) | Self::Copy(CopyError::SourceArchived(_)) => {
                "object_archived"
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
            Self::Unkept(RecordError { problem: RecordProblem::Refused, .. }) => "event_refused",
            Self::Unkept(_) => "record_too_long",
            Self::Decode { .. } | Self::Record(_) => "corrupt_object",
            Self::Sink(SinkError::NotFound(_)) => "group_missing",
            Self::Sink(SinkError::GroupQuota(_)) => "group_quota",
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

    /// What of the worker's own surroundings is at fault, by the name that readiness has for it; `None`: nothing is known to be.
    pub fn blames_us(&self) -> Option<&'static str> {
        match self {
            Self::Sink(SinkError::Ours(_) | SinkError::Session(AssumeError::Ours(_)))
            | Self::Copy(CopyError::Ours(_) | CopyError::Session(AssumeError::Ours(_)))
            | Self::Object(ObjectError::Ours(_)) => Some(health::IDENTITY),
            Self::Object(ObjectError::NoBucket(_)) => Some(health::SOURCE_BUCKET),
            _ => None,
        }
    }

    /// How long it is certain that trying again is of no use: until a refused role or a denied group is probed, an
    /// account that throttles is asked again, another's lease ends, or the tenant's turn comes.
    pub fn held_for(&self) -> Option<Duration> {
        match self {
            Self::Sink(
                SinkError::Session(AssumeError::Held { probe_in, .. }) | SinkError::Held { probe_in, .. },
            )
            | Self::Copy(CopyError::Session(AssumeError::Held { probe_in, .. })) => Some(*probe_in),
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

    /// Whether the message comes again because of it, but for the last attempt at what is refused.
    pub fn comes_again(&self) -> bool {
        self.fate() != Fate::Poison
    }

    /// Whether AWS refuses it for what it is.
    pub fn is_refusal(&self) -> bool {
        self.fate() == Fate::Refusal
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
            Self::Object(
                ObjectError::BucketGone(_) | ObjectError::Refused(_) | ObjectError::Archived(_),
            )
            | Self::Sink(SinkError::Refused(_))
            | Self::Copy(
                CopyError::SourceArchived(_) | CopyError::WrongRegion(_) | CopyError::Refused(_),
            ) => Fate::Refusal,
            Self::Lookup(_)
            | Self::OverShare { .. }
            | Self::NoWindow
            | Self::Object(
                ObjectError::NoBucket(_)
                | ObjectError::Denied(_)
                | ObjectError::Ours(_)
                | ObjectError::ChecksumMismatch(_)
                | ObjectError::Unavailable(_),
            )
            | Self::Sink(
                SinkError::NotFound(_)
                | SinkError::InvalidSequenceToken { .. }
                | SinkError::DataAlreadyAccepted { .. }
                | SinkError::Denied(_)
                | SinkError::Held { .. }
                | SinkError::Session(_)
                | SinkError::Ours(_)
                | SinkError::GroupQuota(_)
                | SinkError::LeaseEnded(_)
                | SinkError::Throttled(_)
                | SinkError::Paused { .. }
                | SinkError::Unreached { .. }
                | SinkError::Unavailable(_),
            )
            // A bucket that is not there is the customer's to make: soon.
            | Self::Copy(
                CopyError::NoSuchBucket(_)
                | CopyError::Denied(_)
                | CopyError::Session(_)
                | CopyError::Ours(_)
                | CopyError::Throttled(_)
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
    /// How often a message is refused, at least 1, until what AWS refuses for what it is counts as hopeless.
    pub max_refusals: u32,
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

/// Decides about a message after so many tries.
///
/// What may yet go well comes first: once it has, only the poison is left to be judged. And what may go well soon does not
/// wait for what can only go well later.
///
/// Past `backoff.max_age` nothing is retried but what nothing is wrong with: a message that waits for its tenant's turn, or
/// that a stopping worker gives back.
pub fn decide(failures: &[Failed], tries: Tries, backoff: &Backoff, chance: f64) -> Verdict {
    let Tries { attempts, refusals, age } = tries;
    let cause = |failed, delay| cause(failed, failures, delay, refusals);
    if let Some(failed) = failures.iter().find(|failed| matches!(failed.failure, Failure::Stopping)) {
        // Others have room for it.
        return Verdict::Retry(cause(failed, Duration::ZERO));
    }
    let again = || {
        failures.iter().filter(|failed| match failed.failure.fate() {
            Fate::Retry => true,
            Fate::Refusal => refusals < backoff.max_refusals,
            Fate::Poison => false,
        })
    };
    let delay = backoff.delay(attempts, chance);
    let waits_for_its_turn =
        |failed: &&Failed| matches!(failed.failure, Failure::OverShare { .. } | Failure::NoWindow);
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
fn cause(failed: &Failed, failures: &[Failed], delay: Duration, refusals: u32) -> Cause {
    let mut attributes = Vec::new();
    let mut add = |name, value: Option<String>| attributes.extend(value.map(|value| (name, value)));
    add("tenant", failed.tenant_id.clone());
    let mut tenants: Vec<_> = failures.iter().filter_map(|failed| failed.tenant_id.as_deref()).collect();
    tenants.sort_unstable();
    tenants.dedup();
    // No tenant's name has a slash: it is a segment of a key.
    add("tenants", (failures.len() > 1 && !tenants.is_empty()).then(|| tenants.join("/")));
    if let Some(object) = &failed.object {
        add("bucket", Some(object.bucket.clone()));
        add("key", Some(object.key.clone()));
        add("version", object.version_id.clone());
    }
    add("record_offset", failed.failure.record_offset().map(|offset| offset.to_string()));
    add("error", Some(failed.to_string()));
    add("failures", Some(failures.len().to_string()));
    Cause { reason: failed.failure.reason(), attributes, delay, refusals }
}

#[cfg(test)]
mod tests;
