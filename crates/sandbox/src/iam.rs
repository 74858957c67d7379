//! IAM: the roles of every account, and authorisation of calls.
//!
//! Users, groups, managed policies and permission boundaries are not implemented.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;

use crate::call::{Answer, AwsError, Call, Form, Principal, Reply, violation};
use crate::cloud::Cloud;
use crate::encoding::encode_percent;
use crate::policy::{Access, Context, Decision, Policy, Who};

const NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";
/// IAM's quota for a trust policy, in characters without white space.
const MAX_TRUST_POLICY: usize = 2_048;

#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// `arn:aws:iam::ACCOUNT:role/PATH/NAME`.
    pub(crate) arn: String,
    /// `AROA...`, the first part of an assumed role's id.
    pub(crate) id: String,
    pub(crate) trust: Policy,
    name: String,
    path: String,
    created: Timestamp,
    policies: BTreeMap<String, Policy>,
}

/// A permission that a call needed, whether the caller had it or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needed {
    /// `app/NAME` in the caller's user agent, without `app/`; empty without such a name.
    pub application: String,
    /// ARN of the caller's role, or of the account's root.
    pub caller: String,
    /// Action as policies name it, `s3:GetObject`.
    pub action: String,
    /// ARN of the resource, or `*`.
    pub resource: String,
}

/// All roles, by account and role name.
#[derive(Debug, Default)]
pub(crate) struct Iam {
    roles: Mutex<HashMap<(String, String), Role>>,
    /// `None` until [`Self::record`].
    needed: Mutex<Option<BTreeSet<Needed>>>,
}

