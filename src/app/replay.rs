//! The parts of `logferry replay`. Building them makes no call to AWS yet.

use std::{num::NonZeroUsize, sync::Arc};

use anyhow::Context;

use super::{
    clients::{load_sdk, s3_client, s3_store, short_sqs_client},
    ledger,
    manual::{Mode, stored},
    tools::of_ledger,
};
use crate::{
    aws::Base,
    config::Config,
    fairness::book::Limits,
    ledger::dynamodb::DynamoDbLedger,
    manual::dry_run::{GivenTenants, Lines},
    name::bucket::OwnBucket,
    object::listing::s3::S3Listing,
    pipeline::PipelineSettings,
    queue::sqs::SqsQueue,
    replay::{Destination, Direct, sending::MessageSender},
};

/// Builds the parts for one bucket.
#[derive(Debug)]
pub struct Supplier<'a> {
    config: &'a Config,
    base: Base,
    bucket: &'a OwnBucket,
}

impl<'a> Supplier<'a> {
    /// Finds credentials and Region. `fields` are the configuration's fields with the names of resources that the run uses.
    ///
    /// # Errors
    /// There is no Region, or a resource is in another one.
    pub async fn new(config: &'a Config, bucket: &'a OwnBucket, fields: &[&str]) -> anyhow::Result<Self> {
        Ok(Self { config, base: load_sdk(config, "replay", fields).await?, bucket })
    }

    /// The bucket's listing.
    pub fn listing(&self) -> S3Listing {
        S3Listing::new(s3_client(self.config, &self.base), self.bucket.clone())
    }

    /// Delivers up to `concurrency` objects at once.
    ///
    /// # Errors
    /// A table or role is missing, or a value cannot be used.
    pub fn delivering(&self, mode: &Mode, concurrency: NonZeroUsize) -> anyhow::Result<Direct> {
        let slots = concurrency.get();
        let change = |settings: PipelineSettings| PipelineSettings {
            most_buffers: 2 * slots,
            // A run has no queue to which an object could go back until its tenant's turn. A tenant's share of these slots is
            // always larger than the number of objects that are in work.
            shares: Limits { slots: 2 * slots + 1, max_objects: None, max_bytes: None, ..settings.shares },
            ..settings
        };
        Ok(Direct(stored(self.config, &self.base, mode, change)?))
    }

    /// Reads objects as for a delivery, and delivers nothing.
    ///
    /// # Errors
    /// The table is missing, or a value cannot be used.
    pub fn showing(&self) -> anyhow::Result<Direct> {
        let tenants = GivenTenants { rows: Vec::new(), default_region: None };
        let mode = Mode::Show { lines: Lines::new(std::io::sink()), tenants };
        self.delivering(&mode, NonZeroUsize::MIN)
    }

    /// Sends messages to the worker's queue.
    ///
    /// # Errors
    /// The configuration has no queue.
    pub fn sending(&self) -> anyhow::Result<Arc<dyn Destination>> {
        let url = self.config.queue.url.clone().context("queue.url is required")?;
        let region = self.base.sdk().region().context("there is no Region")?;
        Ok(Arc::new(MessageSender {
            store: s3_store(self.config, &self.base),
            owner: self.bucket.owner.clone(),
            region: region.to_string(),
            outbox: SqsQueue::asking(short_sqs_client(&self.base, 1), url),
        }))
    }

    /// The places of watches.
    ///
    /// # Errors
    /// The configuration has no ledger: a [`Problem`](crate::config::Problem).
    pub fn places(&self) -> anyhow::Result<DynamoDbLedger> {
        Ok(of_ledger(ledger(self.config, &self.base))?)
    }
}
