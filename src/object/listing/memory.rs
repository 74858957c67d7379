//! A listing in memory, for tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::{ListedObject, ListingError, ObjectListing, Page};

/// The listing. Clones share its objects.
#[derive(Clone, Debug)]
pub struct MemoryListing {
    page: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, ListedObject>,
    prefixes: Vec<String>,
    fails: bool,
}

impl MemoryListing {
    /// A listing with pages of `page` objects, each given by key, size and LastModified.
    pub fn of<'a>(page: usize, objects: impl IntoIterator<Item = (&'a str, u64, Timestamp)>) -> Self {
        let listing = Self { page, state: Arc::default() };
        objects.into_iter().for_each(|(key, size, modified)| listing.put(key, size, modified));
        listing
    }

    /// Adds or replaces an object. Its ETag is made of its size and time.
    pub fn put(&self, key: &str, size: u64, modified: Timestamp) {
        let etag = Some(format!("{size}-{modified}"));
        let listed = ListedObject { key: key.to_owned(), size, etag, modified };
        self.lock().objects.insert(key.to_owned(), listed);
    }

    /// Makes the next page fail.
    pub fn fail_next(&self) {
        self.lock().fails = true;
    }

    /// The prefix of each page so far.
    pub fn prefixes(&self) -> Vec<String> {
        self.lock().prefixes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectListing for MemoryListing {
    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Page, ListingError> {
        let mut state = self.lock();
        state.prefixes.push(prefix.to_owned());
        if std::mem::take(&mut state.fails) {
            return Err(ListingError { bucket: "staging".to_owned(), problem: "no answer".to_owned() });
        }
        let mut found = state.objects.values().filter(|listed| {
            listed.key.starts_with(prefix) && after.is_none_or(|after| listed.key.as_str() > after)
        });
        let objects = found.by_ref().take(self.page).cloned().collect();
        Ok(Page { objects, more: found.next().is_some() })
    }
}
