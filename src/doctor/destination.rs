//! The second hop, and CloudWatch Logs behind it, with the worker's own calls.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Doctor, Finding, OurSide};
use crate::{
    batch::RejectedEvents,
    credentials::{
        AssumeError,
        assumed::{AssumeRequest, session_name},
    },
    sink::{LogSink, LogSinks, PutAnswer, SinkError},
    tenant::{CloudWatch, Delivery},
};

/// Name of the stream that is made and put into; it gets a slash more where an object's stream could have that name.
const STREAM: &str = "logferry-doctor";
/// An event that old is taken and thrown away: CloudWatch Logs stores none older than 14 days. Source: CloudWatch Logs API
/// reference, PutLogEvents.
const TOO_OLD: SignedDuration = SignedDuration::from_hours(15 * 24);
/// Times that a group or stream is asked for that was just created and is not found, and the first pause between.
const ROUNDS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

type Findings = Vec<(&'static str, Finding)>;

impl Doctor {
    /// The customer's role, the group, a stream in it, and a put of one event that nobody keeps.
    pub(super) async fn cloudwatch(
        &self,
        delivery: &Delivery,
        to: &CloudWatch,
        our_side: &OurSide,
    ) -> Findings {
        let not_checked = |why: &str| Finding::Skipped(why.to_owned());
        let behind = |why: &str| ["log group", "log stream", "put"].map(|name| (name, not_checked(why)));
        if our_side.no_central {
            let mut findings =
                vec![("customer role", not_checked("there is no way there but through the central role"))];
            findings.extend(behind("the customer's role was not entered"));
            return findings;
        }
        let request = self.request(delivery, to, our_side);
        let sink = match self.instruments.sinks.open(delivery, to, &self.cluster).await {
            Ok(sink) => sink,
            Err(SinkError::Session(error)) => {
                let mut findings = vec![("customer role", self.refused(delivery, to, our_side, &error))];
                findings.extend(behind("the customer's role was not entered"));
                return findings;
            }
            // The role let us in, and the group is left alone since another delivery of the tenant was denied there.
            Err(error) => {
                let mut findings = vec![("customer role", Finding::Ok(entered(&request)))];
                let fix =
                    "the fix of the delivery above, which has the same role and group, is this one's too";
                findings.push(("log group", Finding::failed(error.to_string(), fix)));
                findings
                    .extend(["log stream", "put"].map(|name| (name, not_checked("the group was denied"))));
                return findings;
            }
        };
        let mut findings = vec![("customer role", Finding::Ok(entered(&request)))];
        findings.extend(Probe { doctor: self, sink, delivery, to, our_side }.run().await);
        findings
    }

    fn refused(
        &self,
        delivery: &Delivery,
        to: &CloudWatch,
        our_side: &OurSide,
        error: &AssumeError,
    ) -> Finding {
        let request = self.request(delivery, to, our_side);
        self.refusal(error, |cause, message| match cause {
            Some(cause) => cause.remedy(&request, &self.central_role_arn, message),
            None => "STS's words say what is wrong; nothing in the tenant's row is known to be".to_owned(),
        })
    }

    /// What the second hop asks for, as far as refusals depend on it.
    fn request(&self, delivery: &Delivery, to: &CloudWatch, our_side: &OurSide) -> AssumeRequest {
        let mut tags = Vec::new();
        if to.session_tags {
            tags.push(("tenant_id", delivery.tenant_id.clone()));
            if !self.cluster.is_empty() {
                tags.push(("cluster_id", self.cluster.clone()));
            }
        }
        let own_account = || our_side.identity.as_ref().map(|identity| identity.account.clone());
        let session_name = session_name(&delivery.tenant_id);
        AssumeRequest {
            role: to.role.clone(),
            external_id: to.external_id.clone().or_else(own_account),
            policy: None,
            tags,
            source_identity: to.source_identity.then(|| session_name.clone()),
            session_name,
            duration: Duration::ZERO,
            refresh_before: Duration::ZERO,
        }
    }
}

fn entered(request: &AssumeRequest) -> String {
    let AssumeRequest { role, session_name, external_id, tags, source_identity, .. } = request;
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
    found
}

/// CloudWatch Logs of one delivery, entered.
struct Probe<'a, S> {
    doctor: &'a Doctor,
    sink: S,
    delivery: &'a Delivery,
    to: &'a CloudWatch,
    our_side: &'a OurSide,
}

