//! Access to a customer's account by two roles: the central role, then the customer's.
//!
//! [`assumed`] keeps a role's credentials and renews them before they end, one call to STS at a time. [`customers`] caches the
//! sessions of all customers; a [`scope`] narrows each one. [`role_breaker`] stops calls for a customer's role that STS refuses,
//! except for probes; [`refusal`] names the cause of a refusal and its remedy. Credentials stay in memory and are never logged.

pub mod assumed;
pub mod customers;
pub mod flight;
pub mod identity;
pub mod partition;
pub mod refusal;
pub mod request;
pub mod role_breaker;
pub mod scope;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use self::identity::IdentityError;

/// Why there are no credentials of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssumeError {
    /// STS refuses: the role does not exist, or its trust policy or the caller's policy does not allow the call.
    #[error(
        "role {role} cannot be assumed: {code}: {message} ({}; check that the role exists, and its trust policy)",
        sent(.external_id.as_deref())
    )]
    Denied {
        /// The role's ARN.
        role: String,
        /// External id that was sent.
        external_id: Option<String>,
        /// STS's error code.
        code: String,
        /// STS's words.
        message: String,
    },
    /// STS refused before, and is not asked again before the next probe.
    #[error("{refusal}; the role is asked for again in {probe_in:.1?} at the earliest")]
    Held {
        /// The refusal: [`AssumeError::Denied`].
        refusal: Arc<AssumeError>,
        /// Time until the next probe; zero if a probe is due, even if an earlier probe still runs.
        probe_in: Duration,
    },
    /// The caller is refused, not the role. No breaker opens.
    #[error(transparent)]
    Ours(IdentityError),
    /// STS did not answer, or its session cannot be used.
    #[error("role {role} cannot be assumed now: {problem}")]
    Unavailable {
        /// The role's ARN.
        role: String,
        /// The SDK's words.
        problem: String,
    },
}

fn sent(external_id: Option<&str>) -> &'static str {
    // Customers may treat the ExternalId as a secret, so it is not shown.
    if external_id.is_some() { "an ExternalId was sent" } else { "no ExternalId was sent" }
}

/// Whether a text is the id of an AWS account.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The ARN of an IAM role, with any path, in any partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoleArn {
    arn: String,
    account: (usize, usize),
}

/// Text that is not the ARN of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{arn:?} is not a role's ARN (arn:aws:iam::ACCOUNT:role/NAME): {problem}")]
pub struct RoleArnError {
    arn: String,
    problem: &'static str,
}

impl RoleArn {
    /// The complete ARN.
    pub fn as_str(&self) -> &str {
        &self.arn
    }

    /// Account id, twelve digits.
    pub fn account(&self) -> &str {
        &self.arn[self.account.0..self.account.1]
    }

    /// Partition, for example `aws` or `aws-us-gov`.
    pub fn partition(&self) -> &str {
        self.arn.split(':').nth(1).expect("checked when it was parsed")
    }
}

impl FromStr for RoleArn {
    type Err = RoleArnError;

    fn from_str(arn: &str) -> Result<Self, RoleArnError> {
        let fail = |problem| Err(RoleArnError { arn: arn.to_owned(), problem });
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let &["arn", partition, "iam", "", account, resource] = parts.as_slice() else {
            return fail("it does not have this form");
        };
        if !partition::is_known(partition) {
            return fail("AWS has no such partition");
        }
        if !is_account(account) {
            return fail("its account is not a 12-digit account id");
        }
        let Some(name) = resource.strip_prefix("role/") else {
            return fail("it names something other than a role");
        };
        let (path, name) = name.rsplit_once('/').map_or((None, name), |(path, name)| (Some(path), name));
        // Source: IAM API reference, CreateRole: names of 1 to 64 of [\w+=,.@-]; paths of 512 characters at most, which are
        // a slash, or \u0021 to \u007E between two slashes.
        let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
            return fail("its name is not 1 to 64 of [A-Za-z0-9_+=,.@-]");
        }
        if path.is_some_and(|path| !path.chars().all(|c| c.is_ascii_graphic())) {
            return fail("its path has a character that is not allowed");
        }
        if path.is_some_and(|path| !(1..=510).contains(&path.len())) {
            return fail("its path is empty, or longer than 512 characters");
        }
        let start = arn.len() - resource.len() - 1 - account.len();
        Ok(Self { arn: arn.to_owned(), account: (start, start + account.len()) })
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_of_all_partitions_are_read() {
        for (arn, partition) in [
            ("arn:aws:iam::222222222222:role/customer-logs", "aws"),
            ("arn:aws-cn:iam::222222222222:role/a/b/customer", "aws-cn"),
            ("arn:aws-us-gov:iam::222222222222:role/x_+=,.@-", "aws-us-gov"),
            ("arn:aws-iso:iam::222222222222:role/x", "aws-iso"),
            ("arn:aws-iso-b:iam::222222222222:role/x", "aws-iso-b"),
            ("arn:aws-iso-e:iam::222222222222:role/x", "aws-iso-e"),
            ("arn:aws-iso-f:iam::222222222222:role/x", "aws-iso-f"),
            ("arn:aws-eusc:iam::222222222222:role/x", "aws-eusc"),
            ("arn:aws:iam::222222222222:role/a:b/c!~*/x", "aws"),
            (&format!("arn:aws:iam::222222222222:role/{}/{}", "p".repeat(510), "x".repeat(64)), "aws"),
        ] {
            let role: RoleArn = arn.parse().expect("a role's ARN");
            assert_eq!((role.account(), role.partition(), role.as_str()), ("222222222222", partition, arn));
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        for (arn, part) in [
            ("", "form"),
            ("customer-logs", "form"),
            ("arn:aws:sts::222222222222:assumed-role/x/y", "form"),
            ("arn:aws:iam:us-east-1:222222222222:role/x", "form"),
            ("arn:aws-moon:iam::222222222222:role/x", "partition"),
            ("arn::iam::222222222222:role/x", "partition"),
            ("arn:aws:iam::222222222222:role/x\n", "its name"),
            ("arn:aws:iam::2222:role/x", "12-digit"),
            ("arn:aws:iam::222222222222:user/x", "other than a role"),
            ("arn:aws:iam::222222222222:role/", "its name"),
            ("arn:aws:iam::222222222222:role/a/", "its name"),
            ("arn:aws:iam::222222222222:role/a b", "its name"),
            ("arn:aws:iam::222222222222:role/a:b", "its name"),
            ("arn:aws:iam::222222222222:role/é/b", "path"),
            ("arn:aws:iam::222222222222:role/a b/c", "path"),
            ("arn:aws:iam::222222222222:role//x", "path"),
            (&format!("arn:aws:iam::222222222222:role/{}/x", "p".repeat(511)), "path"),
            (&format!("arn:aws:iam::222222222222:role/{}", "x".repeat(65)), "1 to 64"),
        ] {
            let error = arn.parse::<RoleArn>().expect_err("no role").to_string();
            assert!(error.contains(part), "{arn}: {error}");
        }
    }
}
