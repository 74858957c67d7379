//! The port to customers' buckets for copies. S3 itself copies an object there unchanged; its bytes do not pass through the
//! worker. `s3` is the adapter. `verdict` decides what an error means for the message.

mod origin;
pub mod s3;

use std::{fmt::Write, future::Future};

pub use self::origin::metadata;
use crate::{
    credentials::{AssumeError, identity::IdentityError},
    event::{ObjectRef, percent_encoded},
    ledger::LedgerError,
    name::ObjectKeyTemplate,
    object::ObjectHead,
    route::Route,
    tenant::{Bucket, Delivery},
};

/// Copies objects into customers' buckets. Callers do not repeat failed calls: the SDK retries them, and `copy` begins again
/// if another object was written to the copy's key meanwhile.
pub trait ObjectCopier: Send + Sync + 'static {
    /// A session in the role that copies.
    type Session: Send + Sync;

    /// The error that [`ObjectCopier::enter`] would return without a call: the role was refused before, and no probe is due.
    fn closed(&self, way: &CopyWay<'_>) -> impl Future<Output = Option<CopyError>> + Send;

    /// Refuses a key that is too long. Then enters the customer's role, or the central role if the row names none. Makes no
    /// call if a session exists.
    ///
    /// # Errors
    /// [`CopyError::Session`], or [`CopyError::KeyTooLong`].
    fn enter(&self, way: &CopyWay<'_>) -> impl Future<Output = Result<Self::Session, CopyError>> + Send;

    /// Copies the object, unless the key holds a copy of a later version or of another object. Repeating the call replaces
    /// the copy by the same object.
    ///
    /// # Errors
    /// See [`CopyError`].
    fn copy(
        &self,
        session: &Self::Session,
        job: &CopyJob<'_>,
    ) -> impl Future<Output = Result<Copied, CopyError>> + Send;
}

/// Outcome of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The object is in the customer's bucket.
    Written,
    /// The customer's bucket already has a later version of the object, which stays.
    Superseded,
    /// The delivery is in shadow mode: the object was counted, and not copied.
    Counted,
}

/// The way of one object into one bucket.
#[derive(Clone, Copy, Debug)]
pub struct CopyWay<'a> {
    /// The delivery that the bucket belongs to.
    pub delivery: &'a Delivery,
    /// The customer's bucket.
    pub destination: &'a Bucket,
    /// Template of the copy's key after the bucket's prefix.
    pub bucket_key: &'a ObjectKeyTemplate,
    /// The parts of the object's key.
    pub route: &'a Route,
    /// The object as the event names it.
    pub object: &'a ObjectRef,
    /// Common prefix of the keys of all the tenant's objects in the staging bucket. The session's policy is limited to it.
    pub source_prefix: &'a str,
}

/// A copy of one object into one bucket.
#[derive(Clone, Copy, Debug)]
pub struct CopyJob<'a> {
    /// Source and destination.
    pub way: CopyWay<'a>,
    /// Account that must own the staging bucket.
    pub owner: Option<&'a str>,
    /// The object's headers.
    pub head: &'a ObjectHead,
}

/// Why an object was not copied. The text of a variant is AWS's error, if AWS gave one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The object, or the version that the event names, no longer exists.
    #[error("the object to be copied does not exist: {0}")]
    SourceMissing(String),
    /// The object is larger than CopyObject allows.
    #[error("the object is too large for a copy: {0}")]
    TooLarge(String),
    /// The copy's key would be longer than S3 allows.
    #[error(
        "the key in the customer's bucket would have {0} bytes, more than {MAX_KEY}; shorten bucket_prefix, bucket_key or layout in the row"
    )]
    KeyTooLong(usize),
    /// The key holds a copy of another object.
    #[error(
        "{key:?} in the customer's bucket is the copy of another object, {original}: use every name of source.key_layout \
         in the row's bucket_key, for example {{cluster}}"
    )]
    Collision {
        /// The key in the customer's bucket.
        key: String,
        /// Bucket and key of the object that was copied there, URL-encoded.
        original: String,
    },
    /// The customer's bucket does not exist.
    #[error("the customer's bucket does not exist: {0}; create it, or correct bucket_name in the row")]
    NoSuchBucket(String),
    /// The customer's bucket is in another Region.
    #[error("the customer's bucket is not in the row's target_region: {0}; correct the row, then redrive")]
    WrongRegion(String),
    /// A policy of a bucket, a KMS key or a role does not allow the copy. S3 does not say which.
    #[error("the write is denied by a policy of one of the buckets, their KMS keys or the role: {0}")]
    Denied(String),
    /// The role's session cannot be created or renewed.
    #[error(transparent)]
    Session(AssumeError),
    /// AWS refuses our clock, our signature or our credentials.
    #[error(transparent)]
    Ours(IdentityError),
    /// Too many requests for the bucket.
    #[error("S3 throttles writes to the customer's bucket: {0}")]
    Throttled(String),
    /// The object is archived, and must be restored before it can be copied.
    #[error("the object is archived: {0}; restore it and redrive")]
    SourceArchived(String),
    /// S3 refuses the request itself, for example because of a rule of the bucket.
    #[error(
        "S3 refuses the write: {0}; correct the named setting of the customer's bucket (its encryption, Object Lock, ACLs) or of the row, \
         then redrive"
    )]
    Refused(String),
    /// A 5xx answer, a timeout or a network error; or others wrote to the copy's key during every attempt. A later attempt may
    /// succeed.
    #[error("S3 did not carry out the write: {0}")]
    Unavailable(String),
    /// A lake file cannot be encoded.
    #[error("a file for the customer's lake cannot be encoded: {0}; please report this defect")]
    Unwritable(String),
    /// In shadow mode: the counts of the object cannot be written.
    #[error("the counts of shadow mode cannot be written: {0}")]
    Uncounted(LedgerError),
}

