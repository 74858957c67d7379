//! Resource policies: what a bucket, a topic or a queue lets others do to it.
//!
//! Conditions are evaluated over the keys the caller of [`ResourcePolicy::decide`] passes; a key it does not pass is
//! absent, as in AWS. An operator this module does not know is refused when the policy is put, never ignored.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    call::{Call, Principal},
    iam::policy::matches_wildcard,
};

/// A parsed policy document.
#[derive(Debug, Clone)]
pub(crate) struct ResourcePolicy {
    statements: Vec<Statement>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who<'a> {
    /// An AWS service acting by itself, for example `sns.amazonaws.com`.
    Service(&'a str),
    /// The signer of a request.
    Caller(&'a Call),
}

/// One question to a policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) who: Who<'a>,
    /// For example `s3:GetObject`.
    pub(crate) action: &'a str,
    /// ARN of the resource.
    pub(crate) resource: &'a str,
    /// Condition keys that are present, with their values.
    pub(crate) context: &'a [(&'a str, &'a str)],
}

/// A policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A Deny statement matched: final.
    Deny,
    /// An Allow statement matched, and no Deny.
    Allow,
    /// No statement matched.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone)]
struct Statement {
    effect: Effect,
    principals: Vec<(PrincipalKind, String)>,
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PrincipalKind {
    Anyone,
    Aws,
    Service,
}

#[derive(Debug, Clone)]
struct Condition {
    negated: bool,
    if_exists: bool,
    ignore_case: bool,
    wildcards: bool,
    key: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    version: Option<String>,
    #[serde(default, rename = "Id")]
    _id: Option<String>,
    statement: OneOrMany<RawStatement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawStatement {
    #[serde(default, rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    principal: Value,
    action: OneOrMany<String>,
    resource: OneOrMany<String>,
    #[serde(default)]
    condition: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl ResourcePolicy {
    /// Parses a policy document; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| format!("policy is not valid: {error}"))?;
        if let Some(version) = document.version
            && version != "2012-10-17"
            && version != "2008-10-17"
        {
            return Err(format!("unknown policy version {version}"));
        }
        let statements = document.statement.into_vec().into_iter().map(Statement::build);
        Ok(Self { statements: statements.collect::<Result<_, _>>()? })
    }

    /// Answers one question; a Deny wins over any Allow.
    pub(crate) fn decide(&self, access: &Access<'_>) -> Decision {
        let mut decision = Decision::Silent;
        for statement in &self.statements {
            if statement.matches(access) {
                match statement.effect {
                    Effect::Deny => return Decision::Deny,
                    Effect::Allow => decision = Decision::Allow,
                }
            }
        }
        decision
    }
}

impl Statement {
    fn build(raw: RawStatement) -> Result<Self, String> {
        let mut conditions = Vec::new();
        for (operator, keys) in raw.condition {
            let keys = keys.as_object().ok_or_else(|| format!("condition {operator} is not an object"))?;
            for (key, values) in keys {
                conditions.push(Condition::build(&operator, key, values)?);
            }
        }
        Ok(Self {
            effect: raw.effect,
            principals: principals(&raw.principal)?,
            actions: raw.action.into_vec(),
            resources: raw.resource.into_vec(),
            conditions,
        })
    }

    fn matches(&self, access: &Access<'_>) -> bool {
        let action = access.action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| matches_wildcard(&pattern.to_ascii_lowercase(), &action))
            && self.resources.iter().any(|pattern| matches_wildcard(pattern, access.resource))
            && self.conditions.iter().all(|condition| condition.holds(access))
            && self.principals.iter().any(|(kind, name)| names(*kind, name, access.who))
    }
}

impl Condition {
    fn build(operator: &str, key: &str, values: &Value) -> Result<Self, String> {
        let (base, if_exists) =
            operator.strip_suffix("IfExists").map_or((operator, false), |base| (base, true));
        let (negated, ignore_case, wildcards) = match base {
            "StringEquals" => (false, false, false),
            "StringNotEquals" => (true, false, false),
            "StringEqualsIgnoreCase" | "Bool" => (false, true, false),
            "StringNotEqualsIgnoreCase" => (true, true, false),
            "StringLike" | "ArnLike" | "ArnEquals" => (false, false, true),
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => (true, false, true),
            _ => return Err(format!("condition operator {operator} is not known to the sandbox")),
        };
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Bool(flag) => Ok(flag.to_string()),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(format!("a value of condition {operator} {key} is neither text nor a number")),
        };
        let values = match values {
            Value::Array(values) => values.iter().map(text).collect::<Result<_, _>>()?,
            one => vec![text(one)?],
        };
        Ok(Self { negated, if_exists, ignore_case, wildcards, key: key.to_owned(), values })
    }

