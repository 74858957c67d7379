//! Contents of a bucket: keys, their versions, and its settings.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{checksum::Checksum, multipart::Upload, notification::Rule};
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
    pub(super) object: Arc<Object>,
}

/// Body and headers of an object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) body: Bytes,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) checksum: Checksum,
    /// Content headers, user metadata, encryption and storage class.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Object {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(header, _)| header == name);
        header.and_then(|(_, value)| value.to_str().ok())
    }
}

impl Bucket {
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:s3:::{}", self.name)
    }

    /// Stores an object as the key's latest version and returns that version.
    pub(super) fn put(&mut self, key: &str, object: Object) -> Version {
        let versions = self.keys.entry(key.to_owned()).or_default();
        let id = if self.versioned {
            version_id()
        } else {
            versions.retain(|version| version.id != NULL_VERSION);
            NULL_VERSION.to_owned()
        };
        let version = Version { id, modified: Timestamp::now(), object: Arc::new(object) };
        versions.push(version.clone());
        version
    }

    /// Removes an object. In a bucket without versions, its bytes are gone.
    pub(super) fn remove(&mut self, key: &str) {
        self.keys.remove(key);
    }

    pub(super) fn latest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last()
    }

    pub(super) fn version(&self, key: &str, id: &str) -> Option<&Version> {
        self.keys.get(key)?.iter().find(|version| version.id == id)
    }

    /// Latest versions of the keys from `start` on, in order.
    pub(super) fn objects_from(&self, start: &str) -> impl Iterator<Item = (&str, &Version, &Object)> {
        let from = (Bound::Included(start), Bound::Unbounded);
        self.keys.range::<str, _>(from).filter_map(|(key, versions)| {
            let version = versions.last()?;
            Some((key.as_str(), version, &*version.object))
        })
    }
}

fn version_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(32).collect()
}
