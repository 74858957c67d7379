//! Refusals by STS: the likely cause, and the remedy. Pure.

use super::request::AssumeRequest;

/// Likely cause of a refusal that lasts until somebody changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// The role does not exist, or its trust policy does not allow the call: STS gives the same answer to both.
    TrustPolicy,
    /// The trust policy or the central role's own policy does not allow session tags.
    TagSession,
    /// The trust policy or the central role's own policy does not allow a source identity.
    SourceIdentity,
    /// The central role's own policy does not allow the call.
    CentralRolePolicy,
    /// The request of one session is invalid: its names or its inline policy.
    Request,
}

impl RefusalCause {
    /// The cause of a refusal with this code and message; `None` if a retry may help, or if our own session is at fault.
    pub fn of(code: &str, message: &str) -> Option<Self> {
        match code {
            "AccessDenied" | "AccessDeniedException" => Some(match message {
                _ if message.contains("sts:TagSession") => Self::TagSession,
                _ if message.contains("sts:SetSourceIdentity") => Self::SourceIdentity,
                // AWS says this only about the caller's side. Source: IAM User Guide, "Troubleshoot access denied error
                // messages".
                _ if message.contains("identity-based policy") => Self::CentralRolePolicy,
                _ => Self::TrustPolicy,
            }),
            // Source: STS API reference, AssumeRole and common errors.
            "ValidationError"
            | "InvalidParameterValue"
            | "MalformedPolicyDocument"
            | "PackedPolicyTooLarge" => Some(Self::Request),
            _ => None,
        }
    }

    /// The value of the metrics' label.
    pub fn word(self) -> &'static str {
        match self {
            Self::TrustPolicy => "trust_policy",
            Self::TagSession => "tag_session",
            Self::SourceIdentity => "source_identity",
            Self::CentralRolePolicy => "central_role_policy",
            Self::Request => "request",
        }
    }

    /// What an operator checks and changes, as far as the request and STS's message show it.
    pub fn remedy(self, request: &AssumeRequest, central: &str, message: &str) -> String {
        let role = &request.role;
        match self {
            Self::TagSession => format!(
                "the trust policy of {role} must allow sts:TagSession to {central}, and the policy of {central} must allow it on {role}; or set session_tags to false in the tenant's row"
            ),
            Self::SourceIdentity => format!(
                "the trust policy of {role} must allow sts:SetSourceIdentity to {central}, and the policy of {central} must allow it on {role}; or set source_identity to false in the tenant's row"
            ),
            Self::CentralRolePolicy => {
                format!("the policy of our own role {central} must allow sts:AssumeRole on {role}")
            }
            Self::Request => {
                "STS says that the request itself is wrong: see the error, and check the names in the tenant's row"
                    .to_owned()
            }
            Self::TrustPolicy => one_of(request, central, message),
        }
    }
}

/// All possible causes: STS gives the same answer for a role that does not exist and for a role that does not trust us, so
/// that nobody can find out which roles exist.
fn one_of(request: &AssumeRequest, central: &str, message: &str) -> String {
    // Customers may treat the ExternalId as a secret, so it is not named.
    let external_id = match &request.external_id {
        Some(_) => "its trust policy asks for another sts:ExternalId than the one that was sent",
        None => "its trust policy asks for an sts:ExternalId, and none was sent",
    };
    let mut causes = vec![
        format!("{} does not exist", request.role),
        format!("its trust policy does not allow sts:AssumeRole to {central}"),
        external_id.to_owned(),
        format!("the policy of {central} does not allow sts:AssumeRole on it"),
    ];
    // If STS names the refused action, the cause is none of these.
    if !message.contains("sts:") {
        if !request.tags.is_empty() {
            causes
                .push("its trust policy does not allow sts:TagSession, which session_tags needs".to_owned());
        }
        if request.source_identity.is_some() {
            causes.push(
                "its trust policy does not allow sts:SetSourceIdentity, which source_identity needs"
                    .to_owned(),
            );
        }
    }
    format!("one of these is the cause: {}", causes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CENTRAL: &str = "arn:aws:iam::111111111111:role/central";
    const ROLE: &str = "arn:aws:iam::222222222222:role/customer";

    fn denied(action: &str) -> String {
        format!(
            "User: arn:aws:sts::111111111111:assumed-role/central/x is not authorized to perform: {action} on resource: {ROLE}"
        )
    }

    fn request(tags: bool, source_identity: bool) -> AssumeRequest {
        AssumeRequest {
            role: ROLE.parse().expect("a role"),
            session_name: "logferry-acme".into(),
            external_id: Some("acme-id".into()),
            policy: None,
            tags: if tags { vec![("tenant_id", "acme".into())] } else { Vec::new() },
            source_identity: source_identity.then(|| "logferry-acme".into()),
        }
    }

    #[test]
    fn code_and_message_show_the_cause() {
        let own = format!(
            "{} because no identity-based policy allows the sts:AssumeRole action",
            denied("sts:AssumeRole")
        );
        for (code, message, cause) in [
            ("AccessDenied", denied("sts:AssumeRole").as_str(), Some(RefusalCause::TrustPolicy)),
            ("AccessDenied", "", Some(RefusalCause::TrustPolicy)),
            ("AccessDenied", &denied("sts:TagSession"), Some(RefusalCause::TagSession)),
            ("AccessDenied", &denied("sts:SetSourceIdentity"), Some(RefusalCause::SourceIdentity)),
            ("AccessDenied", &own, Some(RefusalCause::CentralRolePolicy)),
            ("ValidationError", "1 validation error detected", Some(RefusalCause::Request)),
            ("PackedPolicyTooLarge", "", Some(RefusalCause::Request)),
            ("ExpiredToken", "The security token included in the request is expired", None),
            ("InvalidClientTokenId", "", None),
            ("RegionDisabledException", "", None),
        ] {
            assert_eq!(RefusalCause::of(code, message), cause, "{code}: {message}");
        }
    }

    #[test]
    fn a_remedy_names_the_possible_causes_and_no_others() {
        let check =
            |cause: RefusalCause, request: AssumeRequest, message: &str, there: &[&str], not: &[&str]| {
                let remedy = cause.remedy(&request, CENTRAL, message);
                for words in there {
                    assert!(remedy.contains(words), "{words}: {remedy}");
                }
                for words in not {
                    assert!(!remedy.contains(words), "{words}: {remedy}");
                }
            };
        let named = denied("sts:AssumeRole");
        check(
            RefusalCause::TrustPolicy,
            request(true, true),
            &named,
            &["one of", ROLE, CENTRAL, "does not exist", "another sts:ExternalId"],
            &["TagSession", "SetSourceIdentity", "acme-id"],
        );
        check(
            RefusalCause::TrustPolicy,
            request(true, false),
            "no",
            &["sts:TagSession"],
            &["SetSourceIdentity"],
        );
        check(
            RefusalCause::TrustPolicy,
            request(false, true),
            "no",
            &["sts:SetSourceIdentity"],
            &["TagSession"],
        );
        check(
            RefusalCause::TrustPolicy,
            request(false, false),
            "no",
            &["one of"],
            &["TagSession", "SetSource"],
        );
        check(
            RefusalCause::TagSession,
            request(true, false),
            "",
            &[ROLE, CENTRAL, "sts:TagSession", "session_tags"],
            &[],
        );
        check(RefusalCause::SourceIdentity, request(false, true), "", &[ROLE, "sts:SetSourceIdentity"], &[]);
        check(
            RefusalCause::CentralRolePolicy,
            request(false, false),
            "",
            &[ROLE, CENTRAL, "our own role"],
            &[],
        );
    }
}
