//! Counts the selected objects by tenant, and estimates what their delivery would cost.
//!
//! CloudWatch Logs bills the bytes of the messages and 26 bytes for each event, which only decompression shows. So a sample of the
//! objects is read through the pipeline, which puts nothing; the ratio of billed to stored bytes in the sample stands for all
//! objects.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Destination, Fate, Item, Taken,
    outcome::{Counts, Failures, add_failure},
    selection::Selection,
};
use crate::object::listing::{ListingError, ObjectListing, Walk};

/// Most objects of the sample.
const SAMPLE: usize = 20;
/// Bytes of the GB that CloudWatch Logs bills. Source: "Amazon CloudWatch pricing", whose examples divide by 1,024 three times.
const GB: f64 = (1_u64 << 30) as f64;

/// What a replay would deliver.
#[derive(Debug, Default, Serialize)]
pub struct Estimate {
    /// Always true.
    pub dry_run: bool,
    /// Whether the command was stopped before the listing's end.
    pub interrupted: bool,
    /// The listing.
    #[serde(flatten)]
    pub counts: Counts,
    /// Stored bytes of the selected objects.
    pub stored_bytes: u64,
    /// The sample.
    pub sample: Sample,
    /// Estimated bytes that CloudWatch Logs would bill. `None` if no object of the sample could be read.
    pub billed_bytes: Option<u64>,
    /// Price of a GB of 2^30 bytes.
    pub price_per_gb: f64,
    /// Estimated cost of the ingestion, in the currency of the price.
    pub cost: Option<f64>,
    /// The selected objects by tenant.
    pub tenants: BTreeMap<String, OfTenant>,
}

/// The objects that were read.
#[derive(Debug, Default, Serialize)]
pub struct Sample {
    /// Objects that were read, or that no delivery wants.
    pub objects: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
    /// Bytes that CloudWatch Logs would bill for them, of all deliveries.
    pub billed_bytes: u64,
    /// Objects of the sample that could not be read, by reason. They do not count in the ratio.
    pub failed: BTreeMap<&'static str, Failures>,
}

/// A tenant's share.
#[derive(Debug, Default, Serialize)]
pub struct OfTenant {
    /// Selected objects.
    pub objects: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
}

/// Lists the bucket to its end, and reads the sample through `showing`, whose pipeline puts nothing.
///
/// # Errors
/// The bucket cannot be listed.
pub async fn estimate<L: ObjectListing>(
    bucket: &str,
    selection: &Selection,
    listing: &L,
    showing: &dyn Destination,
    price_per_gb: f64,
    stop: &CancellationToken,
) -> Result<Estimate, ListingError> {
    let mut estimate = Estimate { dry_run: true, price_per_gb, ..Estimate::default() };
    let (mut walk, mut sample) = (Walk::new(listing, selection.prefixes()), Vec::new());
    loop {
        let listed = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            listed = walk.next() => listed?,
        };
        let Some(listed) = listed else { break };
        let size = listed.size;
        let Some(item) = estimate.counts.add(bucket, selection, listed) else { continue };
        estimate.counts.selected += 1;
        estimate.stored_bytes += size;
        let of_tenant = estimate.tenants.entry(item.tenant_id.clone()).or_default();
        of_tenant.objects += 1;
        of_tenant.stored_bytes += size;
        // Each object so far is in the sample with the same probability.
        let place = usize::try_from(fastrand::u64(..estimate.counts.selected)).unwrap_or(usize::MAX);
        if sample.len() < SAMPLE {
            sample.push(item);
        } else if let Some(sampled) = sample.get_mut(place) {
            *sampled = item;
        }
    }
    for item in &sample {
        for taken in showing.take(std::slice::from_ref(item), stop).await {
            estimate.sample.add(item, taken);
        }
    }
    estimate.interrupted = stop.is_cancelled();
    let Sample { stored_bytes, billed_bytes, .. } = estimate.sample;
    if stored_bytes > 0 {
        let billed = estimate.stored_bytes as f64 * (billed_bytes as f64 / stored_bytes as f64);
        estimate.billed_bytes = Some(billed.round() as u64);
        estimate.cost = Some(billed / GB * price_per_gb);
    }
    Ok(estimate)
}

impl Estimate {
    /// Why there is no estimate: no object of the sample could be read.
    pub fn problem(&self) -> Option<String> {
        let (reason, failures) = self.sample.failed.first_key_value().filter(|_| self.sample.objects == 0)?;
        let error = &failures.first.failure.error;
        Some(format!(
            "there is no estimate, because no object of the sample could be read: {reason}: {error}"
        ))
    }
}

impl Sample {
    fn add(&mut self, item: &Item, taken: Taken) {
        match taken.fate {
            Fate::Delivered | Fate::Skipped(_) => {
                self.objects += 1;
                self.stored_bytes += item.object.size.unwrap_or_default();
                self.billed_bytes += taken.billed_bytes;
            }
            Fate::Failed(failed) => add_failure(&mut self.failed, item, &*failed),
            // A pipeline that puts nothing has no ledger and sends nothing.
            Fate::Sent | Fate::Unsent(_) | Fate::AlreadyDelivered | Fate::Busy(_) | Fate::Interrupted => {}
        }
    }
}
