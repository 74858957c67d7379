//! Policy documents of roles, sessions, trust and resources, parsed strictly and evaluated for one access at a time.
//!
//! Implemented: Allow and Deny, Action and Resource with `*` and `?`, the principals `AWS` and `Service`, and the condition
//! operators `StringEquals`, `StringLike`, `ArnLike` and `ArnEquals`. Anything else is refused when the policy is put.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::call::{AwsError, Call, Principal};

/// Result of a policy's statements. One Deny outweighs every Allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// At least one statement allows the access, and none denies it.
    Allow,
    /// A statement denies the access.
    Deny,
    /// No statement matches.
    Silent,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    /// An AWS service that acts by itself, for example `sns.amazonaws.com`.
    Service(&'a str),
    /// The signer of a request.
    Caller(&'a Call),
}

/// An access that a policy decides on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    pub(crate) who: Who<'a>,
    /// Action, for example `s3:GetObject`.
    pub(crate) action: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) context: &'a Context,
}

/// Condition keys and their values. Keys are compared without case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context(HashMap<String, String>);

impl Context {
    /// Keys that every call has: those about the caller.
    pub(crate) fn of(call: &Call) -> Self {
        let arn = match &call.principal {
            Principal::Root => format!("arn:aws:iam::{}:root", call.account),
            Principal::Session { role_arn, .. } => role_arn.clone(),
        };
        Self::default().with("aws:PrincipalArn", &arn).with("aws:PrincipalAccount", &call.account)
    }

    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_ascii_lowercase(), value.to_owned());
        self
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_ascii_lowercase()).map(String::as_str)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Policy(Vec<Statement>);

