//! Checks CloudWatch Logs in the customer's account, with the worker's own calls.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Doctor, Finding, Findings, OurSide, skipped};
use crate::{
    batch::RejectedEvents,
    credentials::{request::SessionSpec, scope::Scope},
    event::ObjectRef,
    ledger::lease::Lease,
    sink::{LogSink, LogSinks, PutAnswer, SinkError},
    tenant::{CloudWatch, Delivery},
};

/// Name of the stream that is created and put into. `/probe` is appended if an object's stream could have this name.
const STREAM: &str = "logferry-doctor";
/// Age of the event that is put. CloudWatch Logs accepts the request, but stores no event older than 14 days. Source:
/// CloudWatch Logs API reference, PutLogEvents.
const TOO_OLD: SignedDuration = SignedDuration::from_hours(15 * 24);
/// Number of attempts to find a group or stream that was just created.
const ROUNDS: u32 = 6;
/// Pause after the first of these attempts. It doubles with each attempt.
const PAUSE: Duration = Duration::from_millis(50);

impl Doctor {
    /// Checks the customer's role, the group, a stream and a put of one event, which is not stored.
    pub(super) async fn cloudwatch(
        &self,
        delivery: &Delivery,
        to: &CloudWatch,
        our_side: &OurSide,
    ) -> Findings {
        let closed = |role| {
            let why = "the customer's role was not entered";
            [vec![("customer role", role)], skipped(&["log group", "log stream", "put"], why)].concat()
        };
        if our_side.no_central {
            return closed(Finding::skipped("it can only be assumed through the central role"));
        }
        let entry = SessionSpec {
            tenant_id: delivery.tenant_id.clone(),
            role: to.role.clone(),
            external_id: to.external_id.clone(),
            session_tags: to.session_tags,
            source_identity: to.source_identity,
            cluster: self.cluster.clone(),
            scope: Scope::LogGroup {
                region: delivery.target_region.clone(),
                log_group_name: to.log_group_name.clone(),
            },
        };
        let opened = self.instruments.sinks.open(delivery, to, &self.cluster, &ObjectRef::default()).await;
        if let Err(SinkError::Session(error)) = &opened {
            return closed(self.refused(&entry, our_side, error));
        }
        let mut findings = vec![("customer role", self.entered(&entry, our_side))];
        match opened {
            Ok(sink) => {
                let check = CloudWatchCheck { doctor: self, sink, delivery, to, entry, our_side };
                findings.extend(check.run().await);
            }
            // The group is not tried, because another delivery of the tenant with this role and group was denied.
            Err(error) => {
                let fix = "apply the fix of the delivery above, which has the same role and group";
                findings.push(("log group", Finding::failed(error.to_string(), fix)));
                findings.extend(skipped(&["log stream", "put"], "the group was denied"));
            }
        }
        findings
    }
}

/// The checks of one delivery after its role was entered.
struct CloudWatchCheck<'a, S> {
    doctor: &'a Doctor,
    sink: S,
    delivery: &'a Delivery,
    to: &'a CloudWatch,
    entry: SessionSpec,
    our_side: &'a OurSide,
}

