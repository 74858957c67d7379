//! An in-memory object store for tests. Objects arrive in chunks, and reads fail where a test asks for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{ObjectBody, ObjectError, ObjectHead, ObjectStore};
use crate::event::ObjectRef;

/// In-memory object store. Clones share the objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<(String, String), MemoryObject>,
    opened: Vec<(String, Option<String>)>,
    heads: Vec<(String, Option<String>)>,
    read: u64,
}

/// An object and its behaviour when it is read.
#[derive(Clone, Debug)]
pub struct MemoryObject {
    /// Stored bytes.
    pub bytes: Vec<u8>,
    /// LastModified.
    pub modified: Timestamp,
    /// Size of each chunk in bytes.
    pub chunk: usize,
    /// Whether the store tells the object's length.
    pub sized: bool,
    /// Whether every chunk is ready at once.
    pub at_once: bool,
    /// Whether the store has a checksum of the object, which is checked at the end.
    pub checksum: bool,
    /// Error that every open and every head returns.
    pub refusal: Option<ObjectError>,
    /// Number of bytes after which reading fails, and the error.
    pub breaks: Option<(usize, ObjectError)>,
}

/// An open object of a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryBody {
    state: Arc<Mutex<State>>,
    len: Option<u64>,
    at_once: bool,
    /// Whether a checksum is still to be checked.
    checksum: bool,
    chunks: VecDeque<Bytes>,
    breaks: Option<ObjectError>,
}

impl MemoryObject {
    /// Creates an object that is read without error, in chunks of 1,024 bytes.
    pub fn new(bytes: Vec<u8>, modified: Timestamp) -> Self {
        let (chunk, sized, at_once, checksum) = (1024, true, false, true);
        Self { bytes, modified, chunk, sized, at_once, checksum, refusal: None, breaks: None }
    }

    /// Creates an object that cannot be opened.
    pub fn refused(error: ObjectError) -> Self {
        Self { refusal: Some(error), ..Self::new(Vec::new(), Timestamp::UNIX_EPOCH) }
    }

    /// Makes reading fail after `read` bytes.
    pub fn breaking(mut self, read: usize, error: ObjectError) -> Self {
        self.breaks = Some((read, error));
        self
    }

    /// Hides the object's length.
    pub fn of_unknown_length(self) -> Self {
        Self { sized: false, ..self }
    }

    /// Removes the object's checksum.
    pub fn without_checksum(self) -> Self {
        Self { checksum: false, ..self }
    }

    /// Makes every chunk ready at once.
    pub fn there_at_once(self) -> Self {
        Self { at_once: true, ..self }
    }

    /// Sets the size of the chunks.
    pub fn in_chunks(self, chunk: usize) -> Self {
        Self { chunk, ..self }
    }
}

impl MemoryStore {
    /// Stores or replaces an object.
    pub fn put(&self, bucket: &str, key: &str, object: MemoryObject) {
        self.lock().objects.insert((bucket.to_owned(), key.to_owned()), object);
    }

    /// Key and expected owner of every head so far.
    pub fn heads(&self) -> Vec<(String, Option<String>)> {
        self.lock().heads.clone()
    }

    /// Key and expected owner of every open so far.
    pub fn opened(&self) -> Vec<(String, Option<String>)> {
        self.lock().opened.clone()
    }

    /// Number of bytes read so far, of all objects.
    pub fn bytes_read(&self) -> u64 {
        self.lock().read
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ObjectStore for MemoryStore {
    type Body = MemoryBody;

    async fn open(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> Result<(Timestamp, MemoryBody), ObjectError> {
        let mut state = self.lock();
        state.opened.push((object.key.clone(), owner.map(str::to_owned)));
        let stored = state.objects.get(&(object.bucket.clone(), object.key.clone()));
        let stored = stored.ok_or_else(|| ObjectError::Missing("NoSuchKey".into()))?;
        if let Some(error) = &stored.refusal {
            return Err(error.clone());
        }
        let good = stored.breaks.as_ref().map_or(stored.bytes.len(), |(read, _)| *read);
        let chunks = stored.bytes[..good].chunks(stored.chunk).map(Bytes::copy_from_slice).collect();
        let breaks = stored.breaks.as_ref().map(|(_, error)| error.clone());
        let len = stored.sized.then_some(stored.bytes.len() as u64);
        let MemoryObject { at_once, checksum, modified, .. } = *stored;
        let state = Arc::clone(&self.state);
        Ok((modified, MemoryBody { state, len, at_once, checksum, chunks, breaks }))
    }

    async fn head(&self, object: &ObjectRef, owner: Option<&str>) -> Result<ObjectHead, ObjectError> {
        let mut state = self.lock();
        state.heads.push((object.key.clone(), owner.map(str::to_owned)));
        let key = (object.bucket.clone(), object.key.clone());
        let stored = state.objects.get(&key).ok_or_else(|| ObjectError::Missing("404".into()))?;
        match &stored.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(ObjectHead { size: Some(stored.bytes.len() as u64), ..ObjectHead::default() }),
        }
    }
}

impl ObjectBody for MemoryBody {
    fn content_length(&self) -> Option<u64> {
        self.len
    }

    fn has_check_ahead(&self) -> bool {
        self.checksum
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ObjectError> {
        // A read from a network is rarely ready at once. So other tasks run before this read continues.
        if !self.at_once {
            tokio::task::yield_now().await;
        }
        match self.chunks.pop_front() {
            Some(chunk) => {
                lock(&self.state).read += chunk.len() as u64;
                Ok(Some(chunk))
            }
            None => {
                self.checksum = false;
                self.breaks.take().map_or(Ok(None), Err)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(store: &MemoryStore, key: &str) -> (Vec<Bytes>, Option<ObjectError>) {
        let object = ObjectRef { bucket: "b".into(), key: key.into(), ..ObjectRef::default() };
        let mut body = match store.open(&object, Some("owner")).await {
            Ok((_, body)) => body,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut chunks = Vec::new();
        loop {
            match body.chunk().await {
                Ok(Some(chunk)) => chunks.push(chunk),
                Ok(None) => return (chunks, None),
                Err(error) => return (chunks, Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn objects_are_read_in_chunks_and_fail_as_requested() {
        let store = MemoryStore::default();
        let object = MemoryObject::new(b"abcdefgh".to_vec(), Timestamp::UNIX_EPOCH).in_chunks(3);
        store.put("b", "whole", object.clone());
        store.put("b", "broken", object.breaking(4, ObjectError::Unavailable("reset".into())));
        store.put("b", "denied", MemoryObject::refused(ObjectError::Denied("no".into())));
        let (chunks, error) = read(&store, "whole").await;
        assert_eq!((chunks, error.is_none()), (vec!["abc".into(), "def".into(), "gh".into()], true));
        let (chunks, error) = read(&store, "broken").await;
        assert_eq!(chunks, ["abc", "d"]);
        assert!(matches!(error, Some(ObjectError::Unavailable(_))));
        assert!(matches!(read(&store, "denied").await, (_, Some(ObjectError::Denied(_)))));
        assert!(matches!(read(&store, "other").await, (_, Some(ObjectError::Missing(_)))));
        assert_eq!(store.bytes_read(), 8 + 4);
        assert_eq!(store.opened()[0], ("whole".to_owned(), Some("owner".to_owned())));
    }
}