#[derive(Clone, Debug)]
struct Statement {
    effect: Effect,
    /// `None` in a role's or session's policy, which applies to its holder.
    principals: Option<Vec<Named>>,
    actions: Vec<String>,
    /// `None` in a trust policy, which applies to its own role.
    resources: Option<Vec<String>>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
enum Named {
    Anyone,
    /// An account id or an ARN.
    Aws(String),
    Service(String),
}

#[derive(Clone, Debug)]
struct Condition {
    operator: Operator,
    key: String,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
enum Operator {
    StringEquals,
    StringLike,
    /// AWS evaluates `ArnEquals` in the same way, including wildcards.
    #[serde(alias = "ArnEquals")]
    ArnLike,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Identity,
    Trust,
    Resource,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct RawPolicy {
    version: Option<String>,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: OneOrMany<RawStatement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct RawStatement {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    principal: Option<RawPrincipal>,
    action: Option<OneOrMany<String>>,
    resource: Option<OneOrMany<String>>,
    #[serde(default)]
    condition: HashMap<Operator, BTreeMap<String, OneOrMany<String>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawPrincipal {
    Anyone(String),
    ByType(BTreeMap<String, OneOrMany<String>>),
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

impl Policy {
    /// Parses the policy of a role or session: `Resource` is required, `Principal` is not allowed.
    pub(crate) fn identity(text: &str) -> Result<Self, AwsError> {
        Self::read(text, Kind::Identity).map_err(malformed)
    }

    /// Parses the trust policy of a role: `Principal` is required, `Resource` is not allowed.
    pub(crate) fn trust(text: &str) -> Result<Self, AwsError> {
        Self::read(text, Kind::Trust).map_err(malformed)
    }

    /// Parses the policy of a bucket, topic or queue: `Principal` and `Resource` are required. Each service adds its own
    /// error code.
    pub(crate) fn resource(text: &str) -> Result<Self, String> {
        Self::read(text, Kind::Resource)
    }

    fn read(text: &str, kind: Kind) -> Result<Self, String> {
        let raw: RawPolicy =
            serde_json::from_str(text).map_err(|error| format!("Syntax errors in policy. ({error})"))?;
        if raw.version.is_some_and(|version| !["2012-10-17", "2008-10-17"].contains(&version.as_str())) {
            return Err("The policy must contain a valid version string".to_owned());
        }
        let statements = raw.statement.into_vec().into_iter();
        statements.map(|statement| Statement::read(statement, kind)).collect::<Result<_, _>>().map(Self)
    }

    /// Decides on one access.
    pub(crate) fn decide(&self, access: &Access<'_>) -> Decision {
        let mut decision = Decision::Silent;
        for statement in self.0.iter().filter(|statement| statement.applies(access)) {
            match statement.effect {
                Effect::Deny => return Decision::Deny,
                Effect::Allow => decision = Decision::Allow,
            }
        }
        decision
    }
}

impl Statement {
    fn read(raw: RawStatement, kind: Kind) -> Result<Self, String> {
        let actions = raw.action.map(OneOrMany::into_vec).unwrap_or_default();
        if actions.is_empty() {
            return Err("Policy statement must contain actions.".to_owned());
        }
        if let Some(action) = actions.iter().find(|action| *action != "*" && !action.contains(':')) {
            return Err(format!("Actions/Conditions must be prefaced by a vendor, e.g., iam: {action}"));
        }
        let resources = raw.resource.map(OneOrMany::into_vec);
        let principals = raw.principal.map(read_principals).transpose()?;
        let wrong = match (kind, &principals, &resources) {
            (Kind::Identity | Kind::Resource, _, None) => Some("Policy statement must contain resources."),
            (Kind::Identity, Some(_), _) => Some("Policy document should not specify a principal."),
            (Kind::Trust, _, Some(_)) => Some("Has prohibited field Resource"),
            (Kind::Trust | Kind::Resource, None, _) => Some("Missing required field Principal"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(wrong.to_owned());
        }
        let conditions = raw.condition.into_iter().flat_map(|(operator, keys)| {
            let condition = move |(key, values): (_, OneOrMany<_>)| Condition {
                operator,
                key,
                values: values.into_vec(),
            };
            keys.into_iter().map(condition)
        });
        let conditions = conditions.collect();
        Ok(Self { effect: raw.effect, principals, actions, resources, conditions })
    }

    fn applies(&self, access: &Access<'_>) -> bool {
        let action = access.action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| matches_wildcard(&pattern.to_ascii_lowercase(), &action))
            && self.resources.as_ref().is_none_or(|patterns| {
                patterns.iter().any(|pattern| matches_wildcard(pattern, access.resource))
            })
            && self.principals.as_ref().is_none_or(|named| named.iter().any(|named| named.is(access.who)))
            && self.conditions.iter().all(|condition| condition.holds(access.context))
    }
}

impl Condition {
    /// A condition never holds for a key that the access lacks.
    fn holds(&self, context: &Context) -> bool {
        let value = context.get(&self.key);
        value.is_some_and(|value| self.values.iter().any(|wanted| self.operator.holds(wanted, value)))
    }
}

impl Operator {
    fn holds(self, wanted: &str, value: &str) -> bool {
        match self {
            Self::StringEquals => wanted == value,
            Self::StringLike => matches_wildcard(wanted, value),
            Self::ArnLike => {
                let wanted: Vec<_> = wanted.splitn(6, ':').collect();
                let value: Vec<_> = value.splitn(6, ':').collect();
                wanted.len() == 6
                    && value.len() == 6
                    && wanted.iter().zip(&value).all(|(pattern, part)| matches_wildcard(pattern, part))
            }
        }
    }
}

fn read_principals(raw: RawPrincipal) -> Result<Vec<Named>, String> {
    let by_type = match raw {
        RawPrincipal::Anyone(anyone) if anyone == "*" => return Ok(vec![Named::Anyone]),
        RawPrincipal::Anyone(other) => return Err(format!("Invalid principal in policy: {other}")),
        RawPrincipal::ByType(by_type) => by_type,
    };
    let named = by_type.into_iter().flat_map(|(kind, names)| {
        names.into_vec().into_iter().map(move |name| match kind.as_str() {
            "AWS" if name == "*" => Ok(Named::Anyone),
            "AWS" if is_account(&name) || name.starts_with("arn:") && !name.contains('*') => {
                Ok(Named::Aws(name))
            }
            "Service" => Ok(Named::Service(name)),
            kind => Err(format!("Invalid principal in policy: \"{kind}\":\"{name}\"")),
        })
    });
    named.collect()
}

impl Named {
    fn is(&self, who: Who<'_>) -> bool {
        match (self, who) {
            (Self::Anyone, _) => true,
            (Self::Service(name), Who::Service(service)) => name == service,
            (Self::Aws(name), Who::Caller(call)) => names_caller(name, call),
            _ => false,
        }
    }
}

fn names_caller(principal: &str, call: &Call) -> bool {
    if principal == call.account {
        return true;
    }
    let mut parts = principal.splitn(6, ':');
    let (service, account, resource) = (parts.nth(2), parts.nth(1), parts.next());
    if account != Some(&call.account) {
        return false;
    }
    match &call.principal {
        _ if service == Some("iam") && resource == Some("root") => true,
        Principal::Root => false,
        Principal::Session { role_arn, session_name, .. } => {
            let role = role_arn.rsplit('/').next().unwrap_or_default();
            principal == role_arn
                || service == Some("sts") && resource == Some(&format!("assumed-role/{role}/{session_name}"))
        }
    }
}

/// Returns whether the text is an account id: twelve digits.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether the pattern matches the whole text: `*` any number of characters, `?` one character.
pub(crate) fn matches_wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut in_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while in_text < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_text));
                at += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[in_text] => {
                at += 1;
                in_text += 1;
            }
            _ => match star {
                Some((star_at, covered)) => {
                    star = Some((star_at, covered + 1));
                    at = star_at + 1;
                    in_text = covered + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&rest| rest == '*')
}

fn malformed(message: String) -> AwsError {
    AwsError::new(400, "MalformedPolicyDocument", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::tests::{root, session};

    const ACCOUNT: &str = "111111111111";

    fn decide(policy: &Policy, who: Who<'_>, action: &str, resource: &str, context: &Context) -> Decision {
        policy.decide(&Access { who, action, resource, context })
    }

    #[test]
    fn wildcard_patterns_must_match_the_whole_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbcd", false),
            ("a?c", "ac", false),
            ("a?c", "aéc", true),
            ("a*b*c", "a-b-b-c", true),
            ("", "a", false),
            ("a**", "a", true),
            ("log-group:x*", "log-group:x:log-stream:y", true),
            ("Log", "log", false),
        ] {
            assert_eq!(matches_wildcard(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn identity_policies_allow_deny_or_stay_silent() {
        let session = session(ACCOUNT, "path/central");
        let check = |statements: &str, action: &str, resource: &str, expected: Decision| {
            let policy = Policy::identity(&format!(r#"{{"Version":"2012-10-17","Statement":{statements}}}"#))
                .expect("the policy is well formed");
            let decision = decide(&policy, Who::Caller(&session), action, resource, &Context::of(&session));
            assert_eq!(decision, expected, "{statements}");
        };
        let allow = r#"{"Effect":"Allow","Action":"logs:Put*","Resource":"arn:x:*"}"#;
        check(allow, "logs:PutLogEvents", "arn:x:1", Decision::Allow);
        check(allow, "LOGS:putlogevents", "arn:x:1", Decision::Allow);
        check(allow, "logs:PutLogEvents", "arn:y:1", Decision::Silent);
        check(allow, "logs:CreateLogStream", "arn:x:1", Decision::Silent);
        let deny = r#"{"Effect":"Deny","Action":["*"],"Resource":["arn:x:1","arn:x:2"]}"#;
        check(&format!("[{allow},{deny}]"), "logs:PutLogEvents", "arn:x:2", Decision::Deny);
        check(&format!("[{deny},{allow}]"), "logs:PutLogEvents", "arn:x:3", Decision::Allow);
        let conditional = |operator: &str, key: &str, value: &str| {
            format!(
                r#"{{"Effect":"Allow","Action":"*","Resource":"*","Condition":{{"{operator}":{{"{key}":{value}}}}}}}"#
            )
        };
        let role = r#""arn:aws:iam::111111111111:role/path/central""#;
        for (operator, key, value, expected) in [
            ("StringEquals", "aws:PrincipalAccount", r#"["2","111111111111"]"#, Decision::Allow),
            ("StringEquals", "AWS:principalaccount", r#""111111111111""#, Decision::Allow),
            ("StringEquals", "aws:PrincipalArn", r#""arn:aws:iam::111111111111:role/*""#, Decision::Silent),
            ("StringLike", "aws:PrincipalArn", r#""arn:aws:iam::111111111111:role/*""#, Decision::Allow),
            ("ArnEquals", "aws:PrincipalArn", role, Decision::Allow),
            ("ArnLike", "aws:PrincipalArn", r#""arn:aws:iam::*:role/*/central""#, Decision::Allow),
            ("ArnLike", "aws:PrincipalArn", r#""arn:*""#, Decision::Silent),
            ("StringEquals", "sts:ExternalId", r#""x""#, Decision::Silent),
            ("StringLike", "aws:NoSuchKey", r#""*""#, Decision::Silent),
        ] {
            check(&conditional(operator, key, value), "a:B", "r", expected);
        }
    }

    #[test]
    fn trust_policies_name_callers() {
        let (root, session) = (root(ACCOUNT), session(ACCOUNT, "path/central"));
        let check = |principal: &str, who: Who<'_>, allowed: bool| {
            let policy = Policy::trust(&format!(
                r#"{{"Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"sts:AssumeRole"}}]}}"#
            ))
            .expect("the policy is well formed");
            let decision = decide(&policy, who, "sts:AssumeRole", "r", &Context::default());
            assert_eq!(decision == Decision::Allow, allowed, "{principal}");
        };
        for (principal, for_root, for_session) in [
            (r#""*""#, true, true),
            (r#"{"AWS":"*"}"#, true, true),
            (r#"{"AWS":"111111111111"}"#, true, true),
            (r#"{"AWS":["222222222222","arn:aws:iam::111111111111:root"]}"#, true, true),
            (r#"{"AWS":"arn:aws:iam::111111111111:role/path/central"}"#, false, true),
            (r#"{"AWS":"arn:aws:iam::111111111111:role/central"}"#, false, false),
            (r#"{"AWS":"arn:aws:iam::222222222222:role/path/central"}"#, false, false),
            (r#"{"AWS":"arn:aws:sts::111111111111:assumed-role/central/tests"}"#, false, true),
            (r#"{"AWS":"arn:aws:sts::111111111111:assumed-role/central/other"}"#, false, false),
            (r#"{"Service":"ecs-tasks.amazonaws.com"}"#, false, false),
            (r#"{"AWS":"222222222222"}"#, false, false),
        ] {
            check(principal, Who::Caller(&root), for_root);
            check(principal, Who::Caller(&session), for_session);
        }
        let s3 = r#"{"Service":"s3.amazonaws.com"}"#;
        check(s3, Who::Service("s3.amazonaws.com"), true);
        check(s3, Who::Service("sns.amazonaws.com"), false);
        check(r#"{"AWS":"111111111111"}"#, Who::Service("s3.amazonaws.com"), false);
    }

    #[test]
    fn resource_policies_need_principals_and_resources() {
        let both = r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},
            {"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"*/k/?"}]}"#;
        let policy = Policy::resource(both).expect("the policy is well formed");
        let call = root(ACCOUNT);
        for (action, expected) in [("s3:GetObject", Decision::Deny), ("s3:PutObject", Decision::Allow)] {
            let who = Who::Caller(&call);
            assert_eq!(decide(&policy, who, action, "arn:aws:s3:::b/k/1", &Context::of(&call)), expected);
        }
        for rest in [
            r#""Principal":"*","Action":"s3:*""#,
            r#""Action":"s3:*","Resource":"*""#,
            r#""Principal":{"Federated":"x"},"Action":"s3:*","Resource":"*""#,
            r#""Principal":"*","Action":"s3:*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#,
        ] {
            let text = format!(r#"{{"Statement":{{"Effect":"Allow",{rest}}}}}"#);
            Policy::resource(&text).expect_err(rest);
        }
    }

    #[test]
    fn bad_documents_are_refused() {
        let trust = |rest: &str| Policy::trust(&format!(r#"{{"Statement":{{"Effect":"Allow",{rest}}}}}"#));
        for rest in [
            r#""Principal":{"AWS":"*"}"#,
            r#""Action":"sts:AssumeRole""#,
            r#""Principal":"me","Action":"sts:AssumeRole""#,
            r#""Principal":{"AWS":"someone"},"Action":"sts:AssumeRole""#,
            r#""Principal":{"AWS":"*"},"Action":"sts:AssumeRole","Resource":"*""#,
            r#""Principal":{"AWS":"*"},"Action":"AssumeRole""#,
            r#""Principal":{"AWS":"*"},"Action":"sts:AssumeRole","Condition":{"StringIs":{"a:B":"c"}}"#,
            r#""Principal":{"AWS":"*"},"Action":"sts:AssumeRole","Unknown":1"#,
            r#""Principal":"*","NotAction":"a:B""#,
        ] {
            let error = trust(rest).expect_err("the document is wrong");
            assert_eq!(error.code, "MalformedPolicyDocument", "{rest}");
        }
        assert_eq!(Policy::identity("{").expect_err("not JSON").code, "MalformedPolicyDocument");
    }
}
