//! Decides whether the policy of a topic or a queue lets a service act for a resource. Pure.
//!
//! It evaluates what policies for S3 and SNS have in the field. For a condition that it does not know, the answer is
//! [`Grant::Unknown`], never a guess.

use serde_json::Value;

/// A service that publishes or sends, and the resource for which it does.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// `s3.amazonaws.com`, for example.
    pub service: &'a str,
    /// ARN of the bucket or topic: `aws:SourceArn`.
    pub arn: &'a str,
    /// Account of the bucket or topic: `aws:SourceAccount`.
    pub account: &'a str,
}

/// Decision of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The sender may, and the policy compares the source.
    Allowed,
    /// The sender may, and so may the same service for resources of any account.
    AllowedToAll,
    /// No statement allows the sender; with the conditions that did not hold.
    Silent(Vec<String>),
    /// A statement denies the sender.
    Denied,
    /// The decision depends on this condition, which is not evaluated here.
    Unknown(String),
}

/// Decides whether `sender` may do `action` on `resource`.
pub fn decide(policy: &str, sender: Sender<'_>, action: &str, resource: &str) -> Grant {
    if policy.trim().is_empty() {
        return Grant::Silent(Vec::new());
    }
    let Ok(document) = serde_json::from_str::<Value>(policy) else {
        return Grant::Unknown("the policy is not JSON".to_owned());
    };
    let (mut allowed, mut open, mut unknown, mut unsure, mut unmet) = (false, false, None, None, Vec::new());
    for statement in list(&document["Statement"]) {
        if !applies(statement, sender.service, action, resource) {
            continue;
        }
        let condition = holds(&statement["Condition"], sender);
        match (statement["Effect"].as_str(), condition) {
            (Some("Deny"), Ok(None)) => return Grant::Denied,
            (Some("Allow"), Ok(None)) => {
                allowed = true;
                open |= !names_source(&statement["Condition"]);
            }
            (Some("Allow"), Ok(Some(failed))) => unmet.push(failed),
            (Some("Deny"), Ok(Some(_))) => {}
            // Another statement may allow the call, but none can undo a Deny.
            (Some("Allow"), Err(condition)) => unsure = Some(condition),
            (_, Err(condition)) => unknown = Some(condition),
            _ => unknown = Some("a statement has neither Allow nor Deny".to_owned()),
        }
    }
    match (allowed, open, unknown) {
        (_, _, Some(condition)) => Grant::Unknown(condition),
        (true, true, None) => Grant::AllowedToAll,
        (true, false, None) => Grant::Allowed,
        (false, _, None) => unsure.map_or(Grant::Silent(unmet), Grant::Unknown),
    }
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        Value::Null => &[],
        one => std::slice::from_ref(one),
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).iter().filter_map(Value::as_str)
}

fn applies(statement: &Value, service: &str, action: &str, resource: &str) -> bool {
    let anyone = |value: &Value| texts(value).any(|name| name == "*");
    let named = |principal: &Value| {
        anyone(principal)
            || anyone(&principal["AWS"])
            || texts(&principal["Service"]).any(|name| name == service || name == "*")
    };
    let action = action.to_ascii_lowercase();
    let is_action =
        |value: &Value| texts(value).any(|pattern| matches_wildcard(&pattern.to_ascii_lowercase(), &action));
    let is_resource = |value: &Value| texts(value).any(|pattern| matches_wildcard(pattern, resource));
    let principal = match &statement["NotPrincipal"] {
        Value::Null => named(&statement["Principal"]),
        not => !named(not),
    };
    let actions = match &statement["NotAction"] {
        Value::Null => is_action(&statement["Action"]),
        not => !is_action(not),
    };
    // The policy of a queue or topic applies to its own resource.
    let resources = match (&statement["Resource"], &statement["NotResource"]) {
        (Value::Null, Value::Null) => true,
        (Value::Null, not) => !is_resource(not),
        (these, _) => is_resource(these),
    };
    principal && actions && resources
}

/// Whether the condition compares the source, so that resources of other accounts are kept out.
fn names_source(condition: &Value) -> bool {
    let keys = condition.as_object().into_iter().flatten().filter_map(|(_, keys)| keys.as_object());
    keys.flatten().any(|(key, _)| key.to_ascii_lowercase().starts_with("aws:source"))
}

