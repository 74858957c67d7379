//! Policy documents: reads them strictly and says what their statements decide about one question.
//!
//! Covered: Allow and Deny, Action and Resource with `*` and `?`, `AWS` principals, and the four condition operators
//! that trust policies of log delivery use. `NotAction`, `NotResource` and `NotPrincipal` are refused as not implemented.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::call::{AwsError, Call, Principal};

/// What the statements of a policy say together; a Deny outweighs every Allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// At least one statement allows and none denies.
    Allow,
    /// A statement denies.
    Deny,
    /// No statement matches.
    Silent,
}

/// Condition keys and their values; keys are compared without regard to case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context(HashMap<String, String>);

impl Context {
    /// The keys that every call has: who is asking.
    pub(crate) fn of(call: &Call) -> Self {
        let arn = match &call.principal {
            Principal::Root => format!("arn:aws:iam::{}:root", call.account),
            Principal::Session { role_arn, .. } => role_arn.clone(),
        };
        Self::default().with("aws:PrincipalArn", &arn).with("aws:PrincipalAccount", &call.account)
    }

    /// The same with one more key.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_ascii_lowercase(), value.to_owned());
        self
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_ascii_lowercase()).map(String::as_str)
    }
}

/// A parsed policy document.
#[derive(Clone, Debug)]
pub(crate) struct Policy(Vec<Statement>);

#[derive(Clone, Debug)]
struct Statement {
    effect: Effect,
    principals: Vec<String>,
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
struct Condition {
    operator: Operator,
    key: String,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    StringEquals,
    StringLike,
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
    condition: BTreeMap<String, BTreeMap<String, OneOrMany<String>>>,
    not_action: Option<serde_json::Value>,
    not_resource: Option<serde_json::Value>,
    not_principal: Option<serde_json::Value>,
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
    /// Reads a policy of a role or a session: `Resource` is required, `Principal` is not allowed.
    pub(crate) fn identity(text: &str) -> Result<Self, AwsError> {
        Self::read(text, Kind::Identity)
    }

    /// Reads a role's trust policy: `Principal` is required, `Resource` is not allowed.
    pub(crate) fn trust(text: &str) -> Result<Self, AwsError> {
        Self::read(text, Kind::Trust)
    }

