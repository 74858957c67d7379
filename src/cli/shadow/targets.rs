//! Finds what is compared: the destinations of deliveries.

use std::collections::{BTreeMap, btree_map::Entry};

use super::Refusal;
use crate::{
    cli::tenant::rows_of,
    tenant::{CloudWatch, Delivery, Destination, Mode, table::TenantRows},
};

/// A log group or a bucket, with the deliveries that share it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The account, if the row tells it.
    pub(super) account: Option<String>,
    pub(super) region: String,
    /// The log group, or `s3://BUCKET`.
    pub(super) place: String,
    /// Tenant and `type` of the deliveries.
    pub(super) deliveries: Vec<(String, String)>,
    pub(super) destined: Destined,
}

#[derive(Clone, Debug)]
pub(super) enum Destined {
    /// Read as the first of the deliveries.
    CloudWatch(Box<Delivery>, Box<CloudWatch>),
    Bucket,
    /// The row cannot be used, so nothing is delivered; with the row's problems.
    Nowhere(String),
}

/// Finds the targets of the named tenants, or of all deliveries in shadow mode. `types` selects among the deliveries.
///
/// # Errors
/// The tenant table cannot be read, a named tenant has no such delivery, or no delivery is in shadow mode.
pub(super) async fn find(
    rows: &TenantRows,
    tenants: &[String],
    types: &[String],
) -> anyhow::Result<Vec<Target>> {
    let mut targets = BTreeMap::new();
    let chosen = |name: &String| types.is_empty() || types.contains(name);
    let in_question = |row: &Delivery| !tenants.is_empty() || row.mode == Mode::Shadow;
    for (tenant_id, of_tenant) in rows_of(rows, tenants).await? {
        let (tenant, mut is_found) = (rows.judge(&tenant_id, of_tenant), false);
        for row in tenant.iter().flat_map(|tenant| &tenant.deliveries) {
            match row {
                Ok(row) if row.enabled && chosen(&row.name) && in_question(row) => {
                    is_found = true;
                    add(&mut targets, row);
                }
                Err(row) if row.enabled && chosen(&row.name) => {
                    let place = format!("{} of {}", row.name, row.tenant_id);
                    let target = Target {
                        account: None,
                        region: String::new(),
                        place: place.clone(),
                        deliveries: vec![(row.tenant_id.clone(), row.name.clone())],
                        destined: Destined::Nowhere(row.to_string()),
                    };
                    targets.insert((None, String::new(), place), target);
                }
                _ => {}
            }
        }
        if !is_found && !tenants.is_empty() {
            let problem = format!("tenant {tenant_id:?} has no enabled row that can be used{}", of(types));
            return Err(Refusal::NotFound(problem).into());
        }
    }
    if targets.is_empty() {
        let problem = format!(
            "no enabled row{} is in shadow mode; set deliver = \"shadow\" in a row, or name a tenant with --tenant",
            of(types)
        );
        return Err(Refusal::NotFound(problem).into());
    }
    Ok(targets.into_values().collect())
}

fn of(types: &[String]) -> String {
    if types.is_empty() { String::new() } else { format!(" of type {}", types.join(" or ")) }
}

type Place = (Option<String>, String, String);

fn add(targets: &mut BTreeMap<Place, Target>, delivery: &Delivery) {
    let (account, place, destined) = match &delivery.destination {
        Destination::CloudWatch(to) => (
            Some(to.role.account().to_owned()),
            to.log_group_name.clone(),
            Destined::CloudWatch(Box::new(delivery.clone()), Box::new(to.clone())),
        ),
        Destination::S3(to) => {
            (to.bucket_owner.clone(), format!("s3://{}", to.bucket_name), Destined::Bucket)
        }
    };
    let region = delivery.target_region.clone();
    let named = (delivery.tenant_id.clone(), delivery.name.clone());
    match targets.entry((account.clone(), region.clone(), place.clone())) {
        Entry::Occupied(mut known) => known.get_mut().deliveries.push(named),
        Entry::Vacant(new) => {
            new.insert(Target { account, region, place, deliveries: vec![named], destined });
        }
    }
}
