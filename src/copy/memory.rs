//! Customers' buckets in memory, for tests.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Copied, CopyError, CopyJob, CopyWay, ObjectCopier};
use crate::credentials::AssumeError;

/// Buckets by name. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryCopier {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The source of each copy, by bucket and key.
    copies: BTreeMap<(String, String), String>,
    refusals: HashMap<String, CopyError>,
    closed: HashMap<String, AssumeError>,
    superseding: HashSet<String>,
    calls: usize,
}

impl MemoryCopier {
    /// Makes every copy into this bucket fail with `error`, until [`mend`](Self::mend) is called.
    pub fn break_bucket(&self, bucket: &str, error: CopyError) {
        self.state().refusals.insert(bucket.to_owned(), error);
    }

    /// Makes entering the role for this bucket fail with `error`, until [`mend`](Self::mend) is called.
    pub fn close_role(&self, bucket: &str, error: AssumeError) {
        self.state().closed.insert(bucket.to_owned(), error);
    }

    /// Makes every copy into this bucket find a later version of its object.
    pub fn supersede(&self, bucket: &str) {
        self.state().superseding.insert(bucket.to_owned());
    }

    /// Undoes [`break_bucket`](Self::break_bucket) and [`close_role`](Self::close_role).
    pub fn mend(&self, bucket: &str) {
        self.state().refusals.remove(bucket);
        self.state().closed.remove(bucket);
    }

    /// Key and source of every copy in the bucket.
    pub fn copies(&self, bucket: &str) -> Vec<(String, String)> {
        let state = self.state();
        let inside = state.copies.iter().filter(|((name, _), _)| name == bucket);
        inside.map(|((_, key), source)| (key.clone(), source.clone())).collect()
    }

    /// Number of copies that were asked for.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// The error of every write into this bucket, if it is broken.
    pub fn refusal(&self, bucket: &str) -> Option<CopyError> {
        self.state().refusals.get(bucket).cloned()
    }

    /// The error of a role that is held.
    pub fn closed_bucket(&self, bucket: &str) -> Option<CopyError> {
        let closed = self.state().closed.get(bucket).cloned();
        closed.filter(|error| matches!(error, AssumeError::Held { .. })).map(CopyError::Session)
    }

    /// Enters the role for a bucket.
    ///
    /// # Errors
    /// The role is closed.
    pub fn enter_bucket(&self, bucket: &str) -> Result<(), CopyError> {
        let closed = self.state().closed.get(bucket).cloned();
        closed.map_or(Ok(()), |error| Err(CopyError::Session(error)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectCopier for MemoryCopier {
    type Session = ();

    async fn closed(&self, way: &CopyWay<'_>) -> Option<CopyError> {
        self.closed_bucket(&way.destination.bucket_name)
    }

    async fn enter(&self, way: &CopyWay<'_>) -> Result<(), CopyError> {
        way.key()?;
        self.enter_bucket(&way.destination.bucket_name)
    }

    async fn copy(&self, (): &(), job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        // Like a network call, let other tasks run first.
        tokio::task::yield_now().await;
        job.check_size()?;
        let key = job.way.key()?;
        let bucket = &job.way.destination.bucket_name;
        let mut state = self.state();
        state.calls += 1;
        if let Some(error) = state.refusals.get(bucket) {
            return Err(error.clone());
        }
        if state.superseding.contains(bucket) {
            return Ok(Copied::Superseded);
        }
        state.copies.insert((bucket.clone(), key), job.source());
        Ok(Copied::Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::tests::Order;

    #[tokio::test]
    async fn copies_arrive_unless_the_bucket_is_broken() {
        let copier = MemoryCopier::default();
        let order = Order::new("a/c/b/p/f", &[("target_region", "us-east-1"), ("bucket_name", "theirs")]);
        copier.break_bucket("theirs", CopyError::Throttled("slow down".into()));
        assert!(matches!(copier.copy(&(), &order.job()).await, Err(CopyError::Throttled(_))));
        assert_eq!(copier.copies("theirs"), []);
        copier.mend("theirs");
        for _ in 0..2 {
            assert_eq!(copier.copy(&(), &order.job()).await, Ok(Copied::Written));
        }
        let copies = [("ROSA/cluster-logs/a/b/p/f".to_owned(), "staging/a/c/b/p/f".to_owned())];
        assert_eq!((copier.copies("theirs"), copier.calls()), (copies.into(), 3));
    }
}
