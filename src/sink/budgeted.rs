//! Applies the budget of each account ([`crate::budget`]) to any sinks: calls wait for their turn, and a paused account is
//! not opened.

use std::sync::Arc;

use bytes::Bytes;

use super::{LogSink, LogSinks, PutAnswer, SinkError};
use crate::{
    budget::{Answer, Budgets, Pausing, Ticket},
    event::ObjectRef,
    ledger::lease::Lease,
    tenant::{CloudWatch, Delivery},
};

/// Sinks with their accounts' budgets.
#[derive(Debug)]
pub struct BudgetedSinks<S> {
    sinks: S,
    budgets: Budgets,
}

/// One sink with its account's budget.
#[derive(Clone, Debug)]
pub struct BudgetedSink<S> {
    sink: S,
    ticket: Arc<Ticket>,
}

impl<S> BudgetedSinks<S> {
    /// Puts `budgets` in front of `sinks`.
    pub fn new(sinks: S, budgets: Budgets) -> Self {
        Self { sinks, budgets }
    }
}

/// The error for an object whose account is paused.
fn paused(pausing: Pausing, account: &str, region: &str) -> SinkError {
    let (account, region) = (account.to_owned(), region.to_owned());
    match pausing {
        Pausing::Throttled { retry_in } => SinkError::Paused { account, region, retry_in },
        Pausing::Unanswered { retry_in } => SinkError::Unreached { region, retry_in },
    }
}

/// The account's answer; `None` if no call was made.
fn answer_of<T>(outcome: &Result<T, SinkError>) -> Option<Answer> {
    match outcome {
        Err(SinkError::Throttled(_)) => Some(Answer::Throttled),
        Err(SinkError::Unavailable(_)) => Some(Answer::Unanswered),
        Err(
            SinkError::Session(_)
            | SinkError::LeaseEnded(_)
            | SinkError::Held { .. }
            | SinkError::Paused { .. }
            | SinkError::Unreached { .. }
            | SinkError::Uncounted(_),
        ) => None,
        Ok(_) | Err(_) => Some(Answer::Answered),
    }
}

impl<S: LogSinks> LogSinks for BudgetedSinks<S> {
    type Sink = BudgetedSink<S::Sink>;

    async fn closed(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> Option<SinkError> {
        let (account, region) = (destination.role.account(), &delivery.target_region);
        match self.budgets.check(account, region) {
            Err(pausing) => Some(paused(pausing, account, region)),
            Ok(()) => self.sinks.closed(delivery, destination, cluster).await,
        }
    }

    async fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
        object: &ObjectRef,
    ) -> Result<Self::Sink, SinkError> {
        let (account, region) = (destination.role.account(), &delivery.target_region);
        let paused = |pausing| paused(pausing, account, region);
        self.budgets.check(account, region).map_err(paused)?;
        let sink = self.sinks.open(delivery, destination, cluster, object).await?;
        // The budget is entered last, so that a tenant whose role is refused does not use up the probe of all tenants that
        // deliver into the account.
        let ticket = self.budgets.enter(account, region).map_err(paused)?;
        Ok(BudgetedSink { sink, ticket: Arc::new(ticket) })
    }
}

impl<S: LogSink> LogSink for BudgetedSink<S> {
    async fn put_log_events(&self, body: Bytes, lease: &Lease) -> Result<PutAnswer, SinkError> {
        self.ticket.put_turn().await;
        let answer = self.sink.put_log_events(body, lease).await;
        answer_of(&answer).inspect(|answer| self.ticket.heed(*answer));
        answer
    }

    async fn create_log_stream(&self, group: &str, stream: &str, lease: &Lease) -> Result<(), SinkError> {
        self.ticket.create_stream_turn().await;
        let answer = self.sink.create_log_stream(group, stream, lease).await;
        answer_of(&answer).inspect(|answer| self.ticket.heed(*answer));
        answer
    }

    async fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> Result<(), SinkError> {
        self.sink.create_log_group(group, retention_days, lease).await
    }

    async fn finish(&self) -> Result<(), SinkError> {
        self.sink.finish().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        budget::{Metrics, Rates},
        credentials::AssumeError,
        name::StreamTemplate,
        sink::memory::{MemorySinks, SinkOperation},
        tenant::{Destination, Mode, Oversize},
    };

    const GROUP: &str = "/rosa/acme";
    const DELAY: Duration = Duration::from_secs(900);
    const PLACE: &str = "222222222222/us-east-1";

    fn delivery() -> Delivery {
        Delivery {
            tenant_id: "acme".into(),
            name: "cloudwatch".into(),
            enabled: true,
            desired_logs: None,
            mode: Mode::Live,
            target_region: "us-east-1".into(),
            destination: Destination::CloudWatch(destination()),
        }
    }

    fn destination() -> CloudWatch {
        CloudWatch {
            role: "arn:aws:iam::222222222222:role/customer-logs".parse().expect("a role's ARN"),
            external_id: None,
            session_tags: false,
            source_identity: false,
            log_group_name: GROUP.into(),
            log_stream_name: StreamTemplate::default(),
            retention_days: None,
            oversize: Oversize::Split,
        }
    }

