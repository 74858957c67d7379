//! Decides the verdict on a message. Only this module maps errors to verdicts.
//!
//! Pure: randomness is an argument.

mod backoff;

use std::time::Duration;

pub use self::backoff::Backoff;
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

/// Verdict on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every record of every object is accounted for: the message is deleted.
    Ack,
    /// A retry may succeed: the message is delivered again after [`Cause::delay`].
    Retry(Cause),
    /// No retry can succeed: the message goes to the dead-letter queue.
    Poison(Cause),
    /// The message is older than [`Backoff::max_age`]: it goes to the dead-letter queue with the reason of its last failure.
    Overdue(Cause),
}

impl Verdict {
    /// Name of the verdict in metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry(_) => "retry",
            Self::Poison(_) => "poison",
            Self::Overdue(_) => "overdue",
        }
    }

    /// Delay of a retry; `None` for the other verdicts.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Retry(cause) => Some(cause.delay),
            Self::Ack | Self::Poison(_) | Self::Overdue(_) => None,
        }
    }
}

/// Reason why a message was not acknowledged, with the attributes of its dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Name of the reason for counting and filtering, for example `unknown_tenant`.
    pub reason: &'static str,
    /// Names and values of the other attributes. `tenant`, `bucket`, `key`, `version`, `record_offset` and `error` describe
    /// one failure. `failures` is the number of failures. With several failures, `tenants` lists the tenants of all failures,
    /// joined by `/`.
    pub attributes: Vec<(&'static str, String)>,
    /// Delay until the message is delivered again, for a retry or if the message cannot be sent to the dead-letter queue.
    pub delay: Duration,
    /// [`Tries::refusals`]. A message that is sent anew carries this number.
    pub refusals: u32,
}

/// Attempts at a message so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Number of attempts, this one included.
    pub attempts: u32,
    /// Number of attempts, this one included, in which AWS refused a part of the message with a permanent error.
    pub refusals: u32,
    /// Time since the first receive.
    pub age: Duration,
}

impl Cause {
    /// The tenant, if it was known.
    pub fn tenant_id(&self) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| *name == "tenant").map(|(_, value)| value.as_str())
    }
}

/// A failure, with the object, tenant and delivery that it concerns, as far as they are known.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct Failed {
    /// The object, if known.
    pub object: Option<ObjectRef>,
    /// The tenant, if known.
    pub tenant_id: Option<String>,
    /// `type` of the delivery's row, if known.
    pub delivery: Option<String>,
    /// The failure.
    #[source]
    pub failure: Failure,
}

impl Failed {
    /// Creates a failure of an object, and of a tenant and a delivery if they are known.
    pub fn of(object: &ObjectRef, tenant_id: Option<&str>, delivery: Option<&str>, failure: Failure) -> Self {
        let (tenant_id, delivery) = (tenant_id.map(str::to_owned), delivery.map(str::to_owned));
        Self { object: Some(object.clone()), tenant_id, delivery, failure }
    }
}

