//! The customer's role: what is sent to STS, and what a refusal means.

use super::{Doctor, Finding, OurSide};
use crate::credentials::{
    AssumeError,
    request::{AssumeRequest, SessionSpec},
};

impl Doctor {
    /// The result for a role that was entered.
    pub(super) fn entered(&self, session: &SessionSpec, our_side: &OurSide) -> Finding {
        let AssumeRequest { role, session_name, external_id, tags, source_identity, .. } =
            request(session, our_side);
        let mut found = format!("{role} is assumed as {session_name:?}");
        if let Some(id) = external_id {
            found.push_str(&format!(", ExternalId {id:?}"));
        }
        if !tags.is_empty() {
            let tags: Vec<_> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
            found.push_str(&format!(", session tags {}", tags.join(" ")));
        }
        if let Some(identity) = source_identity {
            found.push_str(&format!(", source identity {identity:?}"));
        }
        Finding::Ok(found)
    }

    /// The result for a role that was refused.
    pub(super) fn refused(&self, session: &SessionSpec, our_side: &OurSide, error: &AssumeError) -> Finding {
        let request = request(session, our_side);
        self.refusal(error, |cause, message| match cause {
            Some(cause) => cause.remedy(&request, &self.central_role_arn, message),
            None => "STS's message says what is wrong; no cause in the tenant's row is known".to_owned(),
        })
    }
}

/// The worker's request for the customer's role.
fn request(session: &SessionSpec, our_side: &OurSide) -> AssumeRequest {
    let own_account = our_side.identity.as_ref().map(|identity| identity.account.clone());
    AssumeRequest::customer(session, own_account)
}
