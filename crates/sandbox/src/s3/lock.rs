//! Object Lock: a version that cannot be deleted until a date.
//!
//! Legal holds, a bucket's default retention, and changes of a version's retention are not implemented.

use jiff::Timestamp;

use super::{
    authorize,
    bucket::Bucket,
    checksum::{self, header_of},
    notification::invalid,
};
use crate::{
    call::{AwsError, Call, Reply},
    cloud::Cloud,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Callers with a permission of its own may delete the version.
    Governance,
    /// Nobody may delete the version.
    Compliance,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

/// How long a version is kept at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retention {
    mode: Mode,
    until: Timestamp,
}

impl Retention {
    /// Reads the headers of a write.
    pub(super) fn of(call: &Call) -> Result<Option<Self>, AwsError> {
        let mode = call.header("x-amz-object-lock-mode");
        let (mode, until) = match (mode, call.header("x-amz-object-lock-retain-until-date")) {
            (None, None) => return Ok(None),
            (Some("GOVERNANCE"), Some(until)) => (Mode::Governance, until),
            (Some("COMPLIANCE"), Some(until)) => (Mode::Compliance, until),
            (Some(_), Some(_)) => return Err(invalid("Unknown wormMode directive.")),
            _ => {
                return Err(invalid(
                    "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
                ));
            }
        };
        let until: Timestamp = until
            .parse()
            .map_err(|_| invalid("The retain until date must be provided in ISO 8601 format"))?;
        if until <= Timestamp::now() {
            return Err(invalid("The retain until date must be in the future!"));
        }
        Ok(Some(Self { mode, until }))
    }

    /// Adds the headers of a read.
    pub(super) fn add_to(self, reply: Reply) -> Reply {
        reply
            .with_header("x-amz-object-lock-mode", self.mode.name())
            .with_header("x-amz-object-lock-retain-until-date", &format!("{:.3}", self.until))
    }

    /// Checks whether the caller may delete the version now.
    pub(super) fn check_delete(
        self,
        cloud: &Cloud,
        call: &Call,
        bucket: &Bucket,
        object_arn: &str,
    ) -> Result<(), AwsError> {
        let bypass = call.header("x-amz-bypass-governance-retention");
        let bypass = bypass.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        match self.mode {
            _ if self.until <= Timestamp::now() => Ok(()),
            Mode::Governance if bypass => {
                authorize(cloud, call, bucket, "s3:BypassGovernanceRetention", object_arn, &[])
            }
            Mode::Governance | Mode::Compliance => {
                let message = "Access Denied because object protected by object lock.";
                Err(AwsError::new(403, "AccessDenied", message))
            }
        }
    }
}

/// Refuses a retention in a bucket without Object Lock.
pub(super) fn check_bucket(retention: Option<Retention>, bucket: &Bucket) -> Result<(), AwsError> {
    match retention {
        Some(_) if !bucket.lockable => Err(checksum::request("Bucket is missing Object Lock Configuration")),
        _ => Ok(()),
    }
}

/// Refuses a body with a retention and neither a checksum nor an MD5. `request` is S3's name of the request.
pub(super) fn check_digest(retention: Option<Retention>, call: &Call, request: &str) -> Result<(), AwsError> {
    if retention.is_none() || call.header("content-md5").is_some() || header_of(&call.headers)?.is_some() {
        return Ok(());
    }
    Err(checksum::request(&format!(
        "Content-MD5 OR x-amz-checksum- HTTP header is required for {request} requests with Object Lock parameters"
    )))
}
