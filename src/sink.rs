//! The port to a customer's CloudWatch Logs. `cloudwatch` is the adapter; what to do about each error is `delivery`'s.

pub mod budgeted;
pub mod cloudwatch;
pub mod group_breaker;
pub mod memory;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    batch::RejectedEvents,
    credentials::{AssumeError, identity::IdentityError},
    ledger::lease::{Lease, LeaseEnded},
    tenant::{CloudWatch, Delivery},
};

/// One customer's CloudWatch Logs, reached in the customer's role. Calls are single: the SDK's own retries are behind
/// them, nothing else is. No attempt is sent, neither the first nor one of the SDK's, once the lease that is given with the call
/// has ended: the call fails with [`SinkError::LeaseEnded`].
pub trait LogSink: Send + Sync + 'static {
    /// Puts a batch; `body` is the request as JSON, group and stream included.
    fn put_log_events(
        &self,
        body: Bytes,
        lease: &Lease,
    ) -> impl Future<Output = Result<PutAnswer, SinkError>> + Send;

    /// Creates a stream; that it exists already is no error.
    fn create_log_stream(
        &self,
        group: &str,
        stream: &str,
        lease: &Lease,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Creates a group and, if it is new, sets its retention; that it exists already is no error.
    fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// Opens sinks, in the role and Region that a delivery names.
pub trait LogSinks: Send + Sync + 'static {
    /// What is opened; cheap to clone.
    type Sink: LogSink + Clone;

    /// The error that [`LogSinks::open`] is known to end with, without any call: the role or the group was refused, or the
    /// account throttled, a moment ago, and is left alone. Nothing that was refused is asked for again by this.
    fn closed(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> impl Future<Output = Option<SinkError>> + Send;

    /// Enters the customer's account; later calls for the same delivery find it open.
    ///
    /// # Errors
    /// One of the two roles cannot be assumed ([`SinkError::Session`]), or the group was denied and is left alone
    /// ([`SinkError::Held`]).
    fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> impl Future<Output = Result<Self::Sink, SinkError>> + Send;
}

/// What PutLogEvents answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    /// For the stream's next batch, where the service still sends one.
    pub next_sequence_token: Option<String>,
    /// What was refused while the rest was stored.
    pub rejected: RejectedEvents,
}

/// Why CloudWatch Logs did not do what it was asked; each holds AWS's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The group or the stream is not there.
    #[error("the log group or stream does not exist: {0}")]
    NotFound(String),
    /// The stream wants another sequence token.
    #[error("the stream expects {}", token(.expected.as_deref()))]
    InvalidSequenceToken {
        /// The token to send.
        expected: Option<String>,
    },
    /// The stream has this very batch.
    #[error("the stream has this batch already and expects {} next", token(.expected.as_deref()))]
    DataAlreadyAccepted {
        /// The token of the next batch.
        expected: Option<String>,
    },
    /// The customer's role may not.
    #[error("the customer's role may not do that: {0}")]
    Denied(String),
    /// The customer's role was denied before, and the group is left alone until the next probe.
    #[error(
        "the customer's role may not do that: {denied}; it is tried again in {probe_in:.1?} at the earliest"
    )]
    Held {
        /// AWS's words.
        denied: Arc<str>,
        /// How long until the next probe.
        probe_in: Duration,
    },
    /// The role's session could not be had or renewed.
    #[error(transparent)]
    Session(AssumeError),
    /// The call was refused for our clock or our signature.
    #[error(transparent)]
    Ours(IdentityError),
    /// The group is missing, and the customer's account has as many groups as its quota allows. Waiting does not help.
    #[error(
        "the log group does not exist, and the customer's account has reached its quota of log groups: the customer creates the \
         group, or has the quota raised: {0}"
    )]
    GroupQuota(String),
    /// The lease on the object ended: an attempt of before may have gone well, another was not sent.
    #[error(transparent)]
    LeaseEnded(LeaseEnded),
    /// Too many requests for that account and Region.
    #[error("throttled: {0}")]
    Throttled(String),
    /// It throttled a moment ago, so nothing was asked.
    #[error("account {account} throttles in {region}: it is left alone for {retry_in:.1?}")]
    Paused {
        /// The account.
        account: String,
        /// The Region.
        region: String,
        /// Until it is asked again.
        retry_in: Duration,
    },
    /// It did not answer a moment ago, so nothing was asked.
    #[error("CloudWatch Logs in {region} could not be reached: it is left alone for {retry_in:.1?}")]
    Unreached {
        /// The Region.
        region: String,
        /// Until it is asked again.
        retry_in: Duration,
    },
    /// The request itself is refused: a limit that AWS lowered, or a defect of ours.
    #[error(
        "CloudWatch Logs refuses the request: {0}; mend what that names in the customer's account (the log group, its class, a \
         quota, the row's target_region), then redrive"
    )]
    Refused(String),
    /// 5xx, a time-out, the network.
    #[error("CloudWatch Logs cannot be reached: {0}")]
    Unavailable(String),
}

fn token(expected: Option<&str>) -> String {
    expected.map_or_else(|| "no sequence token".to_owned(), |token| format!("sequence token {token:?}"))
}
