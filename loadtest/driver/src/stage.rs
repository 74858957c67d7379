//! The surroundings of the worker: the provider, the tenants, the objects in the bucket, and the events about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_sdk_s3::types::NotificationConfiguration;
use bytes::Bytes;
use jiff::Timestamp;
use logferry_testbed::provision::{
    Account, Aws, Customer, CustomerSpec, Provider, ProviderSpec, TrustAction,
};
use serde_json::json;

use crate::{ordinary::MARK, parallel, run::LakeFormat};

const REGION: &str = "us-east-1";
/// Number of pods of a tenant whose objects go to one pod after the other. It is usually larger than the number of objects in
/// flight, because batches of one log stream wait for each other.
const PODS: u64 = 128;
/// Calls in progress at the same time.
const CALLS: usize = 16;
/// Largest total of bodies that are uploaded at the same time, in bytes; a larger body is uploaded alone. During its upload a
/// body is in memory several times.
const UPLOADING: usize = 256 << 20;
/// Seconds that a received dead letter stays hidden: the longest that SQS allows.
const MAX_VISIBILITY: i32 = 43_200;
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Number of tenants up to which the caches have their default size.
const REMEMBERED: usize = 10_000;

/// Everything except the worker and the sandbox.
#[derive(Debug)]
pub(crate) struct Stage {
    aws: Aws,
    provider: Provider,
    root: Account,
    customers: Vec<Customer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) tenant: usize,
    pub(crate) application: u64,
    pub(crate) pod: u64,
    /// Makes the key unique.
    pub(crate) number: u64,
    /// End of the key.
    pub(crate) extension: &'static str,
    pub(crate) body: Bytes,
}

/// Pod of an object, from the number of earlier objects of the same tenant: each object gets the next pod.
pub(crate) fn pod(turn: u64) -> u64 {
    turn % PODS
}

impl Stage {
    /// Sets up the provider and `tenants` tenants. The bucket sends no notifications: see [`Stage::announce`].
    pub(crate) async fn set_up(endpoint: &str, tenants: u64) -> anyhow::Result<Arc<Self>> {
        Self::set_up_as(&ProviderSpec::new("load"), endpoint, tenants).await
    }

    /// Sets up the provider as `spec` says, and `tenants` tenants.
    pub(crate) async fn set_up_as(
        spec: &ProviderSpec,
        endpoint: &str,
        tenants: u64,
    ) -> anyhow::Result<Arc<Self>> {
        let aws = Aws::new(endpoint, REGION);
        let provider = Provider::create(&aws, spec).await?;
        let root = aws.account(&provider.account);
        let silence = NotificationConfiguration::builder().build();
        let put = root.s3().put_bucket_notification_configuration().bucket(&provider.bucket);
        let put = put.notification_configuration(silence).send().await;
        put.context("cannot switch the bucket's notifications off")?;
        let customers = parallel::for_each(CALLS, 0..tenants, |number| {
            let (aws, provider) = (aws.clone(), provider.clone());
            async move {
                let account = format!("{:012}", 200_000_000_000 + number);
                let spec = CustomerSpec::new(&format!("tenant-{number}"));
                let customer = Customer::create(&aws, &account, &provider, spec).await?;
                provider.put_tenant(&aws, customer.row()).await?;
                Ok(customer)
            }
        });
        let customers = customers.await?;
        Ok(Arc::new(Self { aws, provider, root, customers }))
    }

    pub(crate) fn accounts(&self) -> Vec<String> {
        self.customers.iter().map(|customer| customer.account.clone()).collect()
    }

    /// Creates the log streams of the pods, so that the worker does not have to and a run measures the steady state.
    pub(crate) async fn create_streams(self: &Arc<Self>, parcels: &[Parcel]) -> anyhow::Result<()> {
        let pods: BTreeSet<_> =
            parcels.iter().map(|parcel| (parcel.tenant, parcel.application, parcel.pod)).collect();
        let pods: Vec<_> = pods.into_iter().collect();
        // The worker's default template. If the template changes, the worker creates the streams itself.
        let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
        parallel::for_each(CALLS, 0..pods.len() as u64, |number| {
            let stage = Arc::clone(self);
            let (tenant, application, pod) =
                pods[usize::try_from(number).expect("the number comes from a length")];
            let stream = format!("app-{application}-app-{application}-{pod}-{date}");
            async move {
                let customer = &stage.customers[tenant];
                let logs = stage.aws.account(&customer.account).logs();
                let create = logs.create_log_stream().log_group_name(&customer.log_group);
                create.log_stream_name(stream).send().await.context("cannot create a log stream")?;
                Ok(())
            }
        })
        .await
        .map(drop)
    }