impl Iam {
    pub(crate) async fn handle(&self, _cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "CreateRole" => self.create_role(call),
            "UpdateAssumeRolePolicy" => self.update_assume_role_policy(call),
            "PutRolePolicy" => self.put_role_policy(call),
            other => Err(AwsError::not_implemented("iam", other)),
        }
    }

    /// Checks whether the caller's own policies allow `action` on `resource`.
    ///
    /// An account's root may do everything. A session may do what its role's policies and its session policy, if there
    /// is one, both allow. Each service checks the policies of its resources itself.
    pub(crate) fn authorize(&self, call: &Call, action: &str, resource: &str) -> Result<(), AwsError> {
        self.authorize_in(call, action, resource, &Context::of(call))
    }

    /// Does the same as [`Self::authorize`], with additional condition keys.
    pub(crate) fn authorize_in(
        &self,
        call: &Call,
        action: &str,
        resource: &str,
        context: &Context,
    ) -> Result<(), AwsError> {
        if let Some(needed) = self.needed().as_mut() {
            needed.insert(Needed::by(call, action, resource));
        }
        self.decide(call, action, resource, context)
    }

    /// Does the same without a record: for what the call does not need.
    pub(crate) fn decide(
        &self,
        call: &Call,
        action: &str,
        resource: &str,
        context: &Context,
    ) -> Result<(), AwsError> {
        let Principal::Session { role_arn, session_policy, .. } = &call.principal else {
            return Ok(());
        };
        let access = Access { who: Who::Caller(call), action, resource, context };
        let by_role = self.decide_for_role(role_arn, &access);
        let by_session = match session_policy {
            Some(text) => Policy::identity(text)?.decide(&access),
            None => Decision::Allow,
        };
        match (by_role, by_session) {
            (Decision::Allow, Decision::Allow) => Ok(()),
            _ => Err(AwsError::access_denied(call, action, resource)),
        }
    }

    /// Records the permissions that calls need from now on.
    pub(crate) fn record(&self) {
        self.needed().get_or_insert_default();
    }

    /// The recorded permissions.
    pub(crate) fn recorded(&self) -> BTreeSet<Needed> {
        self.needed().clone().unwrap_or_default()
    }

    fn needed(&self) -> MutexGuard<'_, Option<BTreeSet<Needed>>> {
        self.needed.lock().expect("no code panics while it holds the permissions")
    }

    /// Role with this ARN, in any account.
    pub(crate) fn role(&self, arn: &str) -> Option<Role> {
        let key = key_of(arn)?;
        self.roles().get(&key).filter(|role| role.arn == arn).cloned()
    }

    /// Id of the caller: the account id of a root, `ROLE-ID:SESSION` of a session.
    pub(crate) fn id_of_caller(&self, call: &Call) -> String {
        match &call.principal {
            Principal::Root => call.account.clone(),
            Principal::Session { role_arn, session_name, .. } => {
                let role = self.role(role_arn).map_or_else(|| "AROA".to_owned(), |role| role.id);
                format!("{role}:{session_name}")
            }
        }
    }

    fn decide_for_role(&self, arn: &str, access: &Access<'_>) -> Decision {
        let roles = self.roles();
        let role = key_of(arn).and_then(|key| roles.get(&key)).filter(|role| role.arn == arn);
        let mut decision = Decision::Silent;
        for policy in role.iter().flat_map(|role| role.policies.values()) {
            match policy.decide(access) {
                Decision::Deny => return Decision::Deny,
                Decision::Allow => decision = Decision::Allow,
                Decision::Silent => {}
            }
        }
        decision
    }

    fn create_role(&self, call: &Call) -> Answer {
        let form = read(
            call,
            &["RoleName", "AssumeRolePolicyDocument", "Path", "Description", "MaxSessionDuration"],
        )?;
        if form.get("MaxSessionDuration").is_some_and(|seconds| seconds != "3600") {
            return Err(AwsError::not_implemented(
                "iam",
                "CreateRole with a MaxSessionDuration other than 3600",
            ));
        }
        let name = role_name(&form)?;
        let path = form.get("Path").unwrap_or("/");
        let legal = |byte: u8| byte == b'/' || is_legal_in_name(byte);
        if !(path.starts_with('/') && path.ends_with('/') && path.bytes().all(legal)) {
            return Err(invalid("The specified value for path is invalid. It must begin and end with /"));
        }
        let arn = format!("arn:{}:iam::{}:role{path}{name}", call.partition(), call.account);
        self.authorize(call, "iam:CreateRole", &arn)?;
        let trust_text = required(&form, "AssumeRolePolicyDocument")?;
        let role = Role {
            arn,
            id: format!("AROA{}", random_id(17)),
            trust: read_trust(trust_text)?,
            name: name.to_owned(),
            path: path.to_owned(),
            created: Timestamp::now(),
            policies: BTreeMap::new(),
        };
        let answer = Reply::query(NAMESPACE, "CreateRole", &role.xml(trust_text));
        let mut roles = self.roles();
        let key = (call.account.clone(), name.to_owned());
        if roles.contains_key(&key) {
            let message = format!("Role with name {name} already exists.");
            return Err(AwsError::new(409, "EntityAlreadyExists", message));
        }
        roles.insert(key, role);
        Ok(answer)
    }

    fn update_assume_role_policy(&self, call: &Call) -> Answer {
        let form = read(call, &["RoleName", "PolicyDocument"])?;
        let text = required(&form, "PolicyDocument")?;
        let trust = read_trust(text)?;
        self.with_role(call, &form, |role| {
            role.trust = trust;
            Ok(Reply::query(NAMESPACE, "UpdateAssumeRolePolicy", ""))
        })
    }

    fn put_role_policy(&self, call: &Call) -> Answer {
        let form = read(call, &["RoleName", "PolicyName", "PolicyDocument"])?;
        let name = required(&form, "PolicyName")?;
        let policy = Policy::identity(required(&form, "PolicyDocument")?)?;
        self.with_role(call, &form, |role| {
            role.policies.insert(name.to_owned(), policy);
            Ok(Reply::query(NAMESPACE, "PutRolePolicy", ""))
        })
    }

    /// Authorises the call on the role that it names, then runs `act` on the role.
    fn with_role<T>(
        &self,
        call: &Call,
        form: &Form,
        act: impl FnOnce(&mut Role) -> Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        let name = role_name(form)?;
        let key = (call.account.clone(), name.to_owned());
        let arn = self.roles().get(&key).map(|role| role.arn.clone());
        let arn = arn.ok_or_else(|| no_such_role(name))?;
        self.authorize(call, &format!("iam:{}", call.operation), &arn)?;
        let mut roles = self.roles();
        act(roles.get_mut(&key).ok_or_else(|| no_such_role(name))?)
    }

    fn roles(&self) -> MutexGuard<'_, HashMap<(String, String), Role>> {
        self.roles.lock().expect("no code panics while it holds the roles")
    }
}

