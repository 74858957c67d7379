//! Parses requests: members, names, and the service's error messages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::call::{AwsError, Call};

/// Members of a request that the sandbox does not implement.
pub(super) type Rest = BTreeMap<String, Value>;

/// Parses the body. Borrows from it where the type allows that.
pub(super) fn parse<'a, T: Deserialize<'a>>(call: &'a Call) -> Result<T, AwsError> {
    let unreadable = |reason: String| AwsError::new(400, "SerializationException", reason);
    let text = std::str::from_utf8(&call.body).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_str(if text.is_empty() { "{}" } else { text })
        .map_err(|error| unreadable(error.to_string()))
}

/// Answers 501 if the request has a member that would otherwise be ignored.
pub(super) fn refuse_rest(call: &Call, rest: &Rest) -> Result<(), AwsError> {
    match rest.iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => Err(AwsError::not_implemented("logs", &format!("{} with {name}", call.operation))),
        None => Ok(()),
    }
}

pub(super) fn invalid_parameter(message: impl Into<String>) -> AwsError {
    AwsError::new(400, "InvalidParameterException", message)
}

/// Error for a member that violates a constraint of the service's model.
pub(super) fn constraint(value: &str, member: &str, rule: &str) -> AwsError {
    let value = if value == "null" { value.to_owned() } else { format!("'{value}'") };
    invalid_parameter(format!(
        "1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: {rule}"
    ))
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