    /// Gives each tenant a lake in a bucket of its own.
    pub(crate) async fn create_lakes(self: &Arc<Self>, format: LakeFormat) -> anyhow::Result<()> {
        parallel::for_each(CALLS, 0..self.customers.len() as u64, |number| {
            let stage = Arc::clone(self);
            async move {
                let customer = &stage.customers[usize::try_from(number).expect("the number is an index")];
                let bucket = format!("load-lake-{number}");
                customer.create_bucket(&stage.aws, &stage.provider, &bucket).await?;
                customer.let_role_write_lake(&stage.aws, &bucket).await?;
                let row = customer.lake_row(&bucket, format.word());
                Ok(stage.provider.put_tenant(&stage.aws, row).await?)
            }
        })
        .await
        .map(drop)
    }

    /// Uploads objects and returns S3's event for each. The events have not been published yet.
    pub(crate) async fn upload(self: &Arc<Self>, parcels: &[Parcel]) -> anyhow::Result<Vec<String>> {
        let largest = parcels.iter().map(|parcel| parcel.body.len()).max().unwrap_or_default();
        let calls = (UPLOADING / largest.max(1)).clamp(1, CALLS);
        let s3 = self.root.s3();
        parallel::for_each(calls, 0..parcels.len() as u64, |number| {
            let (stage, s3) = (Arc::clone(self), s3.clone());
            let parcel = parcels[usize::try_from(number).expect("the number comes from a length")].clone();
            async move {
                let (key, size) = (stage.key(&parcel), parcel.body.len());
                let put = s3.put_object().bucket(&stage.provider.bucket).key(&key).body(parcel.body.into());
                let put = put.send().await.context("cannot upload an object")?;
                let etag = put.e_tag.context("S3 returned no ETag")?;
                Ok(stage.event(&key, size, etag.trim_matches('"'), parcel.number))
            }
        })
        .await
    }

    /// Publishes events on the topic, as S3 does.
    pub(crate) async fn announce(self: &Arc<Self>, events: &[String]) -> anyhow::Result<()> {
        parallel::for_each(CALLS, 0..events.len() as u64, |number| {
            let stage = Arc::clone(self);
            let event = events[usize::try_from(number).expect("the number comes from a length")].clone();
            async move {
                let publish = [
                    ("Action", "Publish"),
                    ("TopicArn", &stage.provider.topic_arn),
                    ("Subject", "Amazon S3 Notification"),
                    ("Message", &event),
                ];
                stage.root.sns_query(&publish).await.context("cannot publish an event")?;
                Ok(())
            }
        })
        .await
        .map(drop)
    }

    /// Key in the default layout, of characters that need no encoding in an event.
    fn key(&self, parcel: &Parcel) -> String {
        let Parcel { tenant, application, pod, number, extension, .. } = parcel;
        let tenant = &self.customers[*tenant].tenant_id;
        let seconds = Timestamp::now().as_second();
        format!(
            "{tenant}/load-1/app-{application}/app-{application}-{pod}/\
             {seconds}-00000000-0000-4000-8000-{number:012x}.json{extension}"
        )
    }

