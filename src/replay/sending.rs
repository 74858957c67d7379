//! Sends messages about objects to the worker's queue, instead of delivering the objects.

use std::time::Duration;

use futures_util::future;
use tokio_util::sync::CancellationToken;

use super::{Destination, Fate, Item, Taken};
use crate::{
    event::{ObjectRef, created_event},
    manual::FailureOutcome,
    object::ObjectStore,
    queue::{MAX_BATCH, Outbox, Outgoing, QueueError},
    verdict::{Failed, Failure},
};

/// Most calls for one message. An entry of a batch can fail alone, and the SDK repeats only calls that fail as a whole.
const MAX_SENDS: usize = 3;
/// Pause before the messages that could not be sent are sent again.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends a message for each object, ten with each call.
#[derive(Debug)]
pub struct MessageSender<O, Q> {
    /// The bucket: its objects' versions are read, so that the worker uses the same entries of the ledger as after an event of
    /// S3.
    pub store: O,
    /// The account that must own the bucket.
    pub owner: Option<String>,
    /// The bucket's Region.
    pub region: String,
    /// The queue.
    pub outbox: Q,
}

#[async_trait::async_trait]
impl<O: ObjectStore, Q: Outbox> Destination for MessageSender<O, Q> {
    fn batch(&self) -> usize {
        MAX_BATCH
    }

    async fn take(&self, items: &[Item], stop: &CancellationToken) -> Vec<Taken> {
        let pins = items.iter().map(|item| self.pin(&item.object, stop));
        let (mut fates, mut messages): (Vec<Option<Fate>>, Vec<_>) = (Vec::new(), Vec::new());
        for (place, pinned) in future::join_all(pins).await.into_iter().enumerate() {
            match pinned {
                Ok(object) => {
                    let tenant_id = items[place].tenant_id.clone();
                    let body = created_event(&object, &self.region);
                    messages.push((place, Outgoing { body, tenant_id }));
                    fates.push(None);
                }
                Err(failed) => fates.push(Some(Fate::from(failed))),
            }
        }
        for sends in 1..=MAX_SENDS {
            if messages.is_empty() || stop.is_cancelled() {
                break;
            }
            let batch: Vec<_> = messages.iter().map(|(_, message)| message.clone()).collect();
            let mut results = self.outbox.send(&batch).await.into_iter();
            messages.retain(|(place, _)| {
                let fate = match results.next().expect("the outbox answers for every message") {
                    Ok(()) => Fate::Sent,
                    Err(QueueError::Unavailable(_)) if sends < MAX_SENDS => return true,
                    Err(error) => Fate::Unsent(error),
                };
                fates[*place] = Some(fate);
                false
            });
            if !messages.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        // What is still open was not sent, because the run was stopped.
        fates.into_iter().map(|fate| fate.unwrap_or(Fate::Interrupted).into()).collect()
    }
}

impl<O: ObjectStore, Q> MessageSender<O, Q> {
    async fn pin(&self, object: &ObjectRef, stop: &CancellationToken) -> Result<ObjectRef, Failed> {
        let head = tokio::select! {
            head = self.store.head(object, self.owner.as_deref()) => head.map_err(Failure::Object),
            () = stop.cancelled() => Err(Failure::Stopping),
        };
        match head {
            Ok(head) => Ok(head.pin(object)),
            Err(failure) => Err(Failed::of(object, None, None, failure)),
        }
    }
}

impl From<&QueueError> for FailureOutcome {
    fn from(error: &QueueError) -> Self {
        let (reason, remedy) = match error {
            QueueError::Denied(_) => {
                ("queue_denied", "Allow sqs:SendMessage on the queue, and the use of its KMS key.")
            }
            QueueError::Missing(_) => ("queue_missing", "Correct queue.url."),
            QueueError::Refused(_) => ("queue_refused", "Raise the queue's MaximumMessageSize."),
            QueueError::Gone(_) | QueueError::Unavailable(_) => {
                ("queue_unavailable", "Run the command again when SQS answers.")
            }
        };
        let retry = matches!(error, QueueError::Unavailable(_));
        Self { delivery: None, reason, error: error.to_string(), remedy, retry }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::Timestamp;

    use super::*;
    use crate::object::{
        ObjectError,
        memory::{MemoryObject, MemoryStore},
    };

    /// Answers each call with the next results, and then with success.
    #[derive(Debug, Default)]
    struct Answers {
        results: Mutex<Vec<Vec<Result<(), QueueError>>>>,
        sent: Mutex<Vec<Vec<String>>>,
    }

    impl Outbox for Answers {
        async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
            let tenants = messages.iter().map(|message| message.tenant_id.clone()).collect();
            self.sent.lock().expect("no test panics with the lock").push(tenants);
            let mut results = self.results.lock().expect("no test panics with the lock");
            if results.is_empty() { vec![Ok(()); messages.len()] } else { results.remove(0) }
        }
    }

    fn item(tenant: &str) -> Item {
        let object =
            ObjectRef { bucket: "staging".to_owned(), key: tenant.to_owned(), ..ObjectRef::default() };
        Item { object, etag: None, tenant_id: tenant.to_owned(), modified: Timestamp::UNIX_EPOCH }
    }

    fn sender(
        tenants: &[&str],
        results: Vec<Vec<Result<(), QueueError>>>,
    ) -> MessageSender<MemoryStore, Answers> {
        let store = MemoryStore::default();
        for tenant in tenants {
            store.put("staging", tenant, MemoryObject::new(vec![0; 9], Timestamp::UNIX_EPOCH));
        }
        let outbox = Answers { results: Mutex::new(results), ..Answers::default() };
        MessageSender { store, owner: None, region: "us-east-1".to_owned(), outbox }
    }

    fn words(taken: &[Taken]) -> Vec<String> {
        let word = |taken: &Taken| match &taken.fate {
            Fate::Unsent(error) => error.kind().to_owned(),
            Fate::Failed(failed) => failed.failure.reason().to_owned(),
            other => format!("{other:?}"),
        };
        taken.iter().map(word).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_entries_that_failed_are_sent_again() {
        let busy = || Err(QueueError::Unavailable("throttled".to_owned()));
        let refused = || Err(QueueError::Refused("too long".to_owned()));
        let results = vec![vec![Ok(()), busy(), refused(), busy()], vec![busy(), Ok(())], vec![busy()]];
        let sender = sender(&["a", "b", "c", "d"], results);
        let items = ["a", "b", "c", "d"].map(item);
        let taken = sender.take(&items, &CancellationToken::new()).await;
        assert_eq!(words(&taken), ["Sent", "unavailable", "refused", "Sent"]);
        let sent = sender.outbox.sent.lock().expect("no test panics with the lock").clone();
        assert_eq!(sent, [vec!["a", "b", "c", "d"], vec!["b", "d"], vec!["b"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_without_metadata_does_not_stop_the_others() {
        let sender = sender(&["a", "c"], Vec::new());
        sender.store.put("staging", "b", MemoryObject::refused(ObjectError::Denied("no".to_owned())));
        let items = ["a", "b", "c", "d"].map(item);
        let taken = sender.take(&items, &CancellationToken::new()).await;
        assert_eq!(words(&taken), ["Sent", "object_denied", "Sent", "object_missing"]);
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(words(&sender.take(&[item("a")], &stop).await), ["Interrupted"]);
    }
}