    fn read(text: &str, kind: Kind) -> Result<Self, AwsError> {
        let raw: RawPolicy = serde_json::from_str(text)
            .map_err(|error| malformed(format!("Syntax errors in policy. ({error})")))?;
        if let Some(version) = &raw.version
            && !["2012-10-17", "2008-10-17"].contains(&version.as_str())
        {
            return Err(malformed("The policy must contain a valid version string"));
        }
        raw.statement
            .into_vec()
            .into_iter()
            .map(|statement| Statement::read(statement, kind))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What a role's or session's policy decides about `action` on `resource`.
    pub(crate) fn decide(&self, action: &str, resource: &str, context: &Context) -> Decision {
        self.decide_where(action, context, |statement| {
            statement.resources.iter().any(|pattern| matches_wildcard(pattern, resource))
        })
    }

    /// What a trust policy decides about the caller doing `action` to its role.
    pub(crate) fn decide_trust(&self, call: &Call, action: &str, context: &Context) -> Decision {
        self.decide_where(action, context, |statement| {
            statement.principals.iter().any(|principal| names_caller(principal, call))
        })
    }

    fn decide_where(
        &self,
        action: &str,
        context: &Context,
        applies: impl Fn(&Statement) -> bool,
    ) -> Decision {
        let mut decision = Decision::Silent;
        for statement in &self.0 {
            if statement.has_action(action) && applies(statement) && statement.conditions_hold(context) {
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
    fn read(raw: RawStatement, kind: Kind) -> Result<Self, AwsError> {
        for (element, value) in [
            ("NotAction", &raw.not_action),
            ("NotResource", &raw.not_resource),
            ("NotPrincipal", &raw.not_principal),
        ] {
            if value.is_some() {
                return Err(AwsError::not_implemented("iam", &format!("policy element {element}")));
            }
        }
        let actions = raw.action.map(OneOrMany::into_vec).unwrap_or_default();
        if actions.is_empty() {
            return Err(malformed("Policy statement must contain actions."));
        }
        if let Some(action) = actions.iter().find(|action| *action != "*" && !action.contains(':')) {
            return Err(malformed(format!(
                "Actions/Conditions must be prefaced by a vendor, e.g., iam: {action}"
            )));
        }
        let resources = raw.resource.map(OneOrMany::into_vec).unwrap_or_default();
        let principals = match (kind, raw.principal) {
            (Kind::Identity, None) if resources.is_empty() => {
                return Err(malformed("Policy statement must contain resources."));
            }
            (Kind::Identity, None) => Vec::new(),
            (Kind::Identity, Some(_)) => {
                return Err(malformed("Policy document should not specify a principal."));
            }
            (Kind::Trust, _) if !resources.is_empty() => {
                return Err(malformed("Has prohibited field Resource"));
            }
            (Kind::Trust, None) => return Err(malformed("Missing required field Principal")),
            (Kind::Trust, Some(principal)) => read_principals(principal)?,
        };
        let mut conditions = Vec::new();
        for (name, keys) in raw.condition {
            let operator = Operator::named(&name)
                .ok_or_else(|| malformed(format!("Unknown condition operator {name} in policy.")))?;
            for (key, values) in keys {
                conditions.push(Condition { operator, key, values: values.into_vec() });
            }
        }
        Ok(Self { effect: raw.effect, principals, actions, resources, conditions })
    }

    fn has_action(&self, action: &str) -> bool {
        let action = action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| matches_wildcard(&pattern.to_ascii_lowercase(), &action))
    }

    /// A key that the question does not carry never holds.
    fn conditions_hold(&self, context: &Context) -> bool {
        self.conditions.iter().all(|condition| {
            context.get(&condition.key).is_some_and(|value| {
                condition.values.iter().any(|wanted| condition.operator.holds(wanted, value))
            })
        })
    }
}

impl Operator {
    fn named(name: &str) -> Option<Self> {
        match name {
            "StringEquals" => Some(Self::StringEquals),
            "StringLike" => Some(Self::StringLike),
            // AWS evaluates the two alike, wildcards included.
            "ArnLike" | "ArnEquals" => Some(Self::ArnLike),
            _ => None,
        }
    }

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

/// `AWS` principals; those of other types never are our callers.
fn read_principals(raw: RawPrincipal) -> Result<Vec<String>, AwsError> {
    let by_type = match raw {
        RawPrincipal::Anyone(anyone) if anyone == "*" => return Ok(vec![anyone]),
        RawPrincipal::Anyone(other) => {
            return Err(malformed(format!("Invalid principal in policy: {other}")));
        }
        RawPrincipal::ByType(by_type) => by_type,
    };
    let mut principals = Vec::new();
    for (kind, names) in by_type {
        match kind.as_str() {
            "AWS" => principals.extend(names.into_vec()),
            "Service" | "Federated" | "CanonicalUser" => {}
            other => return Err(malformed(format!("Invalid principal in policy: \"{other}\""))),
        }
    }
    let valid =
        |name: &String| name == "*" || is_account(name) || name.starts_with("arn:") && !name.contains('*');
    match principals.iter().find(|name| !valid(name)) {
        Some(bad) => Err(malformed(format!("Invalid principal in policy: \"AWS\":\"{bad}\""))),
        None => Ok(principals),
    }
}

fn names_caller(principal: &str, call: &Call) -> bool {
    if principal == "*" || principal == call.account {
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

/// Whether the text is an account id, twelve digits.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the pattern covers the whole text: `*` is any run of characters, `?` is any one.
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

fn malformed(message: impl Into<String>) -> AwsError {
    AwsError::new(400, "MalformedPolicyDocument", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(principal: Principal) -> Call {
        Call {
            account: "111111111111".to_owned(),
            principal,
            region: "us-east-1".to_owned(),
            operation: "AssumeRole".to_owned(),
            method: http::Method::POST,
            path: "/".to_owned(),
            query: Vec::new(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            endpoint: "http://127.0.0.1:1".to_owned(),
        }
    }

    fn session() -> Call {
        call(Principal::Session {
            role_arn: "arn:aws:iam::111111111111:role/path/central".to_owned(),
            session_name: "run".to_owned(),
            session_policy: None,
        })
    }

    #[test]
    fn wildcards_cover_the_whole_text() {
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
    fn identity_policies_decide() {
        let check = |statements: &str, action: &str, resource: &str, expected: Decision| {
            let policy = Policy::identity(&format!(r#"{{"Version":"2012-10-17","Statement":{statements}}}"#))
                .expect("the policy is well formed");
            assert_eq!(policy.decide(action, resource, &Context::of(&session())), expected, "{statements}");
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
        let check = |principal: &str, call: &Call, expected: Decision| {
            let policy = Policy::trust(&format!(
                r#"{{"Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"sts:AssumeRole"}}]}}"#
            ))
            .expect("the policy is well formed");
            let decision = policy.decide_trust(call, "sts:AssumeRole", &Context::of(call));
            assert_eq!(decision, expected, "{principal}");
        };
        let root = call(Principal::Root);
        for (principal, for_root, for_session) in [
            (r#""*""#, true, true),
            (r#"{"AWS":"111111111111"}"#, true, true),
            (r#"{"AWS":["222222222222","arn:aws:iam::111111111111:root"]}"#, true, true),
            (r#"{"AWS":"arn:aws:iam::111111111111:role/path/central"}"#, false, true),
            (r#"{"AWS":"arn:aws:iam::111111111111:role/central"}"#, false, false),
            (r#"{"AWS":"arn:aws:iam::222222222222:role/path/central"}"#, false, false),
            (r#"{"AWS":"arn:aws:sts::111111111111:assumed-role/central/run"}"#, false, true),
            (r#"{"AWS":"arn:aws:sts::111111111111:assumed-role/central/other"}"#, false, false),
            (r#"{"Service":"ecs-tasks.amazonaws.com"}"#, false, false),
            (r#"{"AWS":"222222222222"}"#, false, false),
        ] {
            let decision = |yes| if yes { Decision::Allow } else { Decision::Silent };
            check(principal, &root, decision(for_root));
            check(principal, &session(), decision(for_session));
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
        ] {
            let error = trust(rest).expect_err("the document is wrong");
            assert_eq!(error.code, "MalformedPolicyDocument", "{rest}");
        }
        assert_eq!(
            trust(r#""Principal":"*","NotAction":"a:B""#).expect_err("not covered").code,
            "NotImplemented"
        );
        assert_eq!(Policy::identity("{").expect_err("not JSON").code, "MalformedPolicyDocument");
    }
}