/// Reason why a message, or one of its objects or deliveries, failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The body is not an S3 event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The key does not match the layout.
    #[error("the key does not match source.key_layout, or the key_layout of its rule: {0}")]
    Key(KeyError),
    /// The bucket is not one of `source.buckets`.
    #[error("the bucket is not one of source.buckets")]
    ForeignBucket,
    /// The tenant has no row.
    #[error("the tenant has no row in the tenant table")]
    UnknownTenant,
    /// The tenant's `settings` row pauses it.
    #[error("the tenant is paused by its settings row")]
    TenantPaused,
    /// A row of the tenant cannot be used.
    #[error(transparent)]
    Row(BadRow),
    /// The tenant table cannot be read.
    #[error(transparent)]
    Lookup(LookupError),
    /// The tenant already holds its share of the worker's slots. This is no error: the message waits for its turn.
    #[error("the tenant holds its share of the worker's slots; the message waits for {wait:.1?}")]
    OverShare {
        /// Time until the message's turn.
        wait: Duration,
    },
    /// Other objects use all memory for large zstd windows, or the tenant's objects use their half. The message waits, even
    /// beyond [`Backoff::max_age`].
    #[error(
        "other objects use all of source.zstd_windows, or the tenant's other objects use half; if this happens often, raise source.zstd_windows, or compress with \
         smaller windows"
    )]
    NoWindow,
    /// Other objects use all memory for long lake files, or the tenant's objects use their half. The message waits, even beyond
    /// [`Backoff::max_age`].
    #[error("{}", LaneError::NoShare)]
    NoLakeShare,
    /// The object cannot be read.
    #[error(transparent)]
    Object(ObjectError),
    /// The object could be decompressed only in part.
    #[error("after {records} good records: {error}")]
    Decode {
        /// Number of records read before the error.
        records: u64,
        /// The error.
        error: DecodeError,
    },
    /// The object's text could be read as records only in part.
    #[error(transparent)]
    Record(RecordError),
    /// A record could not be read, or AWS refuses it, and no quarantine is configured. The other records were delivered.
    #[error("{}", LaneError::Unkept(.0.clone()))]
    Unkept(RecordError),
    /// CloudWatch Logs did not accept a batch.
    #[error(transparent)]
    Sink(SinkError),
    /// S3 did not copy the object, or did not write a lake file.
    #[error(transparent)]
    Copy(CopyError),
    /// Records could not be written to the quarantine.
    #[error(transparent)]
    Quarantine(QuarantineError),
    /// Another worker delivers the object. After this time this worker can take the object over, unless the other worker
    /// renews its lease.
    #[error(
        "another worker is delivering the object; it can be taken over in {0:.1?}, unless that worker renews its lease"
    )]
    Busy(Duration),
    /// Another worker took the object over, the ledger did not answer, or the object's entry cannot be read.
    #[error(transparent)]
    Ledger(LedgerError),
    /// The worker is stopping.
    #[error("the worker is stopping")]
    Stopping,
    /// A defect of logferry: the numbers of records differ.
    #[error("{read} records were read, and {accounted} are accounted for; please report this defect")]
    Unaccounted {
        /// Number of records given to the delivery.
        read: u64,
        /// Number of records that are accounted for.
        accounted: u64,
    },
    /// A defect of logferry: the work on the message panicked.
    #[error("logferry panicked; please report this defect, with the line of the log that names the place")]
    Panic,
}

/// Effect of one failure on the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A retry may succeed.
    Retry,
    /// AWS refused the object or the batch with a permanent error. At times AWS gives such an answer by mistake, so the
    /// message is retried until [`Backoff::max_refusals`] attempts were refused, and is poison then.
    Refusal,
    /// No retry can succeed.
    Poison,
}

impl Failure {
    /// Name of the failure in metrics and dead letters.
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
            Self::NoLakeShare => "lake_memory",
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
            Self::Copy(CopyError::Unwritable(_)) => "lake_encoding",
            Self::Sink(SinkError::Refused(_)) => "batch_refused",
            Self::Sink(SinkError::InvalidSequenceToken { .. } | SinkError::DataAlreadyAccepted { .. }) => {
                "sequence"
            }
            Self::Sink(SinkError::LeaseEnded(_)) => "lease_ended",
            Self::Sink(SinkError::Unavailable(_) | SinkError::Unreached { .. }) => "logs_unavailable",
            Self::Quarantine(_) => "quarantine",
            Self::Busy(_) => "object_busy",
            Self::Ledger(error)
            | Self::Sink(SinkError::Uncounted(error))
            | Self::Copy(CopyError::Uncounted(error)) => match error {
                LedgerError::Lost(_) => "lease_lost",
                LedgerError::Throttled(_) | LedgerError::Unavailable(_) => "ledger_unavailable",
                LedgerError::Unreadable(_) => "ledger_unreadable",
            },
            Self::Stopping => "stopping",
            Self::Unaccounted { .. } => "unaccounted",
            Self::Panic => "panic",
        }
    }

    /// Index of the first record that could not be read or delivered.
    pub fn record_offset(&self) -> Option<u64> {
        match self {
            Self::Decode { records, .. } => Some(*records),
            Self::Record(error) | Self::Unkept(error) => Some(error.index),
            _ => None,
        }
    }

    /// Time for which a retry cannot succeed: until the next probe of a refused role or a denied group, the next call to a
    /// throttled account, the takeover of another worker's object, or the tenant's turn.
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

    /// How much attention the failure needs from an operator.
    pub fn notice(&self) -> Notice {
        match self.held_for() {
            // A breaker has logged its own failure once for all messages, and the other waits are normal.
            Some(_) => Notice::Expected,
            None if matches!(self, Self::Stopping) => Notice::Expected,
            None if matches!(self, Self::Unaccounted { .. } | Self::Panic) => Notice::Defect,
            None => Notice::Unexpected,
        }
    }

    /// Whether the failure leads to a retry. Also true for a permanent refusal, although the last one makes the message poison.
    pub fn comes_again(&self) -> bool {
        self.fate() != Fate::Poison
    }

    /// Whether the failure is a permanent refusal by AWS.
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
            // A retry would put the other records again, most likely with the same end. A dead letter shows the defect.
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
                CopyError::SourceArchived(_)
                | CopyError::WrongRegion(_)
                | CopyError::Refused(_)
                | CopyError::Unwritable(_),
            ) => Fate::Refusal,
            Self::Lookup(_)
            | Self::OverShare { .. }
            | Self::NoWindow
            | Self::NoLakeShare
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
                | SinkError::Unavailable(_)
                | SinkError::Uncounted(_),
            )
            // The customer may still create a missing bucket.
            | Self::Copy(
                CopyError::NoSuchBucket(_)
                | CopyError::Denied(_)
                | CopyError::Session(_)
                | CopyError::Ours(_)
                | CopyError::Throttled(_)
                | CopyError::Unavailable(_)
                | CopyError::Uncounted(_),
            )
            | Self::Quarantine(_)
            | Self::Busy(_)
            // Without the ledger's entry a delivery could repeat everything. An operator can repair or delete an
            // unreadable entry until the message reaches its maximum age.
            | Self::Ledger(_)
            | Self::Stopping
            | Self::Panic => Fate::Retry,
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
            LaneError::Bucket(error) => Self::Copy(error),
            LaneError::NoShare => Self::NoLakeShare,
        }
    }
}

