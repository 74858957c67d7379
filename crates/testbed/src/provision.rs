//! Creates the AWS resources that a worker uses in production, with AWS calls over HTTP.
//!
//! Nothing is deleted, and a name that exists already is an error. Tests that run in one emulator keep their names apart by
//! the prefix in [`ProviderSpec`].

mod account;
mod bucket;
mod customer;
mod provider;
mod queue;

use std::error::Error;

pub use self::account::{Account, Aws, QueryError};
pub use self::bucket::ReceivedObject;
pub use self::customer::{Customer, CustomerSpec, Policies, ReceivedEvent, TrustAction};
pub use self::provider::{FurtherQueue, Provider, ProviderSpec};
pub use self::queue::DeadLetter;

/// A failed step of the set-up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct ProvisionError {
    step: &'static str,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

/// Wraps a client's error with the step that failed.
fn failed<E: Error + Send + Sync + 'static>(step: &'static str) -> impl FnOnce(E) -> ProvisionError {
    move |error| ProvisionError { step, source: Box::new(error) }
}

fn root_arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}

/// Partition of a Region: `aws` or `aws-eusc`.
fn partition(region: &str) -> &'static str {
    if region.starts_with("eusc-") { "aws-eusc" } else { "aws" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_cloudwatchlogs::types::InputLogEvent;
    use logferry_sandbox::Sandbox;
    use serde_json::Value;

    use super::*;

    /// Creates both sides, makes the calls that deliver one object, and checks which events arrive.
    async fn delivers_by_hand(aws: &Aws, spec: ProviderSpec) {
        let raw = spec.raw_delivery;
        let versioned = spec.versioned;
        let provider = Provider::create(aws, &spec).await.expect("the provider's side can be set up");
        let mut asked = CustomerSpec::new(&format!("{}-acme", spec.prefix));
        asked.role_name = format!("team/{}-acme", spec.prefix);
        let customer = Customer::create(aws, "222222222222", &provider, asked).await;
        let customer = customer.expect("the customer's side can be set up");
        assert!(
            customer.role_arn.starts_with("arn:aws:iam::222222222222:role/team/"),
            "{}",
            customer.role_arn
        );

        let row = customer.row();
        provider.put_tenant(aws, row.clone()).await.expect("the row can be put");
        let root = aws.account(&provider.account);
        let get = root.dynamodb().get_item().table_name(&provider.tenant_table);
        let got =
            get.key("tenant_id", row["tenant_id"].clone()).key("type", row["type"].clone()).send().await;
        assert_eq!(got.expect("the row can be got").item, Some(row));

        provider.upload(aws, "acme/c/a b/p/1.json", "[]").await.expect("the object can be put");
        let receive = root.sqs().receive_message().queue_url(&provider.queue_url).wait_time_seconds(20);
        let messages = receive.send().await.expect("the queue can be read").messages.unwrap_or_default();
        let body =
            messages.first().and_then(|message| message.body()).expect("the event arrives within 20 s");
        let mut event: Value = serde_json::from_str(body).expect("an event is JSON");
        if !raw {
            event = serde_json::from_str(event["Message"].as_str().expect("an SNS envelope"))
                .expect("an S3 event");
        }
        let object = &event["Records"][0]["s3"]["object"];
        assert_eq!(object["key"], "acme/c/a+b/p/1.json");
        assert_eq!(object["versionId"].is_string(), versioned, "{object}");

        let (worker, central) = provider.first_hop(aws).await.expect("the worker may take the first hop");
        let id = [("ExternalId", customer.external_id.as_str())];
        central
            .assume_role(&customer.role_arn, "delivery", &[])
            .await
            .expect_err("the external id is missing");
        worker
            .assume_role(&customer.role_arn, "delivery", &id)
            .await
            .expect_err("the first hop was left out");
        let delivery = central.assume_role(&customer.role_arn, "delivery", &id).await;
        let logs = delivery.expect("the central role may take the second hop").logs();
        let group = &customer.log_group;
        assert_eq!(customer.events(aws).await.expect("the group exists"), []);
        logs.create_log_stream().log_group_name(group).log_stream_name("s").send().await.expect("a stream");
        let now = jiff::Timestamp::now().as_millisecond();
        let put = logs.put_log_events().log_group_name(group).log_stream_name("s");
        let event = |timestamp, message: &str| {
            let event = InputLogEvent::builder().timestamp(timestamp).message(message).build();
            Some(event.expect("both members are set"))
        };
        let events: Vec<_> = [event(now, "one"), event(now + 1, "two")].into_iter().flatten().collect();
        put.set_log_events(Some(events)).send().await.expect("the events can be put");
        let events = customer.events(aws).await.expect("the events can be read");
        let told: Vec<_> = events.iter().map(|event| (event.timestamp, event.message.as_str())).collect();
        assert_eq!(told, [(now, "one"), (now + 1, "two")]);
        assert!(events.iter().all(|event| event.stream == "s" && event.ingestion_time > 0), "{events:?}");

        customer.allow(aws, &provider, &[]).await.expect("the trust policy can be replaced");
        central
            .assume_role(&customer.role_arn, "delivery", &id)
            .await
            .expect_err("nobody may assume the role");
        customer
            .allow(aws, &provider, &[TrustAction::AssumeRole])
            .await
            .expect("the trust policy can be put back");
        central
            .assume_role(&customer.role_arn, "delivery", &id)
            .await
            .expect("the role can be assumed again");

        let missing = Customer { log_group: format!("{group}-missing"), ..customer };
        assert_eq!(missing.events(aws).await.expect("a missing group has no events"), []);
    }

    #[tokio::test]
    async fn an_object_can_be_delivered_by_hand_on_the_sandbox() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        delivers_by_hand(&aws, ProviderSpec::new("plain")).await;
        let raw = ProviderSpec { raw_delivery: true, versioned: true, ..ProviderSpec::new("raw") };
        delivers_by_hand(&aws, raw).await;
        let elsewhere = Aws::new(&sandbox.endpoint(), "eu-central-1");
        let spec =
            ProviderSpec { visibility_timeout: Duration::from_secs(5), ..ProviderSpec::new("elsewhere") };
        delivers_by_hand(&elsewhere, spec).await;
    }

    #[tokio::test]
    async fn the_worker_may_send_to_its_queue_only_if_the_spec_allows_it() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        for (prefix, worker_may_send) in [("may", true), ("may-not", false)] {
            let spec = ProviderSpec { worker_may_send, ..ProviderSpec::new(prefix) };
            let provider = Provider::create(&aws, &spec).await.expect("the provider's side can be set up");
            let root = aws.account(&provider.account);
            let worker = root.assume_role(&provider.worker_role_arn, "worker", &[]).await;
            let sqs = worker.expect("the account may assume the worker's role").sqs();
            let send =
                async |url: &str| sqs.send_message().queue_url(url).message_body("x").send().await.is_ok();
            assert_eq!(send(&provider.queue_url).await, worker_may_send);
            assert!(send(&provider.dead_letter_url).await, "the dead-letter queue is not affected");
        }
    }
}