/// `None` if every condition holds, or the one that does not. The error names a condition that is not known.
fn holds(condition: &Value, sender: Sender<'_>) -> Result<Option<String>, String> {
    for (operator, keys) in condition.as_object().into_iter().flatten() {
        for (key, wanted) in keys.as_object().into_iter().flatten() {
            let shown = || format!("{operator} {key} {wanted}");
            let value = match key.to_ascii_lowercase().as_str() {
                "aws:sourcearn" => Some(sender.arn),
                "aws:sourceaccount" => Some(sender.account),
                "aws:securetransport" | "aws:principalisawsservice" => Some("true"),
                "aws:principalservicename" => Some(sender.service),
                // Calls of services do not have it.
                "aws:principalarn"
                | "aws:principalaccount"
                | "aws:principalorgid"
                | "aws:sourceip"
                | "aws:sourcevpce"
                | "aws:sourcevpc" => None,
                _ => return Err(shown()),
            };
            let operator = operator.to_ascii_lowercase();
            let (operator, if_exists) = match operator.strip_suffix("ifexists") {
                Some(operator) => (operator, true),
                None => (operator.as_str(), false),
            };
            let (operator, negated) = match operator {
                "stringnotequals" => ("stringequals", true),
                "stringnotlike" => ("stringlike", true),
                "arnnotequals" | "arnnotlike" => ("arnlike", true),
                other => (other, false),
            };
            let compare: fn(&str, &str) -> bool = match operator {
                "stringequals" => |wanted, value| wanted == value,
                "stringequalsignorecase" | "bool" => |wanted, value| wanted.eq_ignore_ascii_case(value),
                "stringlike" => matches_wildcard,
                "arnequals" | "arnlike" => matches_arn,
                _ => return Err(shown()),
            };
            let holds = match value {
                Some(value) => {
                    let wanted = list(wanted).iter().map(|wanted| match wanted {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    });
                    wanted.into_iter().any(|wanted| compare(&wanted, value)) != negated
                }
                None => if_exists || negated,
            };
            if !holds {
                return Ok(Some(shown()));
            }
        }
    }
    Ok(None)
}

/// Compares ARNs part by part, so that a `*` in one part does not match a colon.
fn matches_arn(pattern: &str, arn: &str) -> bool {
    let (pattern, arn): (Vec<_>, Vec<_>) = (pattern.splitn(6, ':').collect(), arn.splitn(6, ':').collect());
    pattern.len() == arn.len()
        && pattern.iter().zip(&arn).all(|(pattern, part)| matches_wildcard(pattern, part))
}

