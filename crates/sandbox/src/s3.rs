//! S3: buckets with versions, policies and notifications, with path-style addresses.
//!
//! Tagging, ACLs and lifecycle are not implemented; each module says what else is missing. A caller from another account
//! needs permission from the bucket's policy and from its own policies. Within the owner's account the caller's own
//! policies decide. A Deny of the bucket's policy applies to everyone.

mod bucket;
mod checksum;
mod conditions;
mod deletion;
mod event;
mod list;
mod lock;
mod multipart;
mod notification;
mod object;
mod read;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use roxmltree::Document;

use self::{
    bucket::Bucket,
    event::Source,
    notification::{Rule, invalid, malformed},
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::decode_percent,
    policy::{Access, Context, Decision, Policy, Who},
};

const XML_HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// All buckets of all accounts; bucket names are global.
#[derive(Debug, Default)]
pub(crate) struct S3 {
    buckets: Mutex<BTreeMap<String, Bucket>>,
    last_sequencer: AtomicU64,
}

impl S3 {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "AbortMultipartUpload" => self.abort_multipart_upload(cloud, call),
            "CompleteMultipartUpload" => self.complete_multipart_upload(cloud, call),
            "CopyObject" => self.copy_object(cloud, call),
            "CreateBucket" => self.create_bucket(cloud, call),
            "CreateMultipartUpload" => self.create_multipart_upload(cloud, call),
            "DeleteObject" => self.delete_object(cloud, call),
            "DeleteObjects" => self.delete_objects(cloud, call),
            "GetBucketNotificationConfiguration" => self.get_notifications(cloud, call),
            "GetObject" => self.get_object(cloud, call),
            "HeadBucket" => self.head_bucket(cloud, call),
            "HeadObject" => self.head_object(cloud, call),
            "ListObjectsV2" => self.list_objects(cloud, call),
            "PutBucketNotificationConfiguration" => self.put_notifications(cloud, call),
            "PutBucketPolicy" => self.put_bucket_policy(cloud, call),
            "PutBucketVersioning" => self.put_bucket_versioning(cloud, call),
            "PutObject" => self.put_object(cloud, call),
            "UploadPart" => self.upload_part(cloud, call),
            other => Err(AwsError::not_implemented("s3", other)),
        }
    }

    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock().expect("no holder of this lock panics")
    }

    /// Returns a number that increases with every change of any object.
    fn next_sequencer(&self) -> u64 {
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        let next = |last: u64| Some(now.max(last + 1));
        match self.last_sequencer.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(last) | Err(last) => now.max(last + 1),
        }
    }

    fn create_bucket(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, _) = target(call);
        if !legal_bucket_name(&name) {
            return Err(AwsError::new(400, "InvalidBucketName", "The specified bucket is not valid."));
        }
        cloud.iam.authorize(call, "s3:CreateBucket", &format!("arn:aws:s3:::{name}"))?;
        for (header, accepted) in
            [("x-amz-acl", "private"), ("x-amz-object-ownership", "BucketOwnerEnforced")]
        {
            if call.header(header).is_some_and(|value| value != accepted) {
                return Err(AwsError::not_implemented(
                    "s3",
                    &format!("CreateBucket with {header} other than {accepted}"),
                ));
            }
        }
        let lock = call.header("x-amz-bucket-object-lock-enabled");
        let lockable = lock.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if lockable {
            for action in ["s3:PutBucketObjectLockConfiguration", "s3:PutBucketVersioning"] {
                cloud.iam.authorize(call, action, &format!("arn:aws:s3:::{name}"))?;
            }
        }
        let location = location_constraint(call)?;
        match (location.as_deref(), call.region.as_str()) {
            (None, "us-east-1") => {}
            (Some(location), region) if location == region && region != "us-east-1" => {}
            (Some(location), _) => {
                return Err(AwsError::new(
                    400,
                    "IllegalLocationConstraintException",
                    format!(
                        "The {location} location constraint is incompatible for the region specific endpoint this \
                         request was sent to."
                    ),
                ));
            }
            (None, _) => {
                return Err(AwsError::new(
                    400,
                    "IllegalLocationConstraintException",
                    "The unspecified location constraint is incompatible for the region specific endpoint this \
                     request was sent to.",
                ));
            }
        }
        let mut buckets = self.buckets();
        match buckets.get(&name) {
            Some(bucket) if bucket.account != call.account => {
                return Err(AwsError::new(
                    409,
                    "BucketAlreadyExists",
                    "The requested bucket name is not available. The bucket namespace is shared by all users of the \
                     system. Please select a different name and try again.",
                ));
            }
            Some(bucket) if bucket.region != "us-east-1" || call.region != "us-east-1" => {
                return Err(AwsError::new(
                    409,
                    "BucketAlreadyOwnedByYou",
                    "Your previous request to create the named bucket succeeded and you already own it.",
                ));
            }
            Some(_) => {}
            None => {
                buckets.insert(
                    name.clone(),
                    Bucket {
                        name: name.clone(),
                        account: call.account.clone(),
                        region: call.region.clone(),
                        versioned: lockable,
                        lockable,
                        policy: None,
                        rules: Arc::default(),
                        keys: BTreeMap::new(),
                        uploads: BTreeMap::new(),
                    },
                );
            }
        }
        Ok(Reply::empty().with_header("location", &format!("/{name}")))
    }

    fn head_bucket(&self, cloud: &Cloud, call: &Call) -> Answer {
        self.with_bucket(cloud, call, "s3:ListBucket", |bucket| {
            Ok(Reply::empty().with_header("x-amz-bucket-region", &bucket.region))
        })
    }

    fn put_bucket_versioning(&self, cloud: &Cloud, call: &Call) -> Answer {
        let body = body_text(call)?;
        let document = Document::parse(body).map_err(|_| malformed())?;
        let status = document.descendants().find(|node| node.tag_name().name() == "Status");
        match status.and_then(|status| status.text()) {
            Some("Enabled") => {}
            Some("Suspended") => return Err(AwsError::not_implemented("s3", "suspended versioning")),
            _ => {
                let message = "The Versioning element must be specified";
                return Err(AwsError::new(400, "IllegalVersioningConfigurationException", message));
            }
        }
        self.with_bucket(cloud, call, "s3:PutBucketVersioning", |bucket| {
            bucket.versioned = true;
            Ok(Reply::empty())
        })
    }

    fn put_bucket_policy(&self, cloud: &Cloud, call: &Call) -> Answer {
        let policy = Policy::resource(body_text(call)?)
            .map_err(|reason| AwsError::new(400, "MalformedPolicy", reason))?;
        self.with_bucket(cloud, call, "s3:PutBucketPolicy", |bucket| {
            bucket.policy = Some(policy);
            Ok(Reply { status: http::StatusCode::NO_CONTENT, ..Reply::empty() })
        })
    }

    fn put_notifications(&self, cloud: &Cloud, call: &Call) -> Answer {
        let rules = Arc::new(Rule::parse_all(body_text(call)?)?);
        let action = "s3:PutBucketNotification";
        let source = self.with_bucket(cloud, call, action, |bucket| Ok(Source::of(bucket)))?;
        let source = source.with(rules.clone());
        if !source.destinations_accept(cloud) {
            return Err(invalid("Unable to validate the following destination configurations"));
        }
        self.with_bucket(cloud, call, action, |bucket| {
            bucket.rules = rules;
            Ok(())
        })?;
        source.send_test_events(cloud);
        Ok(Reply::empty())
    }

    fn get_notifications(&self, cloud: &Cloud, call: &Call) -> Answer {
        let rules = self
            .with_bucket(cloud, call, "s3:GetBucketNotification", |bucket| Ok(Arc::clone(&bucket.rules)))?;
        let rules: String = rules.iter().map(Rule::xml).collect();
        Ok(Reply::xml(format!(
            "{XML_HEAD}<NotificationConfiguration xmlns=\"{NAMESPACE}\">{rules}</NotificationConfiguration>"
        )))
    }

    /// Calls `run` with the bucket that the path names, if the caller may do `action` to it.
    fn with_bucket<T>(
        &self,
        cloud: &Cloud,
        call: &Call,
        action: &str,
        run: impl FnOnce(&mut Bucket) -> Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        let (name, _) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        let arn = bucket.arn();
        authorize(cloud, call, bucket, action, &arn, &[])?;
        run(bucket)
    }
}