/// Longest key in bytes. Source: S3 User Guide, "Naming Amazon S3 objects".
const MAX_KEY: usize = 1024;
/// Largest object that CopyObject takes. Source: S3 API reference, CopyObject.
const MAX_COPY: u64 = 5 << 30;

impl CopyWay<'_> {
    /// The key in the customer's bucket: the row's `bucket_prefix`, then its `bucket_key`.
    ///
    /// # Errors
    /// The key is longer than S3 allows.
    pub fn key(&self) -> Result<String, CopyError> {
        let key = self.destination.bucket_prefix.clone() + &self.bucket_key.render(self.route);
        if key.len() > MAX_KEY { Err(CopyError::KeyTooLong(key.len())) } else { Ok(key) }
    }

    /// Common prefix of the keys of all the tenant's copies.
    fn destination_prefix(&self) -> String {
        self.destination.bucket_prefix.clone() + &self.bucket_key.tenant_prefix(self.route)
    }
}

impl CopyJob<'_> {
    /// Checks the object's size, if it is known.
    ///
    /// # Errors
    /// S3 would refuse the copy.
    pub(crate) fn check_size(&self) -> Result<(), CopyError> {
        match self.head.size {
            Some(size) if size > MAX_COPY => {
                Err(CopyError::TooLarge(format!("it has {size} bytes, and CopyObject allows {MAX_COPY}")))
            }
            _ => Ok(()),
        }
    }

    /// `x-amz-copy-source`, with the version that the event names, or else the current version.
    pub(crate) fn source(&self) -> String {
        let mut source = format!("{}/{}", self.way.object.bucket, encoded(&self.way.object.key));
        if let Some(version) = self.version() {
            let _ = write!(source, "?versionId={}", encoded(version));
        }
        source
    }

    /// Condition on the source's eTag, if no version is known.
    fn if_match(&self) -> Option<String> {
        let etag = self.way.object.etag.as_ref().or(self.head.etag.as_ref())?;
        self.version().is_none().then(|| format!("\"{}\"", etag.trim_matches('"')))
    }

    fn version(&self) -> Option<&str> {
        self.way.object.version_id.as_deref().or(self.head.version_id.as_deref())
    }
}

