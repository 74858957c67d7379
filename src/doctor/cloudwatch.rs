//! CloudWatch Logs behind the second hop, with the worker's own calls.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Doctor, Finding, Findings, OurSide};
use crate::{
    batch::RejectedEvents,
    credentials::{request::SessionSpec, scope::Scope},
    ledger::lease::Lease,
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
        let entry = entry(self, delivery, to);
        let sink = match self.instruments.sinks.open(delivery, to, &self.cluster).await {
            Ok(sink) => sink,
            Err(SinkError::Session(error)) => {
                let mut findings = vec![("customer role", self.refused(&entry, our_side, &error))];
                findings.extend(behind("the customer's role was not entered"));
                return findings;
            }
            // The role let us in, and the group is left alone since another delivery of the tenant was denied there.
            Err(error) => {
                let mut findings = vec![("customer role", self.entered(&entry, our_side))];
                let fix =
                    "the fix of the delivery above, which has the same role and group, is this one's too";
                findings.push(("log group", Finding::failed(error.to_string(), fix)));
                findings
                    .extend(["log stream", "put"].map(|name| (name, not_checked("the group was denied"))));
                return findings;
            }
        };
        let mut findings = vec![("customer role", self.entered(&entry, our_side))];
        findings.extend(Probe { doctor: self, sink, delivery, to, our_side }.run().await);
        findings
    }
}

fn entry(doctor: &Doctor, delivery: &Delivery, to: &CloudWatch) -> SessionSpec {
    SessionSpec {
        tenant_id: delivery.tenant_id.clone(),
        role: to.role.clone(),
        external_id: to.external_id.clone(),
        session_tags: to.session_tags,
        source_identity: to.source_identity,
        cluster: doctor.cluster.clone(),
        scope: Scope::LogGroup {
            region: delivery.target_region.clone(),
            log_group_name: to.log_group_name.clone(),
        },
    }
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
        match self.sink.create_log_stream(group, stream, &Lease::unlimited()).await {
            Ok(()) => (Finding::Ok(place), made()),
            Err(SinkError::NotFound(_)) => match self
                .sink
                .create_log_group(group, self.to.retention_days, &Lease::unlimited())
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
            match self.sink.create_log_stream(&self.to.log_group_name, stream, &Lease::unlimited()).await {
                Err(SinkError::NotFound(_)) => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause *= 2;
        }
        self.sink.create_log_stream(&self.to.log_group_name, stream, &Lease::unlimited()).await
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
        let mut answer = self.sink.put_log_events(body.clone(), &Lease::unlimited()).await;
        for _ in 1..ROUNDS {
            let Err(SinkError::NotFound(_)) = answer else { break };
            tokio::time::sleep(pause).await;
            pause *= 2;
            answer = self.sink.put_log_events(body.clone(), &Lease::unlimited()).await;
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
            return self.doctor.refused(&entry(self.doctor, self.delivery, self.to), self.our_side, session);
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
            SinkError::Unavailable(_) | SinkError::Unreached { .. } | SinkError::Session(_) => format!(
                "see whether CloudWatch Logs of target_region {region} can be reached from here, and try again"
            ),
            SinkError::Ours(error) => error.remedy(),
            SinkError::GroupQuota(_) => {
                format!("the customer creates {group}, or has the quota of log groups in {region} raised")
            }
            SinkError::InvalidSequenceToken { .. }
            | SinkError::DataAlreadyAccepted { .. }
            | SinkError::LeaseEnded(_) => "try again".to_owned(),
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