    /// S3's event about an object. Source: Amazon S3 user guide, "Event message structure".
    fn event(&self, key: &str, size: usize, etag: &str, sequencer: u64) -> String {
        let Provider { account, bucket, region, .. } = &self.provider;
        let record = json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": region,
            "eventTime": format!("{:.3}", Timestamp::now()),
            "eventName": "ObjectCreated:Put",
            "userIdentity": { "principalId": format!("AWS:{account}") },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": {
                "x-amz-request-id": format!("{sequencer:016X}"),
                "x-amz-id-2": format!("{sequencer:076x}"),
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "load",
                "bucket": {
                    "name": bucket,
                    "ownerIdentity": { "principalId": account },
                    "arn": format!("arn:aws:s3:::{bucket}"),
                },
                "object": { "key": key, "size": size, "eTag": etag, "sequencer": format!("{sequencer:016X}") },
            },
        });
        json!({ "Records": [record] }).to_string()
    }

    pub(crate) fn queue_arn(&self) -> &str {
        &self.provider.queue_arn
    }

    /// Makes STS refuse the tenant's role from now on. Existing sessions stay valid.
    pub(crate) async fn deny(&self, tenant: usize) -> anyhow::Result<()> {
        Ok(self.customers[tenant].allow(&self.aws, &self.provider, &[]).await?)
    }

    /// Restores the trust policy of the tenant's role.
    pub(crate) async fn mend(&self, tenant: usize) -> anyhow::Result<()> {
        let actions = [TrustAction::AssumeRole];
        Ok(self.customers[tenant].allow(&self.aws, &self.provider, &actions).await?)
    }

    /// Number of unacknowledged messages, and of dead letters.
    pub(crate) async fn backlog(&self) -> anyhow::Result<(u64, u64)> {
        let (waiting, in_flight) = self.root.queue_depth(&self.provider.queue_url).await?;
        let (dead, received) = self.root.queue_depth(&self.provider.dead_letter_url).await?;
        Ok((waiting + in_flight, dead + received))
    }

    /// Waits until every message is acknowledged.
    ///
    /// # Errors
    /// There are dead letters, or messages are left after `patience`.
    pub(crate) async fn acknowledged(&self, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let (waiting, dead) = self.backlog().await?;
            ensure!(dead == 0, "{dead} dead letters");
            if waiting == 0 {
                return Ok(());
            }
            ensure!(began.elapsed() < patience, "{waiting} messages are not acknowledged");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Receives all dead letters. Returns the reason of each, and the object's key, or the message id if SQS itself
    /// moved the message.
    pub(crate) async fn take_letters(&self) -> anyhow::Result<Vec<(String, String)>> {
        let letters = self.root.dead_letters(&self.provider.dead_letter_url, Some(MAX_VISIBILITY)).await?;
        let told = letters.into_iter().map(|letter| {
            let key = letter.attributes.get("key").unwrap_or(&letter.message_id);
            (letter.reason().to_owned(), key.clone())
        });
        Ok(told.collect())
    }

    /// Times at which CloudWatch Logs accepted the mark of each object of a tenant, by mark, in milliseconds since 1970. A
    /// repeated mark has several times. With `until`, no newer events are read.
    pub(crate) async fn arrivals(
        &self,
        tenant: usize,
        until: Option<Timestamp>,
    ) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
        let customer = &self.customers[tenant];
        let logs = self.aws.account(&customer.account).logs();
        let filter = logs.filter_log_events().log_group_name(&customer.log_group);
        let filter = filter.set_end_time(until.map(Timestamp::as_millisecond));
        let mut pages = filter.into_paginator().send();
        let mut arrivals = BTreeMap::<_, Vec<i64>>::new();
        while let Some(page) = pages.next().await {
            for event in page.context("cannot read a tenant's events")?.events.unwrap_or_default() {
                let message = event.message.unwrap_or_default();
                if message.starts_with(MARK) {
                    arrivals.entry(message).or_default().push(event.ingestion_time.unwrap_or_default());
                }
            }
        }
        Ok(arrivals)
    }

    /// Environment variable that names the ledger's table.
    pub(crate) fn ledger(&self) -> (&'static str, String) {
        self.provider.ledger_variable()
    }

    /// Environment of a worker: a session of the worker's role, the sandbox as endpoint, and the names of all resources except
    /// the ledger. Without a number of messages at once, the worker's default holds.
    pub(crate) async fn worker_environment(
        &self,
        concurrency: impl Into<Option<u32>>,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut environment = self.provider.worker_environment(&self.aws).await?;
        let concurrency = concurrency.into();
        environment.extend(concurrency.map(|n| ("LOGFERRY_WORKER__CONCURRENCY", n.to_string())));
        if self.customers.len() > REMEMBERED {
            let capacity = (2 * self.customers.len()).to_string();
            environment.push(("LOGFERRY_CREDENTIALS__CACHE_CAPACITY", capacity.clone()));
            environment.push(("LOGFERRY_TENANTS__CACHE_CAPACITY", capacity));
        }
        Ok(environment)
    }
}
