//! STS: AssumeRole with all its checks, GetCallerIdentity, and the issued sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};

use crate::call::{Answer, AwsError, Call, Principal, Reply, violation};
use crate::cloud::Cloud;
use crate::iam::{Role, random_id};
use crate::policy::{Access, Context, Decision, Policy, Who, is_account};
use crate::sigv4::Authorization;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// Longest session: the default maximum of a role, and the limit of role chaining.
const MAX_SESSION_SECONDS: u32 = 3_600;
const MIN_SESSION_SECONDS: u32 = 900;
/// Longest inline session policy, in characters.
const MAX_SESSION_POLICY: usize = 2_048;
const MAX_TAGS: usize = 50;
/// Secret key of every account's root. Its access key is the account id.
const ROOT_SECRET: &str = "test";

/// Key of an account's root or of a session, for checking signatures.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) account: String,
    pub(crate) principal: Principal,
    pub(crate) secret: String,
    /// Token that the requests of a session must carry; `None` for an account's root.
    pub(crate) token: Option<String>,
    /// End of a session; `None` for an account's root.
    pub(crate) expires_at: Option<Timestamp>,
    /// Source identity. Chained sessions inherit it and cannot change it.
    source_identity: Option<String>,
}

/// Sessions issued so far. Expired ones are kept, because their errors differ from those of unknown keys.
#[derive(Debug, Default)]
pub(crate) struct Sts {
    /// By access key id.
    sessions: Mutex<HashMap<String, Key>>,
    /// Number of AssumeRole calls by role, including failed ones.
    asked: Mutex<HashMap<String, u64>>,
}