impl<S: LogSink> CloudWatchCheck<'_, S> {
    async fn run(&self) -> Findings {
        let stream = self.to.log_stream_name.never_rendered(STREAM);
        let (group, created) = self.create(&stream).await;
        let put = match &created {
            Finding::Ok(_) => self.put(&stream).await,
            _ => Finding::skipped("there is no log stream to put into"),
        };
        vec![("log group", group), ("log stream", created), ("put", put)]
    }

    /// Creates the group and the stream if they do not exist. Returns the result of each.
    async fn create(&self, stream: &str) -> (Finding, Finding) {
        let group = &self.to.log_group_name;
        let place = format!("{group} in {}, account {}", self.delivery.target_region, self.to.role.account());
        let lease = Lease::unlimited();
        let create_stream = || self.sink.create_log_stream(group, stream, &lease);
        let (found, made) = match create_stream().await {
            Ok(()) => (place, Ok(())),
            Err(SinkError::NotFound(_)) => {
                match self.sink.create_log_group(group, self.to.retention_days, &lease).await {
                    Ok(()) => {
                        let days = self.to.retention_days.map(|days| format!(", for {days} days"));
                        let days = days.unwrap_or_default();
                        (
                            format!("{place}: was missing, and was created{days}"),
                            until_found(create_stream).await,
                        )
                    }
                    Err(error) => {
                        let denied = matches!(error, SinkError::Denied(_));
                        let fix = self.fix("CreateLogGroup", &error);
                        let fix = if denied { format!("create the group, or {fix}") } else { fix };
                        let problem = format!("{place} does not exist and was not created: {error}");
                        return (
                            Finding::failed(problem, fix),
                            Finding::skipped("there is no log group for it"),
                        );
                    }
                }
            }
            Err(error) => {
                let unknown = "CreateLogStream was refused, so it is unknown whether the group exists";
                return (Finding::skipped(unknown), self.refused("CreateLogStream", &error));
            }
        };
        let made = match made {
            Ok(()) => Finding::Ok(format!("{stream} exists or was created; it stays empty")),
            Err(error) => self.refused("CreateLogStream", &error),
        };
        (Finding::Ok(found), made)
    }

    async fn put(&self, stream: &str) -> Finding {
        let at = Timestamp::now() - TOO_OLD;
        let body = json!({
            "logGroupName": self.to.log_group_name,
            "logStreamName": stream,
            "logEvents": [{ "timestamp": at.as_millisecond(), "message": "logferry doctor was here" }],
        });
        let body = Bytes::from(body.to_string());
        let lease = Lease::unlimited();
        match until_found(|| self.sink.put_log_events(body.clone(), &lease)).await {
            Ok(PutAnswer { rejected, .. }) => Finding::Ok(taken(&rejected).to_owned()),
            Err(SinkError::InvalidSequenceToken { .. } | SinkError::DataAlreadyAccepted { .. }) => {
                Finding::Ok(
                    "is allowed; this CloudWatch Logs still uses sequence tokens, and expects another one"
                        .to_owned(),
                )
            }
            Err(error) => self.refused("PutLogEvents", &error),
        }
    }

    fn refused(&self, call: &str, error: &SinkError) -> Finding {
        if let SinkError::Session(session) = error {
            return self.doctor.refused(&self.entry, self.our_side, session);
        }
        Finding::failed(format!("{call}: {error}"), self.fix(call, error))
    }

    fn fix(&self, call: &str, error: &SinkError) -> String {
        let CloudWatch { role, log_group_name: group, .. } = self.to;
        let region = &self.delivery.target_region;
        match error {
            SinkError::Denied(_) | SinkError::Held { .. } => format!(
                "the policy of {role} must allow logs:{call} on arn:{}:logs:{region}:{}:log-group:{group}:*, and no \
                 permissions boundary or service control policy may deny it",
                role.partition(),
                role.account()
            ),
            SinkError::NotFound(_) => {
                "the group or the stream was deleted during the check; try again".to_owned()
            }
            SinkError::Throttled(_) | SinkError::Paused { .. } => {
                "the account has too many calls in this Region at the moment; try again".to_owned()
            }
            SinkError::Refused(_) => {
                "the message of CloudWatch Logs above says what is wrong; check log_group_name and target_region in the row"
                    .to_owned()
            }
            SinkError::Unavailable(_)
            | SinkError::Unreached { .. }
            | SinkError::Session(_)
            // The doctor's sinks do not count.
            | SinkError::Uncounted(_) => format!(
                "check that CloudWatch Logs of target_region {region} can be reached from here, and try again"
            ),
            SinkError::Ours(error) => error.remedy(),
            SinkError::GroupQuota(_) => {
                format!("let the customer create {group}, or have the quota of log groups in {region} raised")
            }
            SinkError::InvalidSequenceToken { .. }
            | SinkError::DataAlreadyAccepted { .. }
            | SinkError::LeaseEnded(_) => "try again".to_owned(),
        }
    }
}

/// Repeats a call, because a new group or stream may not be found at first.
async fn until_found<T, F: Future<Output = Result<T, SinkError>>>(call: impl Fn() -> F) -> F::Output {
    let mut pause = PAUSE;
    for _ in 1..ROUNDS {
        match call().await {
            Err(SinkError::NotFound(_)) => tokio::time::sleep(pause).await,
            other => return other,
        }
        pause *= 2;
    }
    call().await
}

fn taken(rejected: &RejectedEvents) -> &'static str {
    // A retention below 14 days makes the event expire.
    if rejected.too_old_end == Some(1) || rejected.expired_end == Some(1) {
        "is allowed: the event, 15 days old, was accepted and discarded as too old"
    } else {
        "is allowed; the event, 15 days old, was stored, although CloudWatch Logs itself would not store it"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_discarded_as_too_old_or_as_expired() {
        let check = |too_old_end, expired_end, words: &str| {
            let found = taken(&RejectedEvents { too_old_end, expired_end, ..RejectedEvents::default() });
            assert!(found.contains(words), "{found}");
        };
        check(Some(1), None, "discarded");
        check(None, Some(1), "discarded");
        check(None, None, "was stored");
    }
}