/// How much attention a failure needs from an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// None: the failure was logged already, or is normal.
    Expected,
    /// A warning.
    Unexpected,
    /// An error: a defect of logferry.
    Defect,
}

/// Number of attempts after which the delay of a message that waits for memory stays as it is. Other objects have the memory until
/// their calls end, for two minutes at most if these time out; a longer delay would only add to the wait.
const MOST_DOUBLED_FOR_MEMORY: u32 = 3;

/// Decides the verdict on a message from its failures.
///
/// A failure for which a retry may succeed comes before poison: once the retry has succeeded, only the poison is left, and the
/// next verdict is poison. If several failures lead to a retry, the shortest delay counts.
///
/// After `backoff.max_age` a message is retried only if it waits for its tenant's turn or for memory, or if the worker
/// is stopping.
pub fn decide(failures: &[Failed], tries: Tries, backoff: &Backoff, chance: f64) -> Verdict {
    let Tries { attempts, refusals, age } = tries;
    let cause = |failed, delay| cause(failed, failures, delay, refusals);
    if let Some(failed) = failures.iter().find(|failed| matches!(failed.failure, Failure::Stopping)) {
        // Other workers can take the message at once.
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
    let waits_for_its_turn = |failed: &&Failed| {
        matches!(failed.failure, Failure::OverShare { .. } | Failure::NoWindow | Failure::NoLakeShare)
    };
    if age > backoff.max_age
        && let Some(failed) = again().find(|failed| !waits_for_its_turn(failed))
    {
        return Verdict::Overdue(cause(failed, delay));
    }
    let delays = again().map(|failed| match &failed.failure {
        // The wait is exact: it does not grow with the attempts, and has no random part.
        Failure::OverShare { wait } => (*wait, failed),
        Failure::NoWindow | Failure::NoLakeShare => {
            (backoff.delay(attempts.min(MOST_DOUBLED_FOR_MEMORY), chance), failed)
        }
        failure => (backoff.delay_until(failure.held_for().unwrap_or_default(), attempts, chance), failed),
    });
    match (delays.min_by_key(|(delay, _)| *delay), failures.first()) {
        (Some((earliest, failed)), _) => Verdict::Retry(cause(failed, earliest)),
        (None, Some(failed)) => Verdict::Poison(cause(failed, delay)),
        (None, None) => Verdict::Ack,
    }
}

/// Creates the cause from `failed`, which is one of `failures`.
fn cause(failed: &Failed, failures: &[Failed], delay: Duration, refusals: u32) -> Cause {
    let mut attributes = Vec::new();
    let mut add = |name, value: Option<String>| attributes.extend(value.map(|value| (name, value)));
    add("tenant", failed.tenant_id.clone());
    let mut tenants: Vec<_> = failures.iter().filter_map(|failed| failed.tenant_id.as_deref()).collect();
    tenants.sort_unstable();
    tenants.dedup();
    // A tenant's name is a segment of a key, so it has no slash.
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