/// Percent-encodes all bytes except slashes and RFC 3986's unreserved characters. A plus becomes `%2B`, because S3 reads a
/// plain plus as a space.
fn encoded(text: &str) -> String {
    percent_encoded(text, b"-._~/")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        route::KeyLayout,
        tenant::{Contents, Destination, parse_row, tests::row_of},
    };

    /// Owns everything that a job borrows.
    #[derive(Clone, Debug)]
    pub(crate) struct Order {
        /// The tenant's row.
        pub(crate) delivery: Arc<Delivery>,
        /// The parts of the key.
        pub(crate) route: Route,
        /// The object as the event names it.
        pub(crate) object: ObjectRef,
        /// The object's headers.
        pub(crate) head: ObjectHead,
    }

    impl Order {
        /// An object for a bucket, without version and eTag.
        pub(crate) fn new(key: &str, row: &[(&str, &str)]) -> Self {
            let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right");
            let route = layout.route(key).expect("the key fits");
            let delivery =
                parse_row(&route.tenant, "s3", &row_of(row), None).expect("the row is right").into();
            let object = ObjectRef { bucket: "staging".into(), key: key.to_owned(), ..ObjectRef::default() };
            Self { delivery, route, object, head: ObjectHead::default() }
        }

        /// The job.
        pub(crate) fn job(&self) -> CopyJob<'_> {
            let Destination::S3(destination) = &self.delivery.destination else {
                panic!("the row names a bucket")
            };
            let Contents::Copies(bucket_key) = &destination.contents else {
                panic!("the row asks for copies")
            };
            CopyJob {
                way: CopyWay {
                    delivery: &self.delivery,
                    destination,
                    bucket_key,
                    route: &self.route,
                    object: &self.object,
                    source_prefix: "",
                },
                owner: None,
                head: &self.head,
            }
        }
    }

    const KEY: &str = "acme/prod-1/web/web-0/1.json.gz";

    fn order(key: &str) -> Order {
        Order::new(key, &[("target_region", "us-east-1"), ("bucket_name", "theirs")])
    }

    #[test]
    fn the_destination_key_is_built_from_the_row() {
        let check = |prefix: &str, key: &str, expected: Result<&str, CopyError>| {
            let row = [("target_region", "us-east-1"), ("bucket_name", "theirs"), ("bucket_prefix", prefix)];
            let order = Order::new(key, &row);
            assert_eq!(order.job().way.key(), expected.map(str::to_owned), "{prefix} {key}");
        };
        check("ROSA/cluster-logs/", KEY, Ok("ROSA/cluster-logs/acme/web/web-0/1.json.gz"));
        let with_cluster = Order::new(
            KEY,
            &[
                ("target_region", "us-east-1"),
                ("bucket_name", "theirs"),
                ("bucket_prefix", "logs"),
                ("bucket_key", "{cluster}/{tenant}/{application}/{pod}/{file}"),
            ],
        );
        let way = with_cluster.job().way;
        assert_eq!(way.key().as_deref(), Ok("logs/prod-1/acme/web/web-0/1.json.gz"));
        assert_eq!(way.destination_prefix(), "logs/prod-1/acme/");
        check("", "a b/c/d+e/日本/f", Ok("a b/d+e/日本/f"));
        let longest = "x".repeat(MAX_KEY - "logs/acme/a/p/".len());
        check("logs", &format!("acme/c/a/p/{longest}"), Ok(&format!("logs/acme/a/p/{longest}")));
        check("logs", &format!("acme/c/a/p/{longest}x"), Err(CopyError::KeyTooLong(1025)));
        // A layout without a pod leaves no empty segment in the key.
        let mut order = order(KEY);
        order.route.pod.clear();
        assert_eq!(order.job().way.key().as_deref(), Ok("ROSA/cluster-logs/acme/web/1.json.gz"));
    }

    #[test]
    fn the_source_is_encoded_and_names_the_exact_object() {
        let check = |key: &str, change: fn(&mut Order), source: &str, if_match: Option<&str>| {
            let mut order = order(key);
            change(&mut order);
            let job = order.job();
            assert_eq!((job.source().as_str(), job.if_match().as_deref()), (source, if_match));
        };
        check(KEY, |_| (), "staging/acme/prod-1/web/web-0/1.json.gz", None);
        let encoded = "staging/a%20b/c%2Bd/%C3%A9%3FversionId%3D1/p%25/~f_-.%26";
        check("a b/c+d/é?versionId=1/p%/~f_-.&", |_| (), encoded, None);
        let key = "a/b/c/d/e";
        check(key, |o| o.object.etag = Some("e1".into()), "staging/a/b/c/d/e", Some("\"e1\""));
        check(key, |o| o.head.etag = Some("\"e2\"".into()), "staging/a/b/c/d/e", Some("\"e2\""));
        let both = |o: &mut Order| {
            o.object.etag = Some("e1".into());
            o.head.etag = Some("\"e2\"".into());
        };
        check(key, both, "staging/a/b/c/d/e", Some("\"e1\""));
        check(key, |o| o.head.version_id = Some("v&2".into()), "staging/a/b/c/d/e?versionId=v%262", None);
        let versions = |o: &mut Order| {
            o.object =
                ObjectRef { version_id: Some("v1".into()), etag: Some("e1".into()), ..o.object.clone() };
            o.head.version_id = Some("v2".into());
        };
        check(key, versions, "staging/a/b/c/d/e?versionId=v1", None);
    }

    #[test]
    fn a_too_large_object_is_refused_without_a_call() {
        for (size, legal) in [(None, true), (Some(MAX_COPY), true), (Some(MAX_COPY + 1), false)] {
            let mut order = order(KEY);
            order.head.size = size;
            assert_eq!(order.job().check_size().is_ok(), legal, "{size:?}");
        }
    }
}
