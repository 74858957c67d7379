//! What a bucket holds: keys, their versions, and its settings.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{checksum::Checksum, notification::Notifications, resource_policy::ResourcePolicy};

/// The version id of what was written without versioning.
pub(super) const NULL_VERSION: &str = "null";

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) account: String,
    pub(super) region: String,
    pub(super) created: Timestamp,
    pub(super) versioning: Versioning,
    pub(super) policy: Option<ResourcePolicy>,
    pub(super) notifications: Arc<Notifications>,
    /// Queues that get this bucket's EventBridge events.
    pub(super) eventbridge_targets: Vec<String>,
    pub(super) keys: BTreeMap<String, Vec<Version>>,
}

/// Whether a bucket keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versioning {
    Off,
    Enabled,
    Suspended,
}

/// One version of a key: an object or a delete marker.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) id: String,
    pub(super) modified: Timestamp,
    /// `None`: a delete marker.
    pub(super) object: Option<Arc<Object>>,
}

/// An object's bytes and everything its headers tell.
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
    /// The value of one of its headers.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(header, _)| header == name);
        header.and_then(|(_, value)| value.to_str().ok())
    }
}

/// What a delete did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deleted {
    /// There was nothing to delete.
    Nothing,
    /// A version is gone for good: its id, and whether it was a delete marker.
    Version(String, bool),
    /// A delete marker with that id now hides the key.
    Marked(String),
}

impl Bucket {
    /// Its ARN.
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:s3:::{}", self.name)
    }

    /// Adds an object as the key's latest version and returns that version.
    pub(super) fn put(&mut self, key: &str, object: Object) -> Version {
        self.add(key, Some(Arc::new(object)))
    }

    fn add(&mut self, key: &str, object: Option<Arc<Object>>) -> Version {
        let versions = self.keys.entry(key.to_owned()).or_default();
        let id = if self.versioning == Versioning::Enabled {
            version_id()
        } else {
            versions.retain(|version| version.id != NULL_VERSION);
            NULL_VERSION.to_owned()
        };
        let version = Version { id, modified: Timestamp::now(), object };
        versions.push(version.clone());
        version
    }

    /// The key's latest version, a delete marker included.
    pub(super) fn latest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last()
    }

    /// One version of a key.
    pub(super) fn version(&self, key: &str, id: &str) -> Option<&Version> {
        self.keys.get(key)?.iter().find(|version| version.id == id)
    }

    /// Keys whose latest version is an object, from `start` on, in order.
    pub(super) fn objects_from(&self, start: &str) -> impl Iterator<Item = (&str, &Version, &Object)> {
        let from = (Bound::Included(start), Bound::Unbounded);
        self.keys.range::<str, _>(from).filter_map(|(key, versions)| {
            let version = versions.last()?;
            Some((key.as_str(), version, version.object.as_deref()?))
        })
    }

    /// Deletes as S3 does: with versioning a marker is put on top, else the object goes.
    pub(super) fn delete(&mut self, key: &str) -> Deleted {
        match self.versioning {
            Versioning::Off => self.delete_version(key, NULL_VERSION),
            Versioning::Enabled | Versioning::Suspended => Deleted::Marked(self.add(key, None).id),
        }
    }

    /// Deletes one version for good.
    pub(super) fn delete_version(&mut self, key: &str, id: &str) -> Deleted {
        let Some(versions) = self.keys.get_mut(key) else { return Deleted::Nothing };
        let Some(at) = versions.iter().position(|version| version.id == id) else { return Deleted::Nothing };
        let version = versions.remove(at);
        if versions.is_empty() {
            self.keys.remove(key);
        }
        Deleted::Version(version.id, version.object.is_none())
    }
}

fn version_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(32).collect()
}
