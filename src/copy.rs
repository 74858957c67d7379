//! The port to customers' buckets: an object is copied there inside S3, as it is, and never passes through the worker.
//! `s3` is the adapter; what an error means for the message is `verdict`'s.

pub mod memory;
mod origin;
pub mod s3;

use std::{fmt::Write, future::Future};

use crate::{
    credentials::{AssumeError, identity::IdentityError},
    event::ObjectRef,
    object::ObjectHead,
    route::Route,
    tenant::{Bucket, Delivery},
};

/// Copies objects into customers' buckets. Calls are single: the SDK's own retries are behind them, and what lies under the
/// copy's key is looked at again where it changed meanwhile.
pub trait ObjectCopier: Send + Sync + 'static {
    /// A session in the role that copies.
    type Session: Send + Sync;

    /// The error that [`ObjectCopier::enter`] is known to end with, without any call: the role was refused a moment ago, and is
    /// left alone.
    fn closed(&self, way: &Way<'_>) -> impl Future<Output = Option<CopyError>> + Send;

    /// Enters the customer's account, if the row names a role; what cannot be copied at all is refused here. Costs nothing
    /// where a session is at hand.
    ///
    /// # Errors
    /// [`CopyError::Session`], or [`CopyError::KeyTooLong`].
    fn enter(&self, way: &Way<'_>) -> impl Future<Output = Result<Self::Session, CopyError>> + Send;

    /// Copies, unless a copy of a later version of the same object lies there, or one of another object. A repetition puts
    /// the same object in the place of the first one.
    ///
    /// # Errors
    /// See [`CopyError`].
    fn copy(
        &self,
        session: &Self::Session,
        job: &CopyJob<'_>,
    ) -> impl Future<Output = Result<Copied, CopyError>> + Send;
}

/// What came of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The object is in the customer's bucket.
    Written,
    /// A later version of it was there already, and stays.
    Superseded,
}

/// One object's way into one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Whose.
    pub delivery: &'a Delivery,
    /// Where to.
    pub destination: &'a Bucket,
    /// What the object's key says.
    pub route: &'a Route,
    /// The object as the event pinned it.
    pub object: &'a ObjectRef,
    /// What the keys of all the tenant's objects in this place begin with: what a session is narrowed to.
    pub source_prefix: &'a str,
}

/// One object for one bucket.
#[derive(Clone, Copy, Debug)]
pub struct CopyJob<'a> {
    /// From where to where.
    pub way: Way<'a>,
    /// The account that must own the object's bucket.
    pub owner: Option<&'a str>,
    /// What is known of the object.
    pub head: &'a ObjectHead,
}

/// Why an object was not copied; each holds AWS's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The object, or the version that the event named, is not there any more.
    #[error("the object to be copied is not there: {0}")]
    SourceMissing(String),
    /// The object is larger than a copy may be.
    #[error("the object is too large for a copy: {0}")]
    TooLarge(String),
    /// The prefix and the object's names together are longer than a key may be.
    #[error("the key in the customer's bucket would have {0} bytes, which is more than {MAX_KEY}")]
    KeyTooLong(usize),
    /// A copy of another object lies under the same key.
    #[error(
        "{key:?} in the customer's bucket is the copy of another object, {original}: give the row a bucket_key with \
         every name that the keys of source.key_layout have, {{cluster}} for example"
    )]
    Collision {
        /// The key in the customer's bucket.
        key: String,
        /// Bucket and key of what lies there, URL-encoded.
        original: String,
    },
    /// There is no such bucket.
    #[error("the customer's bucket does not exist: {0}")]
    NoSuchBucket(String),
    /// The bucket is elsewhere.
    #[error("the customer's bucket is not in the row's target_region: {0}; correct the row, then redrive")]
    WrongRegion(String),
    /// One of the two buckets, their keys or the roles' policies do not allow it: S3 does not say which.
    #[error("the copy is denied: {0}")]
    Denied(String),
    /// The role's session could not be had or renewed.
    #[error(transparent)]
    Session(AssumeError),
    /// The call was refused for our clock or our signature.
    #[error(transparent)]
    Ours(IdentityError),
    /// Too many requests for that bucket.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The source is archived, and cannot be read before somebody restores it.
    #[error("the object is archived: {0}; restore it and redrive")]
    SourceArchived(String),
    /// The request itself is refused, by a rule of the bucket for example.
    #[error(
        "S3 refuses the copy: {0}; mend what that names in the customer's bucket (its encryption, Object Lock, ACLs) or in the row, \
         then redrive"
    )]
    Refused(String),
    /// 5xx, a time-out, the network.
    #[error("S3 cannot be reached: {0}")]
    Unavailable(String),
}

