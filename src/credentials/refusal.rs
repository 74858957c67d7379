//! What STS's refusals mean: whose affair one is, what likely caused it, and what mends it. Pure.

use super::request::AssumeRequest;

/// What likely caused a refusal that somebody has to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The role, or what its trust policy asks for: STS does not tell these apart.
    TrustPolicy,
    /// The trust policy, or the central role's own, does not allow session tags.
    TagSession,
    /// The trust policy, or the central role's own, does not allow a source identity.
    SourceIdentity,
    /// The central role's own policy.
    CentralRolePolicy,
    /// The request of this one session: its names or its inline policy.
    Request,
}

impl Cause {
    /// The cause of a refusal with that code and message; `None` if asking again soon may help, or the fault lies with our
    /// own session.
    pub fn of(code: &str, message: &str) -> Option<Self> {
        match code {
            "AccessDenied" | "AccessDeniedException" => Some(match message {
                _ if message.contains("sts:TagSession") => Self::TagSession,
                _ if message.contains("sts:SetSourceIdentity") => Self::SourceIdentity,
                // Said of the caller's side alone. Source: IAM User Guide, "Troubleshoot access denied error messages".
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

    /// The word that metrics use.
    pub fn word(self) -> &'static str {
        match self {
            Self::TrustPolicy => "trust_policy",
            Self::TagSession => "tag_session",
            Self::SourceIdentity => "source_identity",
            Self::CentralRolePolicy => "central_role_policy",
            Self::Request => "request",
        }
    }

    /// What to look at and what to change, as far as `message` and what was asked for tell.
    pub fn remedy(self, request: &AssumeRequest, central: &str, message: &str) -> String {
        let role = &request.role;
        match self {
            Self::TagSession => format!(
                "the trust policy of {role} must allow sts:TagSession to {central}, and the latter's own policy too; or set session_tags to false in the tenant's row"
            ),
            Self::SourceIdentity => format!(
                "the trust policy of {role} must allow sts:SetSourceIdentity to {central}, and the latter's own policy too; or set source_identity to false in the tenant's row"
            ),
            Self::CentralRolePolicy => {
                format!("the policy of our own role {central} must allow sts:AssumeRole on {role}")
            }
            Self::Request => {
                "STS calls the request itself wrong: see the error, and the names in the tenant's row"
                    .to_owned()
            }
            Self::TrustPolicy => one_of(request, central, message),
        }
    }
}

/// STS answers alike to a role that is gone and to one that does not trust us, so that nobody can probe for names.
fn one_of(request: &AssumeRequest, central: &str, message: &str) -> String {
    let external_id = match &request.external_id {
        Some(id) => format!("its trust policy asks for another sts:ExternalId than {id:?}"),
        None => "its trust policy asks for an sts:ExternalId, and none was sent".to_owned(),
    };
    let mut causes = vec![
        format!("{} does not exist", request.role),
        format!("its trust policy does not allow sts:AssumeRole to {central}"),
        external_id,
        format!("the policy of {central} does not allow sts:AssumeRole on it"),
    ];
    // Where STS names the action that was refused, it is not one of these.
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
    format!("one of: {}", causes.join("; "))
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
    fn causes_are_told_by_code_and_message() {
        let own = format!(
            "{} because no identity-based policy allows the sts:AssumeRole action",
            denied("sts:AssumeRole")
        );
        for (code, message, cause) in [
            ("AccessDenied", denied("sts:AssumeRole").as_str(), Some(Cause::TrustPolicy)),
            ("AccessDenied", "", Some(Cause::TrustPolicy)),
            ("AccessDenied", &denied("sts:TagSession"), Some(Cause::TagSession)),
            ("AccessDenied", &denied("sts:SetSourceIdentity"), Some(Cause::SourceIdentity)),
            ("AccessDenied", &own, Some(Cause::CentralRolePolicy)),
            ("ValidationError", "1 validation error detected", Some(Cause::Request)),
            ("PackedPolicyTooLarge", "", Some(Cause::Request)),
            ("ExpiredToken", "The security token included in the request is expired", None),
            ("InvalidClientTokenId", "", None),
            ("RegionDisabledException", "", None),
        ] {
            assert_eq!(Cause::of(code, message), cause, "{code}: {message}");
        }
    }

    #[test]
    fn a_remedy_names_what_can_be_known_and_no_more() {
        let check = |cause: Cause, request: AssumeRequest, message: &str, there: &[&str], not: &[&str]| {
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
            Cause::TrustPolicy,
            request(true, true),
            &named,
            &["one of", ROLE, CENTRAL, "does not exist", "\"acme-id\""],
            &["TagSession", "SetSourceIdentity"],
        );
        check(Cause::TrustPolicy, request(true, false), "no", &["sts:TagSession"], &["SetSourceIdentity"]);
        check(Cause::TrustPolicy, request(false, true), "no", &["sts:SetSourceIdentity"], &["TagSession"]);
        check(Cause::TrustPolicy, request(false, false), "no", &["one of"], &["TagSession", "SetSource"]);
        check(
            Cause::TagSession,
            request(true, false),
            "",
            &[ROLE, CENTRAL, "sts:TagSession", "session_tags"],
            &[],
        );
        check(Cause::SourceIdentity, request(false, true), "", &[ROLE, "sts:SetSourceIdentity"], &[]);
        check(Cause::CentralRolePolicy, request(false, false), "", &[ROLE, CENTRAL, "our own role"], &[]);
    }
}
