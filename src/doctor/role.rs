//! The customer's role: what is sent to STS, and what a refusal means.

use std::time::Duration;

use super::{Doctor, Finding, OurSide};
use crate::credentials::{
    AssumeError,
    assumed::{AssumeRequest, session_name},
    customers::Entry,
};

impl Doctor {
    /// The result for a role that was entered.
    pub(super) fn entered(&self, entry: &Entry, our_side: &OurSide) -> Finding {
        let AssumeRequest { role, session_name, external_id, tags, source_identity, .. } =
            request(entry, our_side);
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
    pub(super) fn refused(&self, entry: &Entry, our_side: &OurSide, error: &AssumeError) -> Finding {
        let request = request(entry, our_side);
        self.refusal(error, |cause, message| match cause {
            Some(cause) => cause.remedy(&request, &self.central_role_arn, message),
            None => "STS's message says what is wrong; no cause in the tenant's row is known".to_owned(),
        })
    }
}

/// The parts of the worker's request for the customer's role that refusals depend on.
fn request(entry: &Entry, our_side: &OurSide) -> AssumeRequest {
    let mut tags = Vec::new();
    if entry.session_tags {
        tags.push(("tenant_id", entry.tenant_id.clone()));
        if !entry.cluster.is_empty() {
            tags.push(("cluster_id", entry.cluster.clone()));
        }
    }
    let own_account = || our_side.identity.as_ref().map(|identity| identity.account.clone());
    let session_name = session_name(&entry.tenant_id);
    AssumeRequest {
        role: entry.role.clone(),
        external_id: entry.external_id.clone().or_else(own_account),
        policy: None,
        tags,
        source_identity: entry.source_identity.then(|| session_name.clone()),
        session_name,
        duration: Duration::ZERO,
        refresh_before: Duration::ZERO,
    }
}