impl Sts {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "AssumeRole" => self.assume_role(cloud, call),
            "GetCallerIdentity" => Ok(get_caller_identity(cloud, call)),
            other => Err(AwsError::not_implemented("sts", other)),
        }
    }

    /// Key with this id, if it was ever issued.
    pub(crate) fn key(&self, access_key_id: &str) -> Option<Key> {
        if is_account(access_key_id) {
            return Some(Key {
                account: access_key_id.to_owned(),
                principal: Principal::Root,
                secret: ROOT_SECRET.to_owned(),
                token: None,
                expires_at: None,
                source_identity: None,
            });
        }
        self.sessions().get(access_key_id).cloned()
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        let of = |(id, key): (&String, &Key)| [Some(id.clone()), Some(key.secret.clone()), key.token.clone()];
        self.sessions().iter().flat_map(of).flatten().collect()
    }

    pub(crate) fn times_asked(&self, role_arn: &str) -> u64 {
        self.asked().get(role_arn).copied().unwrap_or_default()
    }

    pub(crate) fn expire_sessions(&self, account: &str) {
        let now = Timestamp::now();
        for session in self.sessions().values_mut().filter(|session| session.account == account) {
            session.expires_at = Some(now);
        }
    }

    fn assume_role(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let request = Request::read(call)?;
        *self.asked().entry(request.role_arn.clone()).or_default() += 1;
        if matches!(call.principal, Principal::Session { .. }) && request.seconds > MAX_SESSION_SECONDS {
            return Err(invalid(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
            ));
        }
        let source_identity = self.source_identity(call, &request)?;
        let role = authorize(cloud, call, &request, source_identity.as_deref())?;
        if request.seconds > MAX_SESSION_SECONDS {
            return Err(invalid(
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ));
        }

        let access_key_id = format!("ASIA{}", random_id(16));
        let account = role.arn.split(':').nth(4).unwrap_or_default().to_owned();
        let expires_at = Timestamp::now() + SignedDuration::from_secs(i64::from(request.seconds));
        let session = Key {
            account: account.clone(),
            principal: Principal::Session {
                role_arn: role.arn.clone(),
                session_name: request.session_name.clone(),
                session_policy: request.policy.clone(),
            },
            secret: random_id(40),
            token: Some(format!("IQoJ{}", random_id(352))),
            expires_at: Some(expires_at),
            source_identity: source_identity.clone(),
        };
        let result = format!(
            "<Credentials><AccessKeyId>{access_key_id}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
             <AssumedRoleUser><AssumedRoleId>{}:{name}</AssumedRoleId>\
             <Arn>arn:aws:sts::{account}:assumed-role/{}/{name}</Arn></AssumedRoleUser>{}{}",
            session.secret,
            session.token.as_deref().unwrap_or_default(),
            expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            role.id,
            role.arn.rsplit('/').next().unwrap_or_default(),
            request.packed_size_xml(),
            source_identity
                .map(|value| format!("<SourceIdentity>{value}</SourceIdentity>"))
                .unwrap_or_default(),
            name = request.session_name,
        );
        self.sessions().insert(access_key_id, session);
        Ok(Reply::query(NAMESPACE, "AssumeRole", &result))
    }

    /// Source identity of the new session: the caller's, which cannot change, or the requested one.
    fn source_identity(&self, call: &Call, request: &Request) -> Result<Option<String>, AwsError> {
        let access_key_id = Authorization::read(&call.headers).map(|header| header.access_key_id);
        let inherited = access_key_id.and_then(|id| self.key(&id)).and_then(|key| key.source_identity);
        match (inherited, &request.source_identity) {
            (Some(inherited), Some(asked)) if inherited != *asked => {
                Err(AwsError::access_denied(call, "sts:SetSourceIdentity", &request.role_arn))
            }
            (Some(inherited), _) => Ok(Some(inherited)),
            (None, asked) => Ok(asked.clone()),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Key>> {
        self.sessions.lock().expect("no code panics while it holds the sessions")
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.asked.lock().expect("no code panics while it holds the counts")
    }
}

/// Checks each action on both sides: in the caller's own policies and in the role's trust policy.
fn authorize(
    cloud: &Cloud,
    call: &Call,
    request: &Request,
    source_identity: Option<&str>,
) -> Result<Role, AwsError> {
    let denied = |action: &str| AwsError::access_denied(call, action, &request.role_arn);
    let role = cloud.iam.role(&request.role_arn).ok_or_else(|| denied("sts:AssumeRole"))?;
    let mut context = Context::of(call).with("sts:RoleSessionName", &request.session_name);
    if let Some(external_id) = &request.external_id {
        context = context.with("sts:ExternalId", external_id);
    }
    if let Some(source_identity) = source_identity {
        context = context.with("sts:SourceIdentity", source_identity);
    }
    for (key, value) in &request.tags {
        context = context.with(&format!("aws:RequestTag/{key}"), value);
    }
    let mut actions = vec!["sts:AssumeRole"];
    actions.extend((!request.tags.is_empty()).then_some("sts:TagSession"));
    actions.extend(source_identity.map(|_| "sts:SetSourceIdentity"));
    for action in actions {
        cloud.iam.authorize_in(call, action, &role.arn, &context)?;
        let access = Access { who: Who::Caller(call), action, resource: &role.arn, context: &context };
        if role.trust.decide(&access) != Decision::Allow {
            return Err(denied(action));
        }
    }
    Ok(role)
}

/// A valid AssumeRole request.
struct Request {
    role_arn: String,
    session_name: String,
    external_id: Option<String>,
    policy: Option<String>,
    seconds: u32,
    source_identity: Option<String>,
    tags: Vec<(String, String)>,
}

impl Request {
    fn read(call: &Call) -> Result<Self, AwsError> {
        let mut fields = HashMap::new();
        let mut tags: BTreeMap<u32, (Option<String>, Option<String>)> = BTreeMap::new();
        for (name, value) in call.form().0 {
            let tag = name.strip_prefix("Tags.member.").and_then(|rest| rest.split_once('.'));
            match (name.as_str(), tag) {
                (_, Some((number, part))) => {
                    let number =
                        number.parse().map_err(|_| invalid(format!("{name} is not a member of a list")))?;
                    let entry = tags.entry(number).or_default();
                    match part {
                        "Key" => entry.0 = Some(value),
                        "Value" => entry.1 = Some(value),
                        _ => return Err(invalid(format!("{name} is not a part of a tag"))),
                    }
                }
                (
                    "Action" | "Version" | "RoleArn" | "RoleSessionName" | "ExternalId" | "Policy"
                    | "DurationSeconds" | "SourceIdentity",
                    None,
                ) => {
                    fields.insert(name, value);
                }
                _ => return Err(AwsError::not_implemented("sts", &format!("AssumeRole with {name}"))),
            }
        }
        let mut field = |name: &str| fields.remove(name);
        let request = Self {
            role_arn: field("RoleArn").ok_or_else(|| missing("roleArn"))?,
            session_name: field("RoleSessionName").ok_or_else(|| missing("roleSessionName"))?,
            external_id: field("ExternalId"),
            policy: field("Policy"),
            seconds: match field("DurationSeconds") {
                Some(text) => text.parse().map_err(|_| invalid("durationSeconds is not a number"))?,
                None => MAX_SESSION_SECONDS,
            },
            source_identity: field("SourceIdentity"),
            tags: tags
                .into_values()
                .map(|(key, value)| Ok((key.ok_or_else(|| missing("tags.key"))?, value.unwrap_or_default())))
                .collect::<Result<_, AwsError>>()?,
        };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), AwsError> {
        let word = |symbol: char| symbol.is_ascii_alphanumeric() || "_+=,.@-".contains(symbol);
        check_text("roleArn", &self.role_arn, 20, 2_048, |_| true)?;
        if !self.role_arn.starts_with("arn:") {
            return Err(invalid(format!("{} is invalid", self.role_arn)));
        }
        check_text("roleSessionName", &self.session_name, 2, 64, word)?;
        if let Some(external_id) = &self.external_id {
            check_text("externalId", external_id, 2, 1_224, |symbol| word(symbol) || ":/".contains(symbol))?;
        }
        if let Some(source_identity) = &self.source_identity {
            check_text("sourceIdentity", source_identity, 2, 64, word)?;
        }
        if self.seconds < MIN_SESSION_SECONDS {
            return Err(constraint(
                &self.seconds.to_string(),
                "durationSeconds",
                &format!("Member must have value greater than or equal to {MIN_SESSION_SECONDS}"),
            ));
        }
        if let Some(policy) = &self.policy {
            check_text("policy", policy, 1, MAX_SESSION_POLICY, |_| true)?;
            Policy::identity(policy)?;
        }
        if self.tags.len() > MAX_TAGS {
            return Err(constraint("[...]", "tags", "Member must have length less than or equal to 50"));
        }
        let tag_symbol =
            |symbol: char| symbol.is_alphanumeric() || symbol.is_whitespace() || "_.:/=+-@".contains(symbol);
        for (at, (key, value)) in self.tags.iter().enumerate() {
            check_text("tags.key", key, 1, 128, tag_symbol)?;
            check_text("tags.value", value, 0, 256, tag_symbol)?;
            if self.tags[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(key)) {
                let message = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
                return Err(AwsError::new(400, "InvalidParameterValue", message));
            }
        }
        Ok(())
    }

    /// Element with the share of AWS's limit that the packed policy and tags take up, in percent. It is an estimate.
    fn packed_size_xml(&self) -> String {
        let tags: usize = self.tags.iter().map(|(key, value)| key.len() + value.len()).sum();
        match self.policy.as_ref().map_or(0, String::len) + tags {
            0 => String::new(),
            size => format!("<PackedPolicySize>{}</PackedPolicySize>", (size * 100 / 4_096).clamp(1, 100)),
        }
    }
}

fn check_text(
    name: &str,
    value: &str,
    least: usize,
    most: usize,
    legal: impl Fn(char) -> bool,
) -> Result<(), AwsError> {
    let length = value.chars().count();
    if length < least {
        let rule = format!("Member must have length greater than or equal to {least}");
        return Err(constraint(value, name, &rule));
    }
    if length > most {
        return Err(constraint(
            value,
            name,
            &format!("Member must have length less than or equal to {most}"),
        ));
    }
    match value.chars().all(legal) {
        true => Ok(()),
        false => {
            Err(constraint(value, name, "Member must satisfy the regular expression pattern of this field"))
        }
    }
}

fn get_caller_identity(cloud: &Cloud, call: &Call) -> Reply {
    let (arn, id, account) = (call.caller_arn(), cloud.iam.id_of_caller(call), &call.account);
    let result = format!("<Arn>{arn}</Arn><UserId>{id}</UserId><Account>{account}</Account>");
    Reply::query(NAMESPACE, "GetCallerIdentity", &result)
}

fn missing(name: &str) -> AwsError {
    constraint("null", name, "Member must not be null")
}

fn constraint(value: &str, name: &str, rule: &str) -> AwsError {
    invalid(violation(value, name, rule))
}

fn invalid(message: impl Into<String>) -> AwsError {
    AwsError::new(400, "ValidationError", message)
}

#[cfg(test)]
mod tests {
    use crate::{
        Sandbox,
        requests::{self, code, sandbox},
    };
    use logferry_testbed::provision::{Account, Aws, QueryError};

    const PROVIDER: &str = "111111111111";
    const CUSTOMER: &str = "222222222222";
    const TARGET: &str = "arn:aws:iam::222222222222:role/target";

    /// A sandbox, with a role in the provider's account that may assume others, and a session of that role.
    async fn first_hop() -> (Sandbox, Aws, Account) {
        let (sandbox, aws) = sandbox().await;
        let root = aws.account(PROVIDER);
        create_role(&root, "central", r#"{"AWS":"111111111111"}"#, r#""sts:AssumeRole""#, "").await;
        allow(&root, "central", r#"["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"]"#).await;
        let session = root.assume_role("arn:aws:iam::111111111111:role/central", "one", &[]).await;
        (sandbox, aws, session.expect("the trust policy names the account"))
    }

    async fn create_role(account: &Account, name: &str, principal: &str, actions: &str, condition: &str) {
        let trust = format!(
            r#"{{"Statement":[{{"Effect":"Allow","Principal":{principal},"Action":{actions}{condition}}}]}}"#
        );
        requests::create_role(account, name, &trust).await.expect("the role can be created");
    }

    async fn allow(account: &Account, role: &str, actions: &str) {
        let policy = format!(r#"{{"Statement":[{{"Effect":"Allow","Action":{actions},"Resource":"*"}}]}}"#);
        let parameters = [
            ("Action", "PutRolePolicy"),
            ("RoleName", role),
            ("PolicyName", "p"),
            ("PolicyDocument", policy.as_str()),
        ];
        account.iam_query(&parameters).await.expect("the policy can be put");
    }

    async fn create_target(aws: &Aws, actions: &str) {
        let condition = r#","Condition":{"StringEquals":{"sts:ExternalId":"right"}}"#;
        let central = r#"{"AWS":"arn:aws:iam::111111111111:role/central"}"#;
        create_role(&aws.account(CUSTOMER), "target", central, actions, condition).await;
    }

    #[tokio::test]
    async fn the_second_hop_needs_the_external_id() {
        let (_sandbox, aws, session) = first_hop().await;
        create_target(&aws, r#""sts:AssumeRole""#).await;
        for (parameters, expected) in [
            (vec![("ExternalId", "right")], "ok"),
            (vec![("ExternalId", "wrong")], "AccessDenied"),
            (vec![], "AccessDenied"),
            (vec![("ExternalId", "x")], "ValidationError"),
            (vec![("ExternalId", "not legal")], "ValidationError"),
        ] {
            assert_eq!(
                code(session.assume_role(TARGET, "two", &parameters).await),
                expected,
                "{parameters:?}"
            );
        }
        let other =
            session.assume_role("arn:aws:iam::222222222222:role/nobody", "two", &[("ExternalId", "right")]);
        match other.await {
            Err(QueryError::Refused { status: 403, message, .. }) => assert_eq!(
                message,
                "User: arn:aws:sts::111111111111:assumed-role/central/one is not authorized to perform: \
                 sts:AssumeRole on resource: arn:aws:iam::222222222222:role/nobody"
            ),
            other => panic!("not refused: {other:?}"),
        }
        let root = aws.account(PROVIDER);
        assert_eq!(code(root.assume_role(TARGET, "two", &[("ExternalId", "right")]).await), "AccessDenied");
    }

    #[tokio::test]
    async fn tags_and_source_identity_need_their_own_permission() {
        let (_sandbox, aws, session) = first_hop().await;
        create_target(&aws, r#""sts:AssumeRole""#).await;
        let tagged =
            [("ExternalId", "right"), ("Tags.member.1.Key", "tenant_id"), ("Tags.member.1.Value", "acme")];
        let identified = [("ExternalId", "right"), ("SourceIdentity", "logferry")];
        assert_eq!(code(session.assume_role(TARGET, "two", &tagged).await), "AccessDenied");
        assert_eq!(code(session.assume_role(TARGET, "two", &identified).await), "AccessDenied");
        let trust = r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:*"}]}"#;
        let update =
            [("Action", "UpdateAssumeRolePolicy"), ("RoleName", "target"), ("PolicyDocument", trust)];
        aws.account(CUSTOMER).iam_query(&update).await.expect("the trust policy can be changed");
        assert_eq!(code(session.assume_role(TARGET, "two", &tagged).await), "ok");
        let second = session.assume_role(TARGET, "two", &identified).await.expect("now it is allowed");

        allow(&aws.account(CUSTOMER), "target", r#""sts:*""#).await;
        create_role(&aws.account(CUSTOMER), "third", r#""*""#, r#""sts:AssumeRole""#, "").await;
        let third = "arn:aws:iam::222222222222:role/third";
        assert_eq!(
            code(second.assume_role(third, "three", &[]).await),
            "AccessDenied",
            "the session keeps its identity"
        );
        assert_eq!(
            code(session.assume_role(third, "three", &[]).await),
            "ok",
            "there is no identity to keep"
        );
        let other = [("ExternalId", "right"), ("SourceIdentity", "another")];
        assert_eq!(code(second.assume_role(TARGET, "again", &other).await), "AccessDenied");
        assert_eq!(code(second.assume_role(TARGET, "again", &identified).await), "ok");
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let (_sandbox, aws, session) = first_hop().await;
        create_target(&aws, r#""sts:AssumeRole""#).await;
        let policy = |length: usize| {
            let text = r#"{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
            format!("{text}{}", " ".repeat(length - text.len()))
        };
        let (fits, too_long) = (policy(2_048), policy(2_049));
        for (name, value, expected) in [
            ("DurationSeconds", "900", "ok"),
            ("DurationSeconds", "899", "ValidationError"),
            ("DurationSeconds", "3600", "ok"),
            ("DurationSeconds", "3601", "ValidationError"),
            ("Policy", &fits, "ok"),
            ("Policy", &too_long, "ValidationError"),
            ("Policy", "{}", "MalformedPolicyDocument"),
            ("SourceIdentity", "x", "ValidationError"),
            ("Tags.member.1.Key", "", "ValidationError"),
            ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess", "NotImplemented"),
        ] {
            let answer = session.assume_role(TARGET, "two", &[("ExternalId", "right"), (name, value)]).await;
            assert_eq!(code(answer), expected, "{name}={value}");
        }
        for (session_name, expected) in
            [("a", "ValidationError"), ("a b", "ValidationError"), ("a=b,c.d@e-f_g+h", "ok")]
        {
            let answer = session.assume_role(TARGET, session_name, &[("ExternalId", "right")]).await;
            assert_eq!(code(answer), expected, "{session_name}");
        }
        let too_long = "n".repeat(65);
        let answer = session.assume_role(TARGET, &too_long, &[("ExternalId", "right")]).await;
        assert_eq!(code(answer), "ValidationError");
    }

    #[tokio::test]
    async fn the_callers_own_policies_are_checked() {
        let (_sandbox, aws, session) = first_hop().await;
        create_target(&aws, r#""sts:AssumeRole""#).await;
        allow(&aws.account(PROVIDER), "central", r#""sts:GetCallerIdentity""#).await;
        let answer = session.assume_role(TARGET, "two", &[("ExternalId", "right")]).await;
        assert_eq!(code(answer), "AccessDenied");
        allow(&aws.account(PROVIDER), "central", r#""sts:AssumeRole""#).await;
        let narrow = r#"{"Statement":[{"Effect":"Allow","Action":"logs:*","Resource":"*"}]}"#;
        let central = "arn:aws:iam::111111111111:role/central";
        let narrowed = aws.account(PROVIDER).assume_role(central, "narrow", &[("Policy", narrow)]).await;
        let narrowed = narrowed.expect("the policy is well formed");
        let answer = narrowed.assume_role(TARGET, "two", &[("ExternalId", "right")]).await;
        assert_eq!(code(answer), "AccessDenied", "the session policy does not allow it");
    }

    #[tokio::test]
    async fn sessions_have_an_identity_and_an_end() {
        let (sandbox, aws, session) = first_hop().await;
        let whoami = [("Action", "GetCallerIdentity")];
        let answer = session.sts_query(&whoami).await.expect("the session is valid");
        assert!(answer.contains("<Arn>arn:aws:sts::111111111111:assumed-role/central/one</Arn>"), "{answer}");
        sandbox.expire_sessions(CUSTOMER);
        assert_eq!(code(session.sts_query(&whoami).await), "ok", "the session belongs to another account");
        sandbox.expire_sessions(PROVIDER);
        assert_eq!(code(session.sts_query(&whoami).await), "ExpiredToken");
        let root = aws.account(PROVIDER).sts_query(&whoami).await.expect("the root's key does not expire");
        assert!(root.contains("<Arn>arn:aws:iam::111111111111:root</Arn>"), "{root}");
    }
}
