//! Names of buckets. Pure.

use std::{net::Ipv4Addr, str::FromStr};

use crate::credentials::is_account;

/// A bucket of the provider, written in `source.buckets` and `quarantine.bucket` as `NAME` or `NAME=OWNER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnBucket {
    /// The bucket's name.
    pub name: String,
    /// The account that must own the bucket, sent as ExpectedBucketOwner.
    pub owner: Option<String>,
}

impl FromStr for OwnBucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, owner) = match text.split_once('=') {
            Some((name, owner)) => (name, Some(owner)),
            None => (text, None),
        };
        let name = old_bucket_name(name)
            .map_err(|problem| format!("{text:?} is not NAME or NAME=OWNER with a bucket name: {problem}"))?;
        if let Some(owner) = owner
            && !is_account(owner)
        {
            return Err(format!("{text:?} names the owner {owner:?}, which is not a 12-digit account id"));
        }
        Ok(Self { name, owner: owner.map(str::to_owned) })
    }
}

/// Checks the name of a bucket that may be older than the rule against underscores. Source: S3 User Guide, "General
/// purpose bucket naming rules".
///
/// # Errors
/// The name breaks a rule. The text names the rule.
pub fn old_bucket_name(text: &str) -> Result<String, String> {
    const RESERVED_STARTS: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
    const RESERVED_ENDS: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let problem = if !(3..=63).contains(&text.len())
        || !text.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '-' | '_'))
    {
        "is not 3 to 63 characters of [a-z0-9.-] (old buckets: also underscores)".to_owned()
    } else if !(text.starts_with(alphanumeric) && text.ends_with(alphanumeric)) {
        "does not begin and end with one of [a-z0-9]".to_owned()
    } else if text.contains("..") {
        "has two dots next to each other, which S3 does not allow".to_owned()
    } else if text.parse::<Ipv4Addr>().is_ok() {
        "is an IP address, which S3 does not allow".to_owned()
    } else if let Some(start) = RESERVED_STARTS.iter().find(|start| text.starts_with(**start)) {
        format!("begins with {start:?}, which is reserved")
    } else if let Some(end) = RESERVED_ENDS.iter().find(|end| text.ends_with(**end)) {
        format!("ends with {end:?}, which is reserved for other kinds of buckets")
    } else {
        return Ok(text.to_owned());
    };
    Err(format!("{text:?} {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_written_with_or_without_its_owner() {
        let own = |text: &str| text.parse::<OwnBucket>();
        assert_eq!(own("logs"), Ok(OwnBucket { name: "logs".into(), owner: None }));
        let owned = OwnBucket { name: "logs".into(), owner: Some("111122223333".into()) };
        assert_eq!(own("logs=111122223333"), Ok(owned));
        for text in ["logs=", "logs=11112222333", "logs=1111222233334", "logs=11112222333x"] {
            assert!(own(text).is_err_and(|problem| problem.contains("12-digit")), "{text}");
        }
        assert!(own("Logs=111122223333").is_err_and(|problem| problem.contains("with a bucket name")));
    }

    #[test]
    fn names_keep_the_rules_of_s3() {
        let longest = "x".repeat(63);
        for name in ["abc", &longest, "a.b-c_d", "0a9", "x.y", "1.2.3", "xn-a", "a-s3aliass"] {
            assert_eq!(old_bucket_name(name), Ok(name.to_owned()));
        }
        let too_long = "x".repeat(64);
        for (name, part) in [
            ("ab", "3 to 63"),
            (too_long.as_str(), "3 to 63"),
            ("aBc", "3 to 63"),
            ("a/b", "3 to 63"),
            ("-abc", "begin and end"),
            ("abc-", "begin and end"),
            (".abc", "begin and end"),
            ("abc.", "begin and end"),
            ("a..b", "two dots"),
            ("10.0.0.1", "IP address"),
            ("xn--a", "begins with \"xn--\""),
            ("sthree-a", "begins with"),
            ("amzn-s3-demo-a", "begins with"),
            ("a-s3alias", "ends with \"-s3alias\""),
            ("a--x-s3", "ends with"),
        ] {
            let problem = old_bucket_name(name).expect_err("no bucket has the name");
            assert!(problem.contains(part), "{name}: {problem}");
        }
    }
}