impl<S: LogSink> Probe<'_, S> {
    async fn run(&self) -> Findings {
        let stream = self.to.log_stream_name.never_rendered(STREAM);
        let (group, created) = self.create(&stream).await;
        let put = match &created {
            Finding::Ok(_) => self.put(&stream).await,
            Finding::Failed { .. } | Finding::Skipped(_) => {
                Finding::Skipped("there is no stream to put into".to_owned())
            }
        };
        vec![("log group", group), ("log stream", created), ("put", put)]
    }

    /// The group and the stream, made if they are not there: what is found of each.
    async fn create(&self, stream: &str) -> (Finding, Finding) {
        let group = &self.to.log_group_name;
        let place = format!("{group} in {}, account {}", self.delivery.target_region, self.to.role.account());
        let made = || Finding::Ok(format!("{stream} is there or was created; it stays, empty"));
        match self.sink.create_log_stream(group, stream).await {
            Ok(()) => (Finding::Ok(place), made()),
            Err(SinkError::NotFound(_)) => match self
                .sink
                .create_log_group(group, self.to.retention_days)
                .await
            {
                Ok(()) => {
                    let days = self.to.retention_days.map(|days| format!(", for {days} days"));
                    let found = format!("{place}: was missing, and was created{}", days.unwrap_or_default());
                    let stream = self.create_in_new_group(stream).await;
                    (
                        Finding::Ok(found),
                        stream.map_or_else(|error| self.refused("CreateLogStream", &error), |()| made()),
                    )
                }
                Err(error) => {
                    let denied = matches!(error, SinkError::Denied(_));
                    let fix = self.fix("CreateLogGroup", &error);
                    let fix = if denied { format!("create the group, or {fix}") } else { fix };
                    let problem = format!("{place} does not exist and was not created: {error}");
                    (Finding::failed(problem, fix), Finding::Skipped("there is no group for it".to_owned()))
                }
            },
            Err(error) => (
                Finding::Skipped("CreateLogStream, which tells, was refused".to_owned()),
                self.refused("CreateLogStream", &error),
            ),
        }
    }

    /// A group that exists may not be found for a moment.
    async fn create_in_new_group(&self, stream: &str) -> Result<(), SinkError> {
        let mut pause = PAUSE;
        for _ in 1..ROUNDS {
            match self.sink.create_log_stream(&self.to.log_group_name, stream).await {
                Err(SinkError::NotFound(_)) => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause *= 2;
        }
        self.sink.create_log_stream(&self.to.log_group_name, stream).await
    }

    async fn put(&self, stream: &str) -> Finding {
        let at = Timestamp::now() - TOO_OLD;
        let body = json!({
            "logGroupName": self.to.log_group_name,
            "logStreamName": stream,
            "logEvents": [{ "timestamp": at.as_millisecond(), "message": "logferry doctor was here" }],
        });
        let body = Bytes::from(body.to_string());
        let mut pause = PAUSE;
        let mut answer = self.sink.put_log_events(body.clone()).await;
        for _ in 1..ROUNDS {
            let Err(SinkError::NotFound(_)) = answer else { break };
            tokio::time::sleep(pause).await;
            pause *= 2;
            answer = self.sink.put_log_events(body.clone()).await;
        }
        match answer {
            Ok(PutAnswer { rejected, .. }) => Finding::Ok(taken(&rejected).to_owned()),
            Err(SinkError::InvalidSequenceToken { .. } | SinkError::DataAlreadyAccepted { .. }) => {
                Finding::Ok(
                    "is allowed: only the sequence token, of an old kind of CloudWatch Logs, was another"
                        .to_owned(),
                )
            }
            Err(error) => self.refused("PutLogEvents", &error),
        }
    }

    fn refused(&self, call: &str, error: &SinkError) -> Finding {
        if let SinkError::Session(session) = error {
            return self.doctor.refused(self.delivery, self.to, self.our_side, session);
        }
        Finding::failed(format!("{call}: {error}"), self.fix(call, error))
    }

    fn fix(&self, call: &str, error: &SinkError) -> String {
        let CloudWatch { role, log_group_name: group, .. } = self.to;
        let region = &self.delivery.target_region;
        match error {
            SinkError::Denied(_) | SinkError::Held { .. } => format!(
                "the policy of {role} must allow logs:{call} on arn:{}:logs:{region}:{}:log-group:{group}:*, and nothing \
                 above it (permissions boundary, service control policy) deny it",
                role.partition(),
                role.account()
            ),
            SinkError::NotFound(_) => {
                "somebody deletes the group or the stream while it is used; try again".to_owned()
            }
            SinkError::Throttled(_) | SinkError::Paused { .. } => {
                "too many calls in that account and Region at this moment; try again".to_owned()
            }
            SinkError::Refused(_) => {
                "CloudWatch Logs's words say what is wrong; see log_group_name and target_region in the row"
                    .to_owned()
            }
            SinkError::Unavailable(_) | SinkError::Session(_) => format!(
                "see whether CloudWatch Logs of target_region {region} can be reached from here, and try again"
            ),
            SinkError::InvalidSequenceToken { .. } | SinkError::DataAlreadyAccepted { .. } => {
                "try again".to_owned()
            }
        }
    }
}

/// What became of the one event.
fn taken(rejected: &RejectedEvents) -> &'static str {
    // The retention may be shorter than the 14 days.
    if rejected.too_old_end == Some(1) || rejected.expired_end == Some(1) {
        "is allowed: the one event, 15 days old, was taken and thrown away as too old"
    } else {
        "is allowed; the one event, 15 days old, was stored, which CloudWatch Logs itself does not do"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_thrown_away_for_either_reason() {
        let check = |too_old_end, expired_end, words: &str| {
            let found = taken(&RejectedEvents { too_old_end, expired_end, ..RejectedEvents::default() });
            assert!(found.contains(words), "{found}");
        };
        check(Some(1), None, "thrown away");
        check(None, Some(1), "thrown away");
        check(None, None, "was stored");
    }
}
