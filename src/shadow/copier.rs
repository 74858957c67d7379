//! Copies and lakes of live deliveries and of those in shadow mode.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Count, CountStore, Subject, Window, WindowCounts, no_store};
use crate::{
    copy::{Copied, CopyError, CopyJob, CopyWay, ObjectCopier},
    event::ObjectRef,
    lake::{FileSpec, LakeAccount, LakeStore, LakeWay, Part, Upload},
    tenant::{Bucket, Delivery, Mode},
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

impl<K: ObjectCopier, C: CountStore> ObjectCopier for ShadowCopier<K, C> {
    /// A session in the customer's account; none if the object is counted.
    type Session = Option<K::Session>;

    async fn closed(&self, way: &CopyWay<'_>) -> Option<CopyError> {
        self.copier.closed(way).await
    }

    async fn enter(&self, way: &CopyWay<'_>) -> Result<Self::Session, CopyError> {
        let session = self.copier.enter(way).await?;
        Ok((way.delivery.mode == Mode::Live).then_some(session))
    }

    async fn copy(&self, session: &Self::Session, job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        if let Some(session) = session {
            return self.copier.copy(session, job).await;
        }
        let counts = self.counts.as_ref().ok_or_else(|| CopyError::Uncounted(no_store()))?;
        let CopyWay { delivery, destination, object, .. } = job.way;
        let count = Count { events: 1, bytes: job.head.size.or(object.size).unwrap_or_default() };
        let (subject, counted) = counted(delivery, destination, object, count);
        counts.write(&subject, &[counted]).await.map_err(CopyError::Uncounted)?;
        Ok(Copied::Counted)
    }
}

/// The counts of one object that goes into a bucket.
fn counted(
    delivery: &Delivery,
    destination: &Bucket,
    object: &ObjectRef,
    count: Count,
) -> (Subject, WindowCounts) {
    // The event's time is the same in every attempt.
    let at = object.event_time.unwrap_or_else(Timestamp::now);
    let counted = WindowCounts {
        window: Window::of(at.as_millisecond()),
        part: 0,
        place: format!("s3://{}", destination.bucket_name),
        streams: BTreeMap::from([(String::new(), count)]),
        rejected: 0,
    };
    (Subject::of(&delivery.tenant_id, &delivery.name, object), counted)
}

/// What a delivery writes lake files with.
#[derive(Debug)]
pub enum ModeLake<A, C> {
    /// The customer's bucket.
    Live(A),
    /// Nothing: the object's records and the bytes of its files are counted.
    Shadow {
        /// `None`: the worker cannot keep counts.
        counts: Option<C>,
        /// What is counted, and where; without its number.
        counted: Box<(Subject, WindowCounts)>,
    },
}

impl<K: LakeStore, C: CountStore> LakeStore for ShadowCopier<K, C> {
    type Account = ModeLake<K::Account, C>;

    async fn lake_closed(&self, way: &LakeWay<'_>) -> Option<CopyError> {
        self.copier.lake_closed(way).await
    }

    async fn enter_lake(&self, way: &LakeWay<'_>) -> Result<Self::Account, CopyError> {
        let account = self.copier.enter_lake(way).await?;
        Ok(match way.delivery.mode {
            Mode::Live => ModeLake::Live(account),
            Mode::Shadow => ModeLake::Shadow {
                counts: self.counts.clone(),
                counted: Box::new(counted(way.delivery, way.destination, way.object, Count::default())),
            },
        })
    }
}

impl<A: LakeAccount, C: CountStore> LakeAccount for ModeLake<A, C> {
    async fn put(&self, file: &FileSpec, body: Bytes) -> Result<(), CopyError> {
        match self {
            Self::Live(account) => account.put(file, body).await,
            Self::Shadow { .. } => Ok(()),
        }
    }

    async fn begin(&self, file: &FileSpec) -> Result<String, CopyError> {
        match self {
            Self::Live(account) => account.begin(file).await,
            Self::Shadow { .. } => Ok(String::new()),
        }
    }

    async fn part(&self, upload: &Upload, number: i32, body: Bytes) -> Result<Part, CopyError> {
        match self {
            Self::Live(account) => account.part(upload, number, body).await,
            Self::Shadow { .. } => Ok(Part { number, etag: None }),
        }
    }

    async fn complete(&self, upload: &Upload, parts: Vec<Part>) -> Result<(), CopyError> {
        match self {
            Self::Live(account) => account.complete(upload, parts).await,
            Self::Shadow { .. } => Ok(()),
        }
    }

    async fn abort(&self, upload: &Upload) {
        match self {
            Self::Live(account) => account.abort(upload).await,
            Self::Shadow { .. } => {}
        }
    }

    async fn count(&self, records: u64, bytes: u64) -> Result<(), CopyError> {
        let (counts, counted) = match self {
            Self::Live(account) => return account.count(records, bytes).await,
            Self::Shadow { counts, counted } => (counts, counted),
        };
        let counts = counts.as_ref().ok_or_else(|| CopyError::Uncounted(no_store()))?;
        let (subject, mut counted) = (**counted).clone();
        counted.streams.insert(String::new(), Count { events: records, bytes });
        counts.write(&subject, &[counted]).await.map_err(CopyError::Uncounted)
    }
}
