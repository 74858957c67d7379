//! The request to STS's AssumeRole. Pure.

use std::time::Duration;

use super::{RoleArn, scope::Scope};

/// A session in a customer's account: who enters, by which role, and for what.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    /// The tenant.
    pub tenant_id: String,
    /// The customer's role.
    pub role: RoleArn,
    /// External id that the role's trust policy requires. A session without one sends our own account id.
    pub external_id: Option<String>,
    /// Whether `tenant_id` and `cluster_id` are sent as session tags.
    pub session_tags: bool,
    /// Whether a source identity is sent.
    pub source_identity: bool,
    /// The cluster whose logs these are; empty if unknown.
    pub cluster: String,
    /// What the inline policy allows the session.
    pub scope: Scope,
}

/// Request to assume a role.
#[derive(Clone, Debug)]
pub struct AssumeRequest {
    /// The role.
    pub role: RoleArn,
    /// 2 to 64 of `[\w+=,.@-]`.
    pub session_name: String,
    /// External id that the role's trust policy requires.
    pub external_id: Option<String>,
    /// Narrows what the role allows; at most 2,048 characters.
    pub policy: Option<String>,
    /// Names and values. If there are tags, the trust policy must allow `sts:TagSession`.
    pub tags: Vec<(&'static str, String)>,
    /// If there is one, the trust policy must allow `sts:SetSourceIdentity`.
    pub source_identity: Option<String>,
}

/// Life of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLife {
    /// From its beginning to its end, 15 min to 1 h.
    pub duration: Duration,
    /// How long before its end a session is renewed; up to a quarter more is added at random.
    pub refresh_before: Duration,
}

impl AssumeRequest {
    /// The request for the central role, the first hop.
    pub fn central(role: RoleArn) -> Self {
        Self {
            role,
            session_name: "logferry".to_owned(),
            external_id: None,
            policy: None,
            tags: Vec::new(),
            source_identity: None,
        }
    }

    /// The request for a customer's role, the second hop. `own_account` is our own account id, if it is known.
    pub fn customer(session: &SessionSpec, own_account: Option<String>) -> Self {
        let mut tags = Vec::new();
        if session.session_tags {
            tags.push(("tenant_id", session.tenant_id.clone()));
            if !session.cluster.is_empty() {
                tags.push(("cluster_id", session.cluster.clone()));
            }
        }
        let session_name = session_name(&session.tenant_id);
        Self {
            role: session.role.clone(),
            external_id: session.external_id.clone().or(own_account),
            policy: Some(session.scope.policy(&session.role)),
            tags,
            source_identity: session.source_identity.then(|| session_name.clone()),
            session_name,
        }
    }
}

/// The session's name, which shows the customer in CloudTrail whose logs a call is about: `logferry-acme-corp`. Characters
/// that STS does not allow become dashes.
fn session_name(tenant_id: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' };
    // 64 is STS's limit. Source: STS API reference, AssumeRole.
    "logferry-".chars().chain(tenant_id.chars().map(legal)).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_are_legal() {
        assert_eq!(session_name("acme-corp"), "logferry-acme-corp");
        assert_eq!(session_name("a b/ü"), "logferry-a-b--");
        assert_eq!(session_name(&"x".repeat(100)).len(), 64);
    }
}
