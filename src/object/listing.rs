//! The port to a bucket's listing. `s3` is the adapter.

pub mod memory;
pub mod s3;

use std::{collections::VecDeque, future::Future};

use jiff::Timestamp;

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Key.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// ETag, without quotes.
    pub etag: Option<String>,
    /// LastModified.
    pub modified: Timestamp,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, ordered by key.
    pub objects: Vec<ListedObject>,
    /// Whether the listing goes on after the last of them.
    pub more: bool,
}

/// The bucket cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bucket {bucket:?} cannot be listed: {problem}")]
pub struct ListingError {
    /// The bucket.
    pub bucket: String,
    /// Error text, and what to do.
    pub problem: String,
}

/// Lists the current objects of one bucket, ordered by key.
pub trait ObjectListing: Send + Sync + 'static {
    /// Returns a page of at most 1,000 objects whose keys begin with `prefix` and come after `after`.
    ///
    /// # Errors
    /// See [`ListingError`].
    fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Page, ListingError>> + Send;
}

/// Goes through the objects below several prefixes, one after another. Holds one page in memory.
///
/// A page is asked for by the last key of the page before. A continuation token would do the same, but a slow reader may need
/// hours for a page, and S3 does not say how long a token is valid.
#[derive(Debug)]
pub struct Walk<'a, L> {
    listing: &'a L,
    prefixes: VecDeque<String>,
    page: VecDeque<ListedObject>,
    /// Last key of the page before, if the listing goes on in the same prefix.
    after: Option<String>,
}

impl<'a, L: ObjectListing> Walk<'a, L> {
    /// Starts before the first object. No prefix may begin with another.
    pub fn new(listing: &'a L, prefixes: impl IntoIterator<Item = String>) -> Self {
        Self { listing, prefixes: prefixes.into_iter().collect(), page: VecDeque::new(), after: None }
    }

    /// Returns the next object, or `None` after the last one.
    ///
    /// # Errors
    /// The page cannot be listed. The next call asks for the same page again.
    ///
    /// # Cancel safety
    /// No object is lost if the call is dropped.
    pub async fn next(&mut self) -> Result<Option<ListedObject>, ListingError> {
        loop {
            if let Some(listed) = self.page.pop_front() {
                return Ok(Some(listed));
            }
            let Some(prefix) = self.prefixes.front() else { return Ok(None) };
            let Page { objects, more } = self.listing.page(prefix, self.after.as_deref()).await?;
            // The adapter lets no page without objects have a next one.
            self.after = objects.last().filter(|_| more).map(|last| last.key.clone());
            if self.after.is_none() {
                self.prefixes.pop_front();
            }
            self.page = objects.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{memory::MemoryListing, *};

    #[tokio::test]
    async fn a_walk_finds_every_object_of_every_prefix_once() {
        let keys = ["a/1", "a/2", "a/3", "b/1", "c/1", "c/2"];
        let listing = MemoryListing::of(2, keys.map(|key| (key, 1, Timestamp::UNIX_EPOCH)));
        let check = async |prefixes: &[&str], expected: &[&str]| {
            let mut walk = Walk::new(&listing, prefixes.iter().map(|prefix| (*prefix).to_owned()));
            let mut found = Vec::new();
            while let Some(listed) = walk.next().await.expect("memory answers") {
                found.push(listed.key);
            }
            assert_eq!(found, expected, "{prefixes:?}");
        };
        check(&[""], &keys).await;
        check(&["a/", "c/"], &["a/1", "a/2", "a/3", "c/1", "c/2"]).await;
        check(&["x/", "b/"], &["b/1"]).await;
        check(&[], &[]).await;
    }

    #[tokio::test]
    async fn a_page_that_failed_is_asked_for_again() {
        let listing =
            MemoryListing::of(1, [("a", 1, Timestamp::UNIX_EPOCH), ("b", 1, Timestamp::UNIX_EPOCH)]);
        let mut walk = Walk::new(&listing, [String::new()]);
        assert_eq!(walk.next().await.expect("memory answers").map(|listed| listed.key).as_deref(), Some("a"));
        listing.fail_next();
        walk.next().await.expect_err("the page fails");
        assert_eq!(walk.next().await.expect("memory answers").map(|listed| listed.key).as_deref(), Some("b"));
        assert_eq!(walk.next().await.expect("memory answers"), None);
    }
}
