//! Contents of a bucket: keys, their versions, and its settings.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{checksum::Checksum, lock::Retention, multipart::Upload, notification::Rule};
use crate::policy::Policy;

/// Version id of objects written without versioning.
pub(super) const NULL_VERSION: &str = "null";

#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) account: String,
    pub(super) region: String,
    /// Whether the bucket is versioned.
    pub(super) versioned: bool,
    /// Whether versions can have a retention.
    pub(super) lockable: bool,
    pub(super) policy: Option<Policy>,
    pub(super) rules: Arc<Vec<Rule>>,
    pub(super) keys: BTreeMap<String, Vec<Version>>,
    /// Multipart uploads that are neither completed nor aborted, by upload id.
    pub(super) uploads: BTreeMap<String, Upload>,
}

#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) id: String,
    pub(super) modified: Timestamp,
    /// `None` for a delete marker.
    pub(super) object: Option<Arc<Object>>,
}

/// Body and headers of an object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) body: Bytes,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) checksum: Checksum,
    /// Content headers, user metadata and encryption.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) retention: Option<Retention>,
}

impl Bucket {
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:s3:::{}", self.name)
    }

    /// Adds an object or a delete marker as the key's latest version and returns that version.
    pub(super) fn add(&mut self, key: &str, object: Option<Object>) -> Version {
        let versions = self.keys.entry(key.to_owned()).or_default();
        let id = if self.versioned {
            version_id()
        } else {
            versions.retain(|version| version.id != NULL_VERSION);
            NULL_VERSION.to_owned()
        };
        let version = Version { id, modified: Timestamp::now(), object: object.map(Arc::new) };
        versions.push(version.clone());
        version
    }

    /// Removes a version. Its bytes are gone.
    pub(super) fn remove_version(&mut self, key: &str, id: &str) {
        if let Some(versions) = self.keys.get_mut(key) {
            versions.retain(|version| version.id != id);
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    pub(super) fn latest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last()
    }

    /// ETag of the object that a read gets without a version id.
    pub(super) fn current_etag(&self, key: &str) -> Option<&str> {
        self.latest(key)?.object.as_deref().map(|object| object.etag.as_str())
    }

    pub(super) fn version(&self, key: &str, id: &str) -> Option<&Version> {
        self.keys.get(key)?.iter().find(|version| version.id == id)
    }

    /// Current objects of the keys from `start` on, in order.
    pub(super) fn objects_from(&self, start: &str) -> impl Iterator<Item = (&str, &Version, &Object)> {
        let from = (Bound::Included(start), Bound::Unbounded);
        self.keys.range::<str, _>(from).filter_map(|(key, versions)| {
            let version = versions.last()?;
            Some((key.as_str(), version, version.object.as_deref()?))
        })
    }
}

fn version_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(32).collect()
}