/// Bucket and key in a path. Percent encoding is decoded; a plus stays a plus.
fn target(call: &Call) -> (String, String) {
    let path = call.path.strip_prefix('/').unwrap_or(&call.path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    (decode_percent(bucket), decode_percent(key))
}

/// Finds a bucket. The request must be signed for the bucket's Region.
fn open<'a>(
    buckets: &'a mut BTreeMap<String, Bucket>,
    call: &Call,
    name: &str,
) -> Result<&'a mut Bucket, AwsError> {
    let bucket = buckets
        .get_mut(name)
        .ok_or_else(|| AwsError::new(404, "NoSuchBucket", "The specified bucket does not exist"))?;
    if bucket.region != call.region {
        return Err(AwsError::new(
            400,
            "AuthorizationHeaderMalformed",
            format!(
                "The authorization header is malformed; the region '{}' is wrong; expecting '{}'",
                call.region, bucket.region
            ),
        ));
    }
    Ok(bucket)
}

/// Refuses the call if a header names another owner than the bucket's.
fn check_owner(call: &Call, header: &str, bucket: &Bucket) -> Result<(), AwsError> {
    match call.header(header) {
        Some(expected) if expected != bucket.account => {
            Err(AwsError::new(403, "AccessDenied", "Access Denied"))
        }
        _ => Ok(()),
    }
}

