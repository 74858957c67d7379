//! Parses requests: members, names, and the service's error messages.

use crate::call::{AwsError, violation};

pub(super) fn invalid_parameter(message: impl Into<String>) -> AwsError {
    AwsError::new(400, "InvalidParameterException", message)
}

/// Error for a member that violates a constraint of the service's model.
pub(super) fn constraint(value: &str, member: &str, rule: &str) -> AwsError {
    invalid_parameter(violation(value, member, rule))
}

pub(super) fn required<T>(value: Option<T>, member: &str) -> Result<T, AwsError> {
    value.ok_or_else(|| constraint("null", member, "Member must not be null"))
}

/// Checks the name of a group: 1 to 512 characters of `[.\-_/#A-Za-z0-9]`, not starting with `aws/`.
pub(super) fn group_name(name: &str) -> Result<(), AwsError> {
    let member = "logGroupName";
    length(name, member)?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_/#".contains(&byte)) {
        let rule = r"Member must satisfy regular expression pattern: [\.\-_/#A-Za-z0-9]+";
        return Err(constraint(name, member, rule));
    }
    if name.starts_with("aws/") {
        return Err(invalid_parameter("Log groups starting with AWS/ are reserved for AWS."));
    }
    Ok(())
}

/// Checks the name of a stream: 1 to 512 characters without `:` and `*`.
pub(super) fn stream_name(name: &str, member: &str) -> Result<(), AwsError> {
    length(name, member)?;
    if name.contains([':', '*']) {
        return Err(constraint(name, member, "Member must satisfy regular expression pattern: [^:*]*"));
    }
    Ok(())
}

fn length(name: &str, member: &str) -> Result<(), AwsError> {
    match name.chars().count() {
        0 => Err(constraint(name, member, "Member must have length greater than or equal to 1")),
        513.. => Err(constraint(name, member, "Member must have length less than or equal to 512")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_are_checked() {
        for good in ["a", "/aws/lambda/x", "ROSA/cluster-logs_1.#", &"x".repeat(512)] {
            assert!(group_name(good).is_ok(), "{good}");
        }
        for bad in ["", "aws/x", "a b", "a:b", "a*", "é", "a\n", &"x".repeat(513)] {
            assert_eq!(group_name(bad).expect_err(bad).code, "InvalidParameterException");
        }
    }

    #[test]
    fn stream_names_are_checked() {
        for good in ["a", "app-pod-2026/11/22 [x] é", &"é".repeat(512)] {
            assert!(stream_name(good, "logStreamName").is_ok(), "{good}");
        }
        for bad in ["", "a:b", "a*b", &"é".repeat(513)] {
            assert_eq!(stream_name(bad, "logStreamName").expect_err(bad).code, "InvalidParameterException");
        }
    }
}