    fn holds(&self, access: &Access<'_>) -> bool {
        let own = own_context(access.who);
        let given = access.context.iter().copied();
        let mut present = given.chain(own.iter().map(|(key, value)| (*key, value.as_str())));
        let Some((_, actual)) = present.find(|(key, _)| key.eq_ignore_ascii_case(&self.key)) else {
            return self.negated || self.if_exists;
        };
        let found = self.values.iter().any(|value| {
            if self.wildcards {
                matches_wildcard(value, actual)
            } else if self.ignore_case {
                value.eq_ignore_ascii_case(actual)
            } else {
                value == actual
            }
        });
        found != self.negated
    }
}

fn own_context(who: Who<'_>) -> Vec<(&'static str, String)> {
    match who {
        Who::Service(_) => vec![("aws:PrincipalIsAWSService", "true".to_owned())],
        Who::Caller(call) => vec![
            ("aws:PrincipalIsAWSService", "false".to_owned()),
            ("aws:PrincipalAccount", call.account.clone()),
            ("aws:PrincipalArn", principal_arn(call)),
        ],
    }
}

fn principal_arn(call: &Call) -> String {
    match &call.principal {
        Principal::Root => format!("arn:aws:iam::{}:root", call.account),
        Principal::Session { role_arn, .. } => role_arn.clone(),
    }
}

fn principals(value: &Value) -> Result<Vec<(PrincipalKind, String)>, String> {
    if value.as_str() == Some("*") {
        return Ok(vec![(PrincipalKind::Anyone, String::new())]);
    }
    let kinds = value.as_object().ok_or("a principal is neither \"*\" nor an object")?;
    let mut found = Vec::new();
    for (kind, names) in kinds {
        let kind = match kind.as_str() {
            "AWS" => PrincipalKind::Aws,
            "Service" => PrincipalKind::Service,
            other => return Err(format!("principal kind {other} is not known to the sandbox")),
        };
        let names = match names {
            Value::Array(names) => names.iter().collect(),
            one => vec![one],
        };
        for name in names {
            let name = name.as_str().ok_or("a principal's name is not text")?;
            let anyone = kind == PrincipalKind::Aws && name == "*";
            found.push((if anyone { PrincipalKind::Anyone } else { kind }, name.to_owned()));
        }
    }
    Ok(found)
}

fn names(kind: PrincipalKind, name: &str, who: Who<'_>) -> bool {
    match (kind, who) {
        (PrincipalKind::Anyone, _) => true,
        (PrincipalKind::Service, Who::Service(service)) => name == service,
        (PrincipalKind::Aws, Who::Caller(call)) => {
            if name == call.account || name == format!("arn:aws:iam::{}:root", call.account) {
                return true;
            }
            let Principal::Session { role_arn, session_name, .. } = &call.principal else { return false };
            let role = role_arn.rsplit('/').next().unwrap_or_default();
            name == role_arn
                || name == format!("arn:aws:sts::{}:assumed-role/{role}/{session_name}", call.account)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::tests::{root, session};

    fn decide(statement: &str, who: Who<'_>, action: &str, context: &[(&str, &str)]) -> Decision {
        let policy =
            ResourcePolicy::parse(&format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#))
                .expect("a valid policy");
        policy.decide(&Access { who, action, resource: "arn:aws:s3:::b/k/1", context })
    }

    #[test]
    fn principals_match_by_account_role_session_and_service() {
        let statement = |principal: &str| {
            format!(
                r#"{{"Effect":"Allow","Principal":{principal},"Action":"s3:Get*","Resource":"arn:aws:s3:::b/*"}}"#
            )
        };
        let (root, session) = (root("111111111111"), session("111111111111", "worker"));
        let check = |principal: &str, who: Who<'_>, expected: Decision| {
            assert_eq!(decide(&statement(principal), who, "s3:getobject", &[]), expected, "{principal}");
        };
        check(r#""*""#, Who::Caller(&session), Decision::Allow);
        check(r#"{"AWS":"111111111111"}"#, Who::Caller(&root), Decision::Allow);
        check(r#"{"AWS":"arn:aws:iam::111111111111:root"}"#, Who::Caller(&session), Decision::Allow);
        check(r#"{"AWS":["arn:aws:iam::111111111111:role/worker"]}"#, Who::Caller(&session), Decision::Allow);
        check(
            r#"{"AWS":"arn:aws:sts::111111111111:assumed-role/worker/tests"}"#,
            Who::Caller(&session),
            Decision::Allow,
        );
        check(r#"{"AWS":"arn:aws:iam::111111111111:role/other"}"#, Who::Caller(&session), Decision::Silent);
        check(r#"{"AWS":"222222222222"}"#, Who::Caller(&root), Decision::Silent);
        check(r#"{"Service":"s3.amazonaws.com"}"#, Who::Service("s3.amazonaws.com"), Decision::Allow);
        check(r#"{"Service":"s3.amazonaws.com"}"#, Who::Service("sns.amazonaws.com"), Decision::Silent);
        check(r#"{"Service":"s3.amazonaws.com"}"#, Who::Caller(&root), Decision::Silent);
        assert_eq!(decide(&statement(r#""*""#), Who::Caller(&root), "s3:PutObject", &[]), Decision::Silent);
    }

    #[test]
    fn conditions_are_evaluated_and_absent_keys_do_not_match() {
        let statement = |condition: &str| {
            format!(
                r#"{{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{condition}}}"#
            )
        };
        let context =
            [("aws:SourceArn", "arn:aws:s3:::staging"), ("s3:x-amz-acl", "bucket-owner-full-control")];
        let check = |condition: &str, expected: Decision| {
            let got =
                decide(&statement(condition), Who::Service("s3.amazonaws.com"), "sns:Publish", &context);
            assert_eq!(got, expected, "{condition}");
        };
        check(r#"{"ArnLike":{"aws:SourceArn":"arn:aws:s3:*:*:stag*"}}"#, Decision::Allow);
        check(r#"{"ArnLike":{"aws:sourcearn":"arn:aws:s3:::stag*"}}"#, Decision::Allow);
        check(r#"{"StringEquals":{"aws:SourceArn":"arn:aws:s3:::*"}}"#, Decision::Silent);
        check(
            r#"{"StringEquals":{"s3:x-amz-acl":["private","bucket-owner-full-control"]}}"#,
            Decision::Allow,
        );
        check(r#"{"StringEquals":{"aws:SourceAccount":"1"}}"#, Decision::Silent);
        check(r#"{"StringEqualsIfExists":{"aws:SourceAccount":"1"}}"#, Decision::Allow);
        check(r#"{"StringNotEquals":{"aws:SourceArn":"arn:aws:s3:::staging"}}"#, Decision::Silent);
    }

    #[test]
    fn deny_wins_and_what_is_not_known_is_refused() {
        let both = r#"{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},
            {"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"*/k/?"}"#;
        let call = root("111111111111");
        assert_eq!(decide(both, Who::Caller(&call), "s3:GetObject", &[]), Decision::Deny);
        assert_eq!(decide(both, Who::Caller(&call), "s3:PutObject", &[]), Decision::Allow);
        for text in [
            "{}",
            "nonsense",
            r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*"}]}"#,
            r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}}"#,
            r#"{"Statement":{"Effect":"Allow","Principal":{"Federated":"x"},"Action":"*","Resource":"*"}}"#,
        ] {
            assert!(ResourcePolicy::parse(text).is_err(), "{text}");
        }
    }
}