/// Whether the whole text matches: `*` is any text, `?` is one character.
fn matches_wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut place) = (0, 0);
    let mut star = None;
    while place < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(c) if *c == '?' || *c == text[place] => (at, place) = (at + 1, place + 1),
            _ => match star {
                Some((star_at, from)) => {
                    star = Some((star_at, from + 1));
                    (at, place) = (star_at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "arn:aws:sns:us-east-1:111111111111:events";
    const S3: Sender<'_> =
        Sender { service: "s3.amazonaws.com", arn: "arn:aws:s3:::staging", account: "111111111111" };

    #[track_caller]
    fn check(statements: &str, expected: &Grant) {
        let policy = format!(r#"{{"Version":"2012-10-17","Statement":{statements}}}"#);
        assert_eq!(decide(&policy, S3, "sns:Publish", TOPIC), *expected, "{statements}");
    }

    fn statement(principal: &str, action: &str, condition: &str) -> String {
        let condition =
            if condition.is_empty() { String::new() } else { format!(r#","Condition":{condition}"#) };
        format!(
            r#"{{"Effect":"Allow","Principal":{principal},"Action":"{action}","Resource":"{TOPIC}"{condition}}}"#
        )
    }

    #[test]
    fn a_service_is_allowed_by_principal_action_resource_and_condition() {
        let s3 = r#"{"Service":"s3.amazonaws.com"}"#;
        let bound = r#"{"ArnLike":{"aws:SourceArn":"arn:aws:s3:*:*:staging"},"StringEquals":{"AWS:SourceAccount":"111111111111"}}"#;
        for (principal, action, condition, expected) in [
            (s3, "sns:Publish", bound, Grant::Allowed),
            (s3, "SNS:publish", bound, Grant::Allowed),
            (r#"{"AWS":"*"}"#, "sns:*", bound, Grant::Allowed),
            (r#""*""#, "*", "", Grant::AllowedToAll),
            (s3, "sns:Publish", "", Grant::AllowedToAll),
            (s3, "sns:Publish", r#"{"Bool":{"aws:SecureTransport":true}}"#, Grant::AllowedToAll),
            (s3, "sns:Subscribe", bound, Grant::Silent(vec![])),
            (r#"{"Service":"events.amazonaws.com"}"#, "sns:Publish", bound, Grant::Silent(vec![])),
            (r#"{"AWS":"111111111111"}"#, "sns:Publish", bound, Grant::Silent(vec![])),
            (
                s3,
                "sns:Publish",
                r#"{"ArnEquals":{"aws:SourceArn":"arn:aws:s3:::other"}}"#,
                Grant::Silent(vec![r#"ArnEquals aws:SourceArn "arn:aws:s3:::other""#.into()]),
            ),
            (
                s3,
                "sns:Publish",
                r#"{"StringEquals":{"aws:SourceAccount":["2","3"]}}"#,
                Grant::Silent(vec![r#"StringEquals aws:SourceAccount ["2","3"]"#.into()]),
            ),
            (
                r#"{"AWS":"*"}"#,
                "SNS:Publish",
                r#"{"StringEquals":{"AWS:SourceOwner":"111111111111"}}"#,
                Grant::Unknown(r#"StringEquals AWS:SourceOwner "111111111111""#.into()),
            ),
            (
                s3,
                "sns:Publish",
                r#"{"StringEquals":{"aws:SourceOrgID":"o-1"}}"#,
                Grant::Unknown(r#"StringEquals aws:SourceOrgID "o-1""#.into()),
            ),
            (
                s3,
                "sns:Publish",
                r#"{"DateLessThan":{"aws:SourceArn":"x"}}"#,
                Grant::Unknown(r#"DateLessThan aws:SourceArn "x""#.into()),
            ),
        ] {
            check(&statement(principal, action, condition), &expected);
        }
    }

    #[test]
    fn a_deny_counts_only_where_it_applies() {
        let allow = statement(r#""*""#, "sns:*", r#"{"ArnLike":{"aws:SourceArn":"arn:aws:s3:::staging"}}"#);
        let deny = |condition: &str| statement(r#""*""#, "sns:Publish", condition).replace("Allow", "Deny");
        let all = |deny: String| format!("[{allow},{deny}]");
        check(&all(deny(r#"{"Bool":{"aws:SecureTransport":"false"}}"#)), &Grant::Allowed);
        check(&all(deny(r#"{"StringNotEquals":{"aws:SourceAccount":"222222222222"}}"#)), &Grant::Denied);
        check(&all(deny(r#"{"StringNotEqualsIfExists":{"aws:PrincipalOrgID":"o-1"}}"#)), &Grant::Denied);
        check(&all(deny("")), &Grant::Denied);
        check(&all(deny("").replace(TOPIC, "arn:aws:sns:us-east-1:111111111111:other")), &Grant::Allowed);
        let not = deny("").replace("\"Principal\"", "\"NotPrincipal\"").replace("\"*\"", S3_ONLY);
        check(&all(not), &Grant::Allowed);
    }

    const S3_ONLY: &str = r#"{"Service":"s3.amazonaws.com"}"#;

    #[test]
    fn no_policy_allows_nothing_and_a_broken_one_is_unknown() {
        assert_eq!(decide("", S3, "sns:Publish", TOPIC), Grant::Silent(vec![]));
        assert_eq!(decide("{}", S3, "sns:Publish", TOPIC), Grant::Silent(vec![]));
        assert!(matches!(decide("{", S3, "sns:Publish", TOPIC), Grant::Unknown(_)));
    }
}
