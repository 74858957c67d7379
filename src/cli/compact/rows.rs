//! Finds the lakes: enabled rows of type `s3` whose format is not `copy`.

use std::{collections::BTreeMap, sync::Arc};

use super::Refusal;
use crate::{
    lake::bucket::LakeRow,
    tell::tell,
    tenant::{Bucket, Contents, Delivery, Destination, Mode, Row, Tenant, table::TenantRows},
};

/// A row, and the delivery in it if the row can be used.
#[derive(Debug)]
pub(super) struct LakeOfRow {
    pub(super) tenant_id: String,
    pub(super) name: String,
    /// `s3://BUCKET/PREFIX`.
    pub(super) place: String,
    delivery: Option<Arc<Delivery>>,
}

impl LakeOfRow {
    /// For the order of the result.
    pub(super) fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.tenant_id, &self.name).cmp(&(&other.tenant_id, &other.name))
    }

    pub(super) fn row(&self) -> Option<LakeRow<'_>> {
        let delivery = self.delivery.as_deref()?;
        let Destination::S3(destination) = &delivery.destination else { return None };
        let Contents::Lake(lake) = &destination.contents else { return None };
        Some(LakeRow { delivery, destination, lake })
    }
}

/// Finds the lakes of the named tenants, or of all. `types` selects among the rows. A row that cannot be used is an error of its own.
///
/// # Errors
/// The tenant table cannot be read, or a named tenant has no such lake.
pub(super) async fn find(
    rows: &TenantRows,
    tenants: &[String],
    types: &[String],
) -> anyhow::Result<Vec<Result<LakeOfRow, (LakeOfRow, String)>>> {
    let mut of_tenants = BTreeMap::<String, Vec<(String, Row)>>::new();
    if tenants.is_empty() {
        for (tenant_id, name, row) in rows.all().await? {
            of_tenants.entry(tenant_id).or_default().push((name, row));
        }
    } else {
        for tenant_id in tenants {
            of_tenants.insert(tenant_id.clone(), rows.of(tenant_id).await?);
        }
    }
    let mut found = Vec::new();
    for (tenant_id, of_tenant) in of_tenants {
        let of_tenant: Vec<_> = match rows.judge(&tenant_id, of_tenant) {
            Some(tenant) if tenant.paused => {
                tell!("logferry: tenant {tenant_id:?} is paused; its lakes stay as they are");
                continue;
            }
            Some(tenant) => lakes(&tenant, types),
            None => Vec::new(),
        };
        if of_tenant.is_empty() && !tenants.is_empty() {
            let problem = format!(
                "tenant {tenant_id:?} has no enabled lake{}: no row of type s3 with format = \"ndjson\" or \"parquet\" that puts files",
                if types.is_empty() { String::new() } else { format!(" of type {}", types.join(" or ")) }
            );
            return Err(Refusal::NotFound(problem).into());
        }
        found.extend(of_tenant);
    }
    Ok(found)
}

fn lakes(tenant: &Tenant, types: &[String]) -> Vec<Result<LakeOfRow, (LakeOfRow, String)>> {
    let chosen = |name: &String| types.is_empty() || types.contains(name);
    let mut found = Vec::new();
    for row in &tenant.deliveries {
        match row {
            Ok(delivery) if delivery.enabled && delivery.mode == Mode::Live && chosen(&delivery.name) => {
                if let Destination::S3(Bucket {
                    bucket_name,
                    bucket_prefix,
                    contents: Contents::Lake(_),
                    ..
                }) = &delivery.destination
                {
                    found.push(Ok(LakeOfRow {
                        tenant_id: delivery.tenant_id.clone(),
                        name: delivery.name.clone(),
                        place: format!("s3://{bucket_name}/{bucket_prefix}"),
                        delivery: Some(Arc::clone(delivery)),
                    }));
                }
            }
            Ok(_) => {}
            // A bad row of another kind is no matter of this command.
            Err(bad) if bad.enabled && chosen(&bad.name) && is_s3(&bad.name) => {
                let lake = LakeOfRow {
                    tenant_id: bad.tenant_id.clone(),
                    name: bad.name.clone(),
                    place: "-".to_owned(),
                    delivery: None,
                };
                found.push(Err((lake, bad.to_string())));
            }
            Err(_) => {}
        }
    }
    found
}

fn is_s3(name: &str) -> bool {
    name.split('#').next() == Some("s3")
}