    fn body() -> Bytes {
        format!(
            "{{\"logGroupName\":\"{GROUP}\",\"logStreamName\":\"s\",\"logEvents\":[{{\"timestamp\":1,\"message\":\"m\"}}]}}"
        )
        .into()
    }

    #[test]
    fn every_answer_but_throttling_and_silence_ends_a_pause() {
        let text = || "text".to_owned();
        for (error, expected) in [
            (SinkError::Throttled(text()), Some(Answer::Throttled)),
            (SinkError::Unavailable(text()), Some(Answer::Unanswered)),
            (SinkError::NotFound(text()), Some(Answer::Answered)),
            (SinkError::Denied(text()), Some(Answer::Answered)),
            (SinkError::Refused(text()), Some(Answer::Answered)),
            (SinkError::GroupQuota(text()), Some(Answer::Answered)),
            (SinkError::Held { denied: "text".into(), probe_in: DELAY }, None),
            (SinkError::Unreached { region: text(), retry_in: DELAY }, None),
        ] {
            assert_eq!(answer_of::<()>(&Err(error)), expected);
        }
        assert_eq!(answer_of(&Ok(())), Some(Answer::Answered));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_account_is_not_opened_until_it_takes_requests_again() {
        let sinks = MemorySinks::new();
        sinks.create(PLACE, GROUP, &["s"]);
        sinks.fail(SinkOperation::Put, 1, SinkError::Throttled("slow down".into()));
        let rates = Rates { puts: 800, stream_creations: 50 };
        let budgeted = BudgetedSinks::new(sinks.clone(), Budgets::new(rates, DELAY, Metrics::default()));
        let open = async || budgeted.open(&delivery(), &destination(), "c", &ObjectRef::default()).await;
        let sink = open().await.expect("nothing is wrong");
        sink.put_log_events(body(), &Lease::unlimited()).await.expect_err("the account throttles");
        let Err(SinkError::Paused { account, region, retry_in }) = open().await else {
            panic!("the account is paused")
        };
        assert_eq!((account.as_str(), region.as_str()), ("222222222222", "us-east-1"));
        assert_eq!(sinks.opened().len(), 1, "the second call opened no sink");
        tokio::time::advance(retry_in).await;
        let probe = open().await.expect("a probe is due");
        open().await.map(drop).expect_err("only one probe at a time");
        probe.put_log_events(body(), &Lease::unlimited()).await.expect("the account takes the request");
        open().await.map(drop).expect("the account takes requests again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_role_uses_up_no_probe() {
        let sinks = MemorySinks::new();
        sinks.create(PLACE, GROUP, &["s"]);
        sinks.fail(SinkOperation::Put, 1, SinkError::Throttled("slow down".into()));
        let rates = Rates { puts: 800, stream_creations: 50 };
        let budgeted = BudgetedSinks::new(sinks.clone(), Budgets::new(rates, DELAY, Metrics::default()));
        let sink = budgeted
            .open(&delivery(), &destination(), "c", &ObjectRef::default())
            .await
            .expect("nothing is wrong");
        sink.put_log_events(body(), &Lease::unlimited()).await.expect_err("the account throttles");
        let Err(SinkError::Paused { retry_in, .. }) =
            budgeted.open(&delivery(), &destination(), "c", &ObjectRef::default()).await
        else {
            panic!("the account is paused")
        };
        tokio::time::advance(retry_in).await;
        let broken = "arn:aws:iam::222222222222:role/broken";
        let refusal = AssumeError::Unavailable { role: broken.into(), problem: "503".into() };
        sinks.close_role(broken, refusal);
        let of_another = CloudWatch { role: broken.parse().expect("a role's ARN"), ..destination() };
        let refused = budgeted.open(&delivery(), &of_another, "c", &ObjectRef::default()).await.map(drop);
        assert!(matches!(refused, Err(SinkError::Session(_))), "{refused:?}");
        budgeted
            .open(&delivery(), &destination(), "c", &ObjectRef::default())
            .await
            .map(drop)
            .expect("the refused role used up no probe");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_their_turns() {
        let sinks = MemorySinks::new();
        sinks.create(PLACE, GROUP, &["s"]);
        let rates = Rates { puts: 100, stream_creations: 10 };
        let budgeted = BudgetedSinks::new(sinks.clone(), Budgets::new(rates, DELAY, Metrics::default()));
        let sink = budgeted
            .open(&delivery(), &destination(), "c", &ObjectRef::default())
            .await
            .expect("nothing is wrong");
        let start = tokio::time::Instant::now();
        for _ in 0..111 {
            sink.put_log_events(body(), &Lease::unlimited()).await.expect("the account takes the request");
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        for stream in 0..22 {
            sink.create_log_stream(GROUP, &format!("s-{stream}"), &Lease::unlimited())
                .await
                .expect("the account takes the request");
        }
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        sink.create_log_group("another", None, &Lease::unlimited())
            .await
            .expect("the account takes the request");
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }
}