/// Checks the caller's policies and the bucket's policy.
fn authorize(
    cloud: &Cloud,
    call: &Call,
    bucket: &Bucket,
    action: &str,
    resource: &str,
    context: &[(&str, &str)],
) -> Result<(), AwsError> {
    let context = context.iter().fold(Context::of(call), |context, (key, value)| context.with(key, value));
    cloud.iam.authorize_in(call, action, resource, &context)?;
    authorize_by_bucket(call, bucket, action, resource, &context)
}

/// Returns whether both kinds of policies allow what the call does not need. The permission is not recorded.
fn is_allowed(cloud: &Cloud, call: &Call, bucket: &Bucket, action: &str, resource: &str) -> bool {
    let context = Context::of(call);
    cloud.iam.decide(call, action, resource, &context).is_ok()
        && authorize_by_bucket(call, bucket, action, resource, &context).is_ok()
}

fn authorize_by_bucket(
    call: &Call,
    bucket: &Bucket,
    action: &str,
    resource: &str,
    context: &Context,
) -> Result<(), AwsError> {
    let access = Access { who: Who::Caller(call), action, resource, context };
    let decision = bucket.policy.as_ref().map_or(Decision::Silent, |policy| policy.decide(&access));
    match decision {
        Decision::Allow => Ok(()),
        Decision::Silent if bucket.account == call.account => Ok(()),
        Decision::Silent | Decision::Deny => Err(AwsError::access_denied(call, action, resource)),
    }
}

fn body_text(call: &Call) -> Result<&str, AwsError> {
    std::str::from_utf8(&call.body).map_err(|_| malformed())
}

fn location_constraint(call: &Call) -> Result<Option<String>, AwsError> {
    let body = body_text(call)?;
    if body.trim().is_empty() {
        return Ok(None);
    }
    let document = Document::parse(body).map_err(|_| malformed())?;
    let node = document.descendants().find(|node| node.tag_name().name() == "LocationConstraint");
    Ok(node.and_then(|node| node.text()).filter(|text| !text.is_empty()).map(str::to_owned))
}

fn legal_bucket_name(name: &str) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    let legal = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(byte);
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(legal)
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !name.starts_with("xn--")
}

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
mod wire_tests;
