//! ECS's agent, by its task scale-in protection endpoint.
//!
//! Source: "Amazon ECS task scale-in protection endpoint" in ECS's developer guide, and the agent's public code for the forms
//! of its errors.

use std::time::Duration;

use axum::http::{Request, Uri, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};

use super::{Agent, AgentError, ProtectionState};
use crate::http::client::send;

/// Variable that ECS's agent sets in each container of a task: the address of the agent.
pub const AGENT_URI: &str = "ECS_AGENT_URI";
const PATH: &str = "/task-protection/v1/state";
/// Longest wait for an answer. The agent itself waits for ECS for 4 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent of this task.
#[derive(Clone, Debug)]
pub struct EcsAgent(Uri);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProtectionRequest {
    protection_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_minutes: Option<u64>,
}

/// An answer has one of these parts.
#[derive(Deserialize)]
struct Answer {
    protection: Option<Protection>,
    failure: Option<Failure>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Protection {
    protection_enabled: bool,
}

/// ECS's refusal. It comes with status 200.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    reason: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Problem {
    code: String,
    message: String,
}

impl EcsAgent {
    /// The agent at the address that [`AGENT_URI`] has.
    ///
    /// # Errors
    /// The text is not an address over plain HTTP.
    pub fn at(address: &str) -> Result<Self, String> {
        let uri = format!("{}{PATH}", address.trim_end_matches('/')).parse::<Uri>();
        let uri = uri.ok().filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        uri.map(Self).ok_or_else(|| {
            format!(
                "{address:?} is not an address such as http://169.254.170.2/api/0123; ECS's agent sets it"
            )
        })
    }
}

impl Agent for EcsAgent {
    async fn set(&self, wanted: ProtectionState) -> Result<(), AgentError> {
        let change = match wanted {
            ProtectionState::Protected(life) => ProtectionRequest {
                protection_enabled: true,
                expires_in_minutes: Some(life.as_secs().div_ceil(60)),
            },
            ProtectionState::Unprotected => {
                ProtectionRequest { protection_enabled: false, expires_in_minutes: None }
            }
        };
        let no_answer = AgentError::NoAnswer;
        let body = serde_json::to_vec(&change).map_err(|error| no_answer(error.to_string()))?;
        let request = Request::put(&self.0).header(CONTENT_TYPE, "application/json").body(body.into());
        let request = request.map_err(|error| no_answer(error.to_string()))?;
        let (status, body) = send(request, PATIENCE).await.map_err(|error| no_answer(error.to_string()))?;
        let answer = serde_json::from_slice::<Answer>(&body).ok();
        let (told, is_as_wanted) = match answer {
            Some(Answer { failure: Some(Failure { reason, detail }), .. }) => {
                let parts = [reason, detail].into_iter().flatten().collect::<Vec<_>>();
                return Err(AgentError::Refused(parts.join(": ")));
            }
            Some(Answer { error: Some(Problem { code, message }), .. }) => {
                (format!("{status}: {code}: {message}"), false)
            }
            Some(Answer { protection: Some(state), .. }) => {
                let told = format!("{status}: the protection is {}", state.protection_enabled);
                (told, status.is_success() && state.protection_enabled == change.protection_enabled)
            }
            Some(_) | None => (status.to_string(), false),
        };
        match (is_as_wanted, status.is_client_error()) {
            (true, _) => Ok(()),
            // ECS has not acted on the call.
            (false, true) => Err(AgentError::Refused(told)),
            (false, false) => Err(AgentError::NoAnswer(told)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_is_an_address() {
        for (address, expected) in [
            (
                "http://169.254.170.2/api/0123-4567",
                Some("http://169.254.170.2/api/0123-4567/task-protection/v1/state"),
            ),
            (
                "http://169.254.170.2/api/0123/",
                Some("http://169.254.170.2/api/0123/task-protection/v1/state"),
            ),
            ("https://169.254.170.2/api/0123", None),
            ("169.254.170.2", None),
            ("/api", None),
            ("", None),
            ("http://", None),
            ("http://a b/", None),
        ] {
            let found = EcsAgent::at(address);
            assert_eq!(
                found.as_ref().ok().map(|agent| agent.0.to_string()).as_deref(),
                expected,
                "{address}"
            );
        }
    }
}