/// Bytes of a key. Source: S3 User Guide, "Naming Amazon S3 objects".
const MAX_KEY: usize = 1024;
/// Largest object that CopyObject takes. Source: S3 API reference, CopyObject.
const MAX_COPY: u64 = 5 << 30;

impl Way<'_> {
    /// The key in the customer's bucket: the row's `bucket_prefix`, then its `bucket_key`.
    ///
    /// # Errors
    /// It would be longer than a key may be.
    fn key(&self) -> Result<String, CopyError> {
        let key = self.destination.bucket_prefix.clone() + &self.destination.bucket_key.render(self.route);
        if key.len() > MAX_KEY { Err(CopyError::KeyTooLong(key.len())) } else { Ok(key) }
    }

    /// What the keys of the tenant's copies begin with.
    fn destination_prefix(&self) -> String {
        self.destination.bucket_prefix.clone() + &self.destination.bucket_key.tenant_prefix(self.route)
    }
}

impl CopyJob<'_> {
    /// # Errors
    /// S3 would refuse it.
    fn check_size(&self) -> Result<(), CopyError> {
        match self.head.size {
            Some(size) if size > MAX_COPY => {
                Err(CopyError::TooLarge(format!("{size} bytes, and CopyObject takes {MAX_COPY}")))
            }
            _ => Ok(()),
        }
    }

    /// `x-amz-copy-source`, with the version that the event named, or that is there now.
    fn source(&self) -> String {
        let mut source = format!("{}/{}", self.way.object.bucket, encoded(&self.way.object.key));
        if let Some(version) = self.version() {
            let _ = write!(source, "?versionId={}", encoded(version));
        }
        source
    }

    /// Pins the object where no version does.
    fn if_match(&self) -> Option<String> {
        let etag = self.way.object.etag.as_ref().or(self.head.etag.as_ref())?;
        self.version().is_none().then(|| format!("\"{}\"", etag.trim_matches('"')))
    }

    fn version(&self) -> Option<&str> {
        self.way.object.version_id.as_deref().or(self.head.version_id.as_deref())
    }
}

/// Percent-encodes everything but slashes and what RFC 3986 calls unreserved. A plus becomes `%2B`: S3 takes a bare one for a
/// space.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        route::KeyLayout,
        tenant::{Attribute, Destination, parse_row},
    };

    /// Everything that a job borrows.
    #[derive(Clone, Debug)]
    pub(crate) struct Order {
        /// The row.
        pub(crate) delivery: Arc<Delivery>,
        /// The key, read.
        pub(crate) route: Route,
        /// The event's word.
        pub(crate) object: ObjectRef,
        /// S3's word.
        pub(crate) head: ObjectHead,
    }

    impl Order {
        /// An object for a bucket, with nothing that pins it.
        pub(crate) fn new(key: &str, row: &[(&str, &str)]) -> Self {
            let mut row: crate::tenant::Row = row
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Attribute::Text((*value).to_owned())))
                .collect();
            row.insert("enabled".to_owned(), Attribute::Bool(true));
            let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right");
            let route = layout.route(key).expect("the key fits");
            let delivery = parse_row(&route.tenant, "s3", &row, None).expect("the row is right").into();
            let object = ObjectRef { bucket: "staging".into(), key: key.to_owned(), ..ObjectRef::default() };
            Self { delivery, route, object, head: ObjectHead::default() }
        }

        /// The job.
        pub(crate) fn job(&self) -> CopyJob<'_> {
            let Destination::S3(destination) = &self.delivery.destination else { panic!("it is a bucket") };
            CopyJob {
                way: Way {
                    delivery: &self.delivery,
                    destination,
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
    fn keys_keep_their_names() {
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
        // A layout without a pod leaves no empty segment behind.
        let mut order = order(KEY);
        order.route.pod.clear();
        assert_eq!(order.job().way.key().as_deref(), Ok("ROSA/cluster-logs/acme/web/1.json.gz"));
    }

    #[test]
    fn sources_are_encoded_and_pinned() {
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
    fn the_size_is_known_before_s3_is_asked() {
        for (size, legal) in [(None, true), (Some(MAX_COPY), true), (Some(MAX_COPY + 1), false)] {
            let mut order = order(KEY);
            order.head.size = size;
            assert_eq!(order.job().check_size().is_ok(), legal, "{size:?}");
        }
    }
}
