//! A copier for live deliveries and for those in shadow mode.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Count, CountStore, Subject, Window, WindowCounts, no_store};
use crate::{
    copy::{Copied, CopyError, CopyJob, ObjectCopier, Way},
    tenant::Mode,
};

/// Copies for live deliveries. For those in shadow mode, it enters the customer's account and counts the object.
#[derive(Debug)]
pub struct ShadowCopier<K, C> {
    copier: K,
    /// `None`: the worker cannot keep counts.
    counts: Option<C>,
}

impl<K, C> ShadowCopier<K, C> {
    /// Stands in front of `copier`, and keeps counts in `counts`.
    pub fn new(copier: K, counts: Option<C>) -> Self {
        Self { copier, counts }
    }
}

/// What a delivery copies with.
#[derive(Debug)]
pub enum ModeSession<S> {
    /// A session in the customer's account.
    Live(S),
    /// Nothing: the object is counted.
    Shadow,
}

impl<K: ObjectCopier, C: CountStore> ObjectCopier for ShadowCopier<K, C> {
    type Session = ModeSession<K::Session>;

    async fn closed(&self, way: &Way<'_>) -> Option<CopyError> {
        self.copier.closed(way).await
    }

    async fn enter(&self, way: &Way<'_>) -> Result<Self::Session, CopyError> {
        let session = self.copier.enter(way).await?;
        Ok(match way.delivery.mode {
            Mode::Live => ModeSession::Live(session),
            Mode::Shadow => ModeSession::Shadow,
        })
    }

    async fn copy(&self, session: &Self::Session, job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        let counts = match session {
            ModeSession::Live(session) => return self.copier.copy(session, job).await,
            ModeSession::Shadow => self.counts.as_ref().ok_or_else(|| CopyError::Uncounted(no_store()))?,
        };
        let Way { delivery, destination, object, .. } = job.way;
        // The event's time is the same in every attempt.
        let at = object.event_time.unwrap_or_else(Timestamp::now);
        let count = Count { events: 1, bytes: job.head.size.or(object.size).unwrap_or_default() };
        let counted = WindowCounts {
            window: Window::of(at.as_millisecond()),
            part: 0,
            place: format!("s3://{}", destination.bucket_name),
            streams: BTreeMap::from([(String::new(), count)]),
            rejected: 0,
        };
        let subject = Subject::of(&delivery.tenant_id, &delivery.name, object);
        counts.write(&subject, &[counted]).await.map_err(CopyError::Uncounted)?;
        Ok(Copied::Counted)
    }
}
