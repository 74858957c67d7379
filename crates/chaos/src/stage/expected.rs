//! Expected and actual contents of all destinations at the end of a run.

use std::collections::{BTreeMap, HashMap};

use logferry_testbed::provision::Customer;

use super::{DELIVERIES, LAKE, MISSING, QUARANTINE, Stage, customers_bucket, key, lakes_bucket, tenant_id};
use crate::{
    comparison::Lane,
    content::Made,
    copies,
    lake::{Lake, Way},
    letters::{Bad, Letter, Told},
    notice::Stored,
    plan::{Object, Plan, Wanted},
    quarantine::{self, Line, Shelf},
};

/// Prefix of copies in a customer's bucket: the default of the row's `bucket_prefix`.
const COPIES: &str = "ROSA/cluster-logs/";

impl Stage {
    /// Receives all dead letters.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<Vec<Letter>> {
        let letters = self.root.dead_letters(&self.provider.dead_letter_url, None).await?;
        let letters = letters.into_iter().map(|letter| Letter {
            reason: letter.reason().to_owned(),
            key: letter.get("key").to_owned(),
            record_offset: letter.get("record_offset").parse().ok(),
            failures: letter.get("failures").parse().unwrap_or_default(),
            body: letter.body,
        });
        Ok(letters.collect())
    }

    /// One lane for each object and each delivery that takes it.
    pub(crate) fn lanes(&self, plan: &Plan, stored: &HashMap<usize, Stored>) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for (number, object) in plan.objects.iter().enumerate() {
            let Some(Stored { modified, .. }) = stored.get(&number) else { continue };
            for (_, customer) in self.deliveries(object) {
                let made = &self.made[number];
                lanes.push(Lane {
                    name: format!("object {number} for {}", customer.account),
                    account: customer.account.clone(),
                    log_group: customer.log_group.clone(),
                    stream: format!("{}-pod-{}-", object.application, object.pod),
                    events: match plan.tenants[object.tenant].quarantines_oversize {
                        true => made.events_without_pieces(),
                        false => made.events.clone(),
                    },
                    readable: made.readable,
                    object_time: *modified,
                });
            }
        }
        lanes
    }

    /// Each lake: what should be in it, and its files.
    pub(crate) async fn lakes(
        &self,
        plan: &Plan,
        stored: &HashMap<usize, Stored>,
    ) -> anyhow::Result<Vec<Lake<'_>>> {
        let mut lakes = Vec::new();
        for (tenant, settings) in plan.tenants.iter().enumerate() {
            let Some(format) = settings.lake else { continue };
            let theirs = plan.objects.iter().enumerate().filter(|(_, object)| object.tenant == tenant);
            let way = |(number, _): (usize, &Object)| {
                let Stored { key, modified, .. } = stored.get(&number)?;
                let Made { rows, readable, .. } = &self.made[number];
                let rows = rows.iter().take_while(|row| row.record < *readable).collect();
                Some(Way { key: key.clone(), object_time: *modified, rows })
            };
            let bucket = lakes_bucket(tenant);
            let files = self.tenants[tenant][0].0.objects(&self.aws, &bucket).await?;
            let files = files.into_iter().map(|file| (file.key, file.bytes)).collect();
            let left = self.sandbox.open_uploads(&bucket).len() as u64;
            lakes.push(Lake { bucket, format, ways: theirs.filter_map(way).collect(), files, left });
        }
        Ok(lakes)
    }

    /// Deliveries that take an object: `type` of the row, and customer.
    fn deliveries(&self, object: &Object) -> impl Iterator<Item = (&'static str, &Customer)> {
        let web = object.application == "web";
        let wanting = DELIVERIES.into_iter().zip(&self.tenants[object.tenant]);
        wanting
            .filter(move |(_, (_, wanted))| web || *wanted == Wanted::All)
            .map(|(delivery, (customer, _))| (delivery, customer))
    }

    /// Records that each delivery of each object should put into the quarantine.
    pub(crate) fn shelves(&self, plan: &Plan, stored: &HashMap<usize, Stored>) -> Vec<Shelf> {
        let mut shelves = Vec::new();
        if !plan.quarantine {
            return shelves;
        }
        for (number, object) in plan.objects.iter().enumerate() {
            let (made, tenant) = (&self.made[number], &plan.tenants[object.tenant]);
            let Some(Stored { bucket, key, .. }) = stored.get(&number) else { continue };
            let oversize = if tenant.quarantines_oversize { made.oversize.as_slice() } else { &[] };
            for (delivery, _) in self.deliveries(object) {
                shelves.push(Shelf {
                    tenant_id: tenant_id(object.tenant),
                    delivery,
                    bucket: bucket.clone(),
                    key: key.clone(),
                    records: made.aside.iter().chain(oversize).cloned().collect(),
                });
            }
            if tenant.lake.is_some() {
                // A lake takes records of any age and length.
                let unreadable = made.aside.iter().filter(|aside| aside.timestamp.is_none());
                shelves.push(Shelf {
                    tenant_id: tenant_id(object.tenant),
                    delivery: LAKE,
                    bucket: bucket.clone(),
                    key: key.clone(),
                    records: unreadable.cloned().collect(),
                });
            }
        }
        shelves
    }

    /// Reads every line in the quarantine.
    pub(crate) async fn quarantined(&self, plan: &Plan) -> anyhow::Result<Vec<Line>> {
        let mut lines = Vec::new();
        if plan.quarantine {
            for object in self.root.objects(QUARANTINE).await? {
                lines.extend(quarantine::read(&object.bytes)?);
            }
        }
        Ok(lines)
    }

    /// Expected objects in each customer's bucket, by tenant and key. Of several versions of an object, only the newest.
    pub(crate) fn copies(
        &self,
        plan: &Plan,
        stored: &HashMap<usize, Stored>,
    ) -> BTreeMap<usize, BTreeMap<String, &[u8]>> {
        let with_bucket = (0..plan.tenants.len()).filter(|tenant| plan.tenants[*tenant].has_bucket);
        let mut copies: BTreeMap<_, BTreeMap<_, _>> =
            with_bucket.map(|tenant| (tenant, BTreeMap::new())).collect();
        let mut numbers: Vec<_> = stored.keys().copied().collect();
        numbers.sort_by_key(|number| &stored[number].sequencer);
        for number in numbers {
            let object = &plan.objects[number];
            if let Some(copies) = copies.get_mut(&object.tenant) {
                let file = stored[&number].key.rsplit('/').next().unwrap_or_default();
                let Object { tenant, application, pod, .. } = object;
                let key = format!("{COPIES}{}/{application}/pod-{pod}/{file}", tenant_id(*tenant));
                copies.insert(key, self.made[number].bytes.as_slice());
            }
        }
        copies
    }

    /// Lists the differences between the customers' buckets and the expected copies.
    pub(crate) async fn judge_copies(
        &self,
        plan: &Plan,
        stored: &HashMap<usize, Stored>,
    ) -> anyhow::Result<Vec<String>> {
        let mut problems = Vec::new();
        for (tenant, expected) in self.copies(plan, stored) {
            let bucket = customers_bucket(tenant);
            let customer = &self.tenants[tenant][0].0;
            let found = customer.objects(&self.aws, &bucket).await?;
            let found = found.into_iter().map(|object| (object.key, object.bytes.to_vec())).collect();
            problems.extend(copies::compare(&bucket, &expected, &found));
        }
        Ok(problems)
    }

    /// Number of SendMessageBatch calls of the workers. A call sends up to ten messages anew, or tests whether sending is
    /// allowed.
    pub(crate) fn sent_anew(&self) -> u64 {
        self.sandbox.calls("sqs", "SendMessageBatch")
    }

    /// Objects that messages named and that must have dead letters.
    pub(crate) fn told_of(&self, plan: &Plan, stored: &HashMap<usize, Stored>) -> Told {
        let missing = plan.objects.len();
        let is_bad = |number: &usize| plan.objects.get(*number).is_none_or(Object::is_damaged);
        let mut bad: Vec<_> = (0..plan.objects.len())
            .filter(is_bad)
            .filter_map(|number| {
                let (key, readable) = (stored.get(&number)?.key.clone(), self.made[number].readable);
                Some(Bad { key, reason: "corrupt_object", record_offset: Some(readable) })
            })
            .collect();
        let messages = || plan.messages.iter().chain(&plan.late);
        if messages().any(|message| message.objects.contains(&missing)) {
            let key = key(&tenant_id(0), "web", 0, MISSING);
            bad.push(Bad { key, reason: "object_missing", record_offset: None });
        }
        let by_the_bucket =
            (0..plan.objects.len()).filter(|number| !plan.objects[*number].silent && is_bad(number)).count();
        let by_us = messages().filter(|message| message.objects.iter().any(is_bad)).count();
        Told { bad, messages: (by_the_bucket + by_us) as u64 }
    }
}
