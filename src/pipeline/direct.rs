//! Handles single objects that no message brought, for an operator's command.

use super::*;

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Handles one object. No verdict follows: the caller decides what a failure means.
    ///
    /// # Cancel safety
    /// As [`Pipeline::handle`].
    pub async fn process_object(&self, object: &ObjectRef, stop: &CancellationToken) -> MessageReport {
        let mut report = MessageReport::default();
        let place = &Place::whole();
        let handling = Handling { message: None, attempt: Attempt::Ordinary, place, stop };
        self.object(object, handling, &mut report).await;
        report
    }

    /// Finds the object that a bucket and a key name now, or the named version of it: adds its version or eTag and its size,
    /// as an event of S3 has them, so that the object has the same entry in the ledger.
    ///
    /// # Errors
    /// The bucket may not be read, or the object's metadata cannot be read.
    pub async fn current(&self, object: &ObjectRef) -> Result<ObjectRef, Failed> {
        let fail = |failure| Failed::of(object, None, None, failure);
        let buckets = &self.settings.buckets;
        if !buckets.is_empty() && !buckets.contains_key(&object.bucket) {
            return Err(fail(Failure::ForeignBucket));
        }
        let head = self.ports.store.head(object, self.owner(object)).await;
        Ok(head.map_err(|error| fail(self.unread(object, error)))?.pin(object))
    }
}