impl Needed {
    fn by(call: &Call, action: &str, resource: &str) -> Self {
        let agent = call.header("user-agent").unwrap_or_default();
        let caller = match &call.principal {
            Principal::Root => call.caller_arn(),
            Principal::Session { role_arn, .. } => role_arn.clone(),
        };
        Self {
            application: agent
                .split(' ')
                .find_map(|part| part.strip_prefix("app/"))
                .unwrap_or_default()
                .to_owned(),
            caller,
            action: action.to_owned(),
            resource: resource.to_owned(),
        }
    }
}

impl Role {
    fn xml(&self, trust: &str) -> String {
        format!(
            "<Role><Path>{}</Path><RoleName>{}</RoleName><RoleId>{}</RoleId><Arn>{}</Arn><CreateDate>{}</CreateDate>\
             <AssumeRolePolicyDocument>{}</AssumeRolePolicyDocument>\
             <MaxSessionDuration>3600</MaxSessionDuration></Role>",
            self.path,
            self.name,
            self.id,
            self.arn,
            self.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            encode_percent(trust, b"-._~"),
        )
    }
}

/// Parses the form of a call and refuses unknown parameters.
fn read(call: &Call, known: &[&str]) -> Result<Form, AwsError> {
    let form = call.form();
    let known = |key: &str| ["Action", "Version"].contains(&key) || known.contains(&key);
    match form.0.iter().find(|(key, _)| !known(key)) {
        Some((key, _)) => Err(AwsError::not_implemented("iam", &format!("{} with {key}", call.operation))),
        None => Ok(form),
    }
}

fn required<'a>(form: &'a Form, name: &str) -> Result<&'a str, AwsError> {
    form.filled(name).ok_or_else(|| invalid(violation("null", name, "Member must not be null")))
}

fn role_name(form: &Form) -> Result<&str, AwsError> {
    let name = required(form, "RoleName")?;
    match name.len() <= 64 && name.bytes().all(is_legal_in_name) {
        true => Ok(name),
        false => Err(invalid(
            "The specified value for roleName is invalid. It must contain only alphanumeric characters and/or the \
             following: +=,.@_-",
        )),
    }
}

fn is_legal_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)
}

fn read_trust(text: &str) -> Result<Policy, AwsError> {
    if text.chars().filter(|symbol| !symbol.is_whitespace()).count() > MAX_TRUST_POLICY {
        let message = format!("Cannot exceed quota for ACLSizePerRole: {MAX_TRUST_POLICY}");
        return Err(AwsError::new(409, "LimitExceeded", message));
    }
    Policy::trust(text)
}

fn key_of(role_arn: &str) -> Option<(String, String)> {
    let (partition, rest) = role_arn.strip_prefix("arn:")?.split_once(":iam::")?;
    let (account, resource) = rest.split_once(':').filter(|_| matches!(partition, "aws" | "aws-eusc"))?;
    Some((account.to_owned(), resource.strip_prefix("role/")?.rsplit('/').next()?.to_owned()))
}

/// Random capital letters and digits, like the ends of AWS's ids.
pub(crate) fn random_id(length: usize) -> String {
    const SYMBOLS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    (0..length).map(|_| char::from(SYMBOLS[fastrand::usize(..SYMBOLS.len())])).collect()
}

