//! The port to a customer's CloudWatch Logs. [`cloudwatch`] is the adapter; `delivery` decides what each error means.

pub mod budgeted;
pub mod cloudwatch;
pub mod group_breaker;
pub mod memory;
pub mod request;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    batch::RejectedEvents,
    credentials::{AssumeError, identity::IdentityError},
    event::ObjectRef,
    ledger::{
        LedgerError,
        lease::{Lease, LeaseEnded},
    },
    tenant::{CloudWatch, Delivery},
};

/// One customer's CloudWatch Logs, reached in the customer's role. Only the SDK retries calls. Each call gets the lease on
/// the object. After the lease has ended, neither a first attempt nor a retry is sent: the call fails with
/// [`SinkError::LeaseEnded`].
pub trait LogSink: Send + Sync + 'static {
    /// Puts a batch; `body` is the request as JSON, with group and stream.
    fn put_log_events(
        &self,
        body: Bytes,
        lease: &Lease,
    ) -> impl Future<Output = Result<PutAnswer, SinkError>> + Send;

    /// Creates a stream, unless it exists.
    fn create_log_stream(
        &self,
        group: &str,
        stream: &str,
        lease: &Lease,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Creates a group and sets its retention, unless the group exists.
    fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Ends the delivery of the object: every event was put and answered. Repeating the call changes nothing. The default
    /// implementation is for a sink that keeps nothing until then.
    fn finish(&self) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Opens sinks in the role and Region of a delivery.
pub trait LogSinks: Send + Sync + 'static {
    /// An open sink; cheap to clone.
    type Sink: LogSink + Clone;

    /// The error that [`LogSinks::open`] would return without a call: the role or the group was refused before, or the
    /// account throttled or did not answer, and no probe is due. Takes no probe.
    fn closed(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> impl Future<Output = Option<SinkError>> + Send;

    /// Enters the customer's account for one object; later calls for the same delivery use the cached session.
    ///
    /// # Errors
    /// One of the two roles cannot be assumed ([`SinkError::Session`]); the group was denied before and no probe is due
    /// ([`SinkError::Held`]); or calls to the account pause ([`SinkError::Paused`], [`SinkError::Unreached`]).
    fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
        object: &ObjectRef,
    ) -> impl Future<Output = Result<Self::Sink, SinkError>> + Send;
}

/// Answer of PutLogEvents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    /// Token for the stream's next batch, if the service still sends one.
    pub next_sequence_token: Option<String>,
    /// Events that were rejected while the others were stored.
    pub rejected: RejectedEvents,
}

/// Error of a call to CloudWatch Logs, with AWS's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The group or the stream does not exist.
    #[error("the log group or stream does not exist: {0}")]
    NotFound(String),
    /// The stream expects another sequence token.
    #[error("the stream expects {}", token(.expected.as_deref()))]
    InvalidSequenceToken {
        /// The token to send.
        expected: Option<String>,
    },
    /// The stream already has this batch.
    #[error("the stream has this batch already and expects {} next", token(.expected.as_deref()))]
    DataAlreadyAccepted {
        /// The token of the next batch.
        expected: Option<String>,
    },
    /// The customer's role is not allowed to make the call.
    #[error("the customer's role may not make the call: {0}")]
    Denied(String),
    /// The customer's role was denied before, and the group is not tried again before the next probe.
    #[error(
        "the customer's role may not make the call: {denied}; the log group is tried again in {probe_in:.1?} at the earliest"
    )]
    Held {
        /// AWS's words.
        denied: Arc<str>,
        /// Time until the next probe.
        probe_in: Duration,
    },
    /// There is no session in the role, or the session could not be renewed.
    #[error(transparent)]
    Session(AssumeError),
    /// The call was refused because of our clock or our signature.
    #[error(transparent)]
    Ours(IdentityError),
    /// The group does not exist, and the customer's account has as many groups as its quota allows. Waiting does not help.
    #[error(
        "the log group does not exist, and the customer's account has reached its quota of log groups; create the group in that \
         account, or have its quota raised: {0}"
    )]
    GroupQuota(String),
    /// The lease on the object ended before this attempt was sent. An earlier attempt may have succeeded.
    #[error(transparent)]
    LeaseEnded(LeaseEnded),
    /// Too many requests for the account and Region.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The account throttled a moment ago, so no call was made.
    #[error("account {account} throttles in {region}: it is not called for {retry_in:.1?}")]
    Paused {
        /// The account.
        account: String,
        /// The Region.
        region: String,
        /// Time until the account is called again.
        retry_in: Duration,
    },
    /// CloudWatch Logs did not answer a moment ago, so no call was made.
    #[error("CloudWatch Logs in {region} did not answer: it is not called for {retry_in:.1?}")]
    Unreached {
        /// The Region.
        region: String,
        /// Time until CloudWatch Logs is called again.
        retry_in: Duration,
    },
    /// The request itself is refused, because AWS lowered a limit or because of a defect in logferry.
    #[error(
        "CloudWatch Logs refuses the request: {0}; correct what the message names (in the customer's account: the log \
         group, its class, a quota; in the row: target_region), then redrive"
    )]
    Refused(String),
    /// A 5xx answer, a timeout or a network error.
    #[error("CloudWatch Logs cannot be reached: {0}")]
    Unavailable(String),
    /// In shadow mode: the counts of the object cannot be written.
    #[error("the counts of shadow mode cannot be written: {0}")]
    Uncounted(LedgerError),
}

impl SinkError {
    /// Name of the kind of error, for spans.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "group_missing",
            Self::InvalidSequenceToken { .. } | Self::DataAlreadyAccepted { .. } => "sequence",
            Self::Denied(_) | Self::Held { .. } => "group_denied",
            Self::Session(_) => "session",
            Self::Ours(_) => "identity",
            Self::GroupQuota(_) => "group_quota",
            Self::LeaseEnded(_) => "lease_ended",
            Self::Throttled(_) | Self::Paused { .. } => "throttled",
            Self::Refused(_) => "batch_refused",
            Self::Unreached { .. } | Self::Unavailable(_) => "logs_unavailable",
            Self::Uncounted(error) => error.kind(),
        }
    }
}

fn token(expected: Option<&str>) -> String {
    expected.map_or_else(|| "no sequence token".to_owned(), |token| format!("sequence token {token:?}"))
}
