//! Sinks for live deliveries and for those in shadow mode. Only [`ShadowSinks`] chooses between them.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{CountStore, Subject, no_store, sheet::Sheet};
use crate::{
    batch::{EVENT_OVERHEAD, RejectedEvents},
    event::ObjectRef,
    ledger::lease::Lease,
    sink::{
        LogSink, LogSinks, PutAnswer, SinkError,
        request::{Request, text},
    },
    tenant::{CloudWatch, Delivery, Mode},
};

/// Opens a real sink for a live delivery, and a counting sink for one in shadow mode. The customer's account is entered in
/// both modes, so that a refused role shows before the cut-over.
#[derive(Debug)]
pub struct ShadowSinks<S, C> {
    sinks: S,
    /// `None`: the worker cannot keep counts.
    counts: Option<C>,
}

impl<S, C> ShadowSinks<S, C> {
    /// Stands in front of `sinks`, and keeps counts in `counts`.
    pub fn new(sinks: S, counts: Option<C>) -> Self {
        Self { sinks, counts }
    }
}

/// The sink of one object.
#[derive(Clone, Debug)]
pub enum ModeSink<S, C> {
    /// Puts.
    Live(S),
    /// Counts.
    Shadow(CountingSink<C>),
}

/// Counts what it gets. It has no access to the customer's account.
#[derive(Clone, Debug)]
pub struct CountingSink<C> {
    subject: Arc<Subject>,
    log_group_name: Arc<str>,
    sheet: Arc<Mutex<Sheet>>,
    /// Time of the notification, in milliseconds: the same in every attempt. Rejected events count there, because their own
    /// times may be anywhere.
    notified: i64,
    counts: C,
}

impl<S: LogSinks, C: CountStore> LogSinks for ShadowSinks<S, C> {
    type Sink = ModeSink<S::Sink, C>;

    async fn closed(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> Option<SinkError> {
        self.sinks.closed(delivery, destination, cluster).await
    }

    async fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
        object: &ObjectRef,
    ) -> Result<Self::Sink, SinkError> {
        let sink = self.sinks.open(delivery, destination, cluster, object).await?;
        match delivery.mode {
            Mode::Live => Ok(ModeSink::Live(sink)),
            Mode::Shadow => {
                let counts = self.counts.clone().ok_or_else(|| SinkError::Uncounted(no_store()))?;
                Ok(ModeSink::Shadow(CountingSink {
                    subject: Arc::new(Subject::of(&delivery.tenant_id, &delivery.name, object)),
                    log_group_name: destination.log_group_name.as_str().into(),
                    sheet: Arc::default(),
                    notified: object.event_time.unwrap_or_else(Timestamp::now).as_millisecond(),
                    counts,
                }))
            }
        }
    }
}

impl<C: CountStore> CountingSink<C> {
    async fn write(&self, sheet: &mut Sheet) -> Result<(), SinkError> {
        let counts = sheet.take(&self.log_group_name);
        if counts.is_empty() {
            return Ok(());
        }
        self.counts.write(&self.subject, &counts).await.map_err(SinkError::Uncounted)
    }

    /// Counts the events. Those that CloudWatch Logs would reject for their age are rejected.
    async fn put_log_events(&self, body: Bytes, lease: &Lease) -> Result<PutAnswer, SinkError> {
        lease.check().map_err(SinkError::LeaseEnded)?;
        let Request { log_stream_name, log_events, .. } = Request::read(&body);
        let stream = text(log_stream_name);
        let timestamps: Vec<_> = log_events.iter().map(|event| event.timestamp).collect();
        let rejected = RejectedEvents::by_age(&timestamps, Timestamp::now().as_millisecond());
        let mut sheet = self.sheet.lock().await;
        for (index, event) in log_events.iter().enumerate() {
            match rejected.reason(index) {
                Some(_) => sheet.reject(self.notified),
                None => sheet.count(event.timestamp, &stream, text(event.message).len() + EVENT_OVERHEAD),
            }
        }
        if sheet.is_full() {
            self.write(&mut sheet).await?;
        }
        Ok(PutAnswer { next_sequence_token: None, rejected })
    }

    /// Writes the counts.
    async fn finish(&self) -> Result<(), SinkError> {
        self.write(&mut *self.sheet.lock().await).await
    }
}

impl<S: LogSink, C: CountStore> LogSink for ModeSink<S, C> {
    async fn put_log_events(&self, body: Bytes, lease: &Lease) -> Result<PutAnswer, SinkError> {
        match self {
            Self::Live(sink) => sink.put_log_events(body, lease).await,
            Self::Shadow(sink) => sink.put_log_events(body, lease).await,
        }
    }

    async fn create_log_stream(&self, group: &str, stream: &str, lease: &Lease) -> Result<(), SinkError> {
        match self {
            Self::Live(sink) => sink.create_log_stream(group, stream, lease).await,
            Self::Shadow(_) => Ok(()),
        }
    }

    async fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> Result<(), SinkError> {
        match self {
            Self::Live(sink) => sink.create_log_group(group, retention_days, lease).await,
            Self::Shadow(_) => Ok(()),
        }
    }

    async fn finish(&self) -> Result<(), SinkError> {
        match self {
            Self::Live(sink) => sink.finish().await,
            Self::Shadow(sink) => sink.finish().await,
        }
    }
}