fn no_such_role(name: &str) -> AwsError {
    no_such_entity(format!("The role with name {name} cannot be found."))
}

fn no_such_entity(message: String) -> AwsError {
    AwsError::new(404, "NoSuchEntity", message)
}

fn invalid(message: impl Into<String>) -> AwsError {
    AwsError::new(400, "ValidationError", message)
}

#[cfg(test)]
mod tests {
    use crate::requests::{TRUST, sandbox};
    use logferry_testbed::provision::{Account, QueryError};

    const POLICY: &str = r#"{"Statement":{"Effect":"Allow","Action":"iam:PutRolePolicy","Resource":"*"}}"#;

    async fn ask(account: &Account, action: &str, more: &[(&str, &str)]) -> Result<String, String> {
        let mut parameters = vec![("Action", action), ("RoleName", "r")];
        parameters.extend(more);
        match account.iam_query(&parameters).await {
            Ok(answer) => Ok(answer),
            Err(QueryError::Refused { code, .. }) => Err(code),
            Err(other) => panic!("no answer: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_role_belongs_to_one_account() {
        let (_sandbox, aws) = sandbox().await;
        let (owner, other) = (aws.account("111111111111"), aws.account("222222222222"));
        let create = [("AssumeRolePolicyDocument", TRUST), ("Path", "/a/b/")];
        let created = ask(&owner, "CreateRole", &create).await.expect("the role can be created");
        assert!(created.contains("<Arn>arn:aws:iam::111111111111:role/a/b/r</Arn>"), "{created}");
        assert!(created.contains("<Path>/a/b/</Path>"), "{created}");
        assert_eq!(
            ask(&owner, "CreateRole", &create).await.expect_err("the role exists"),
            "EntityAlreadyExists"
        );
        ask(&other, "CreateRole", &create).await.expect("another account may use the same name");

        let put = [("PolicyName", "p"), ("PolicyDocument", POLICY)];
        ask(&owner, "PutRolePolicy", &put).await.expect("the policy can be put");
        let bad = [("PolicyName", "p"), ("PolicyDocument", TRUST)];
        assert_eq!(
            ask(&owner, "PutRolePolicy", &bad).await.expect_err("a trust policy"),
            "MalformedPolicyDocument"
        );
        let session = owner.assume_role("arn:aws:iam::111111111111:role/a/b/r", "run", &[]).await;
        let session = session.expect("anyone may assume the role");
        ask(&session, "PutRolePolicy", &put).await.expect("its policy allows that");
        let update = [("PolicyDocument", TRUST)];
        let denied = ask(&session, "UpdateAssumeRolePolicy", &update).await.expect_err("not allowed");
        assert_eq!(denied, "AccessDenied");
    }

    #[tokio::test]
    async fn invalid_requests_are_refused() {
        let (_sandbox, aws) = sandbox().await;
        let account = aws.account("111111111111");
        let long = format!(r#"{{"Version":"{}"}}"#, "x".repeat(2_048));
        for (more, expected) in [
            (vec![], "ValidationError"),
            (vec![("AssumeRolePolicyDocument", POLICY)], "MalformedPolicyDocument"),
            (vec![("AssumeRolePolicyDocument", long.as_str())], "LimitExceeded"),
            (vec![("AssumeRolePolicyDocument", TRUST), ("Path", "a")], "ValidationError"),
            (vec![("AssumeRolePolicyDocument", TRUST), ("PermissionsBoundary", "arn:x")], "NotImplemented"),
        ] {
            assert_eq!(
                ask(&account, "CreateRole", &more).await.expect_err("the request is invalid"),
                expected,
                "{more:?}"
            );
        }
        assert_eq!(ask(&account, "ListRoles", &[]).await.expect_err("not covered"), "NotImplemented");
    }
}
