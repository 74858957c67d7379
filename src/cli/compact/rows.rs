//! Finds the lakes: enabled rows of type `s3` whose format is not `copy`.

use std::sync::Arc;

use super::Refusal;
use crate::{
    cli::{lake::lake_of, tenant::rows_of},
    lake::bucket::LakeRow,
    tell::tell,
    tenant::{Bucket, Delivery, Mode, Tenant, table::TenantRows},
};

/// A row, and the delivery in it, or the problem of a row that cannot be used.
#[derive(Debug)]
pub(super) struct LakeOfRow {
    pub(super) tenant_id: String,
    pub(super) name: String,
    /// `s3://BUCKET/PREFIX`.
    pub(super) place: String,
    delivery: Result<Arc<Delivery>, String>,
}

impl LakeOfRow {
    /// For the order of the result.
    pub(super) fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.tenant_id, &self.name).cmp(&(&other.tenant_id, &other.name))
    }

    pub(super) fn row(&self) -> Result<LakeRow<'_>, String> {
        let delivery = self.delivery.as_ref().map_err(String::clone)?;
        let (destination, lake) = lake_of(delivery).expect("only lakes were found");
        Ok(LakeRow { delivery, destination, lake })
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
) -> anyhow::Result<Vec<LakeOfRow>> {
    let mut found = Vec::new();
    for (tenant_id, of_tenant) in rows_of(rows, tenants).await? {
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

fn lakes(tenant: &Tenant, types: &[String]) -> Vec<LakeOfRow> {
    let chosen = |name: &String| types.is_empty() || types.contains(name);
    let found = tenant.deliveries.iter().filter_map(|row| {
        let (tenant_id, name, place, delivery) = match row {
            Ok(delivery) if delivery.enabled && delivery.mode == Mode::Live && chosen(&delivery.name) => {
                let (Bucket { bucket_name, bucket_prefix, .. }, _) = lake_of(delivery)?;
                let place = format!("s3://{bucket_name}/{bucket_prefix}");
                (&delivery.tenant_id, &delivery.name, place, Ok(Arc::clone(delivery)))
            }
            // A bad row of another kind is no matter of this command.
            Err(bad) if bad.enabled && chosen(&bad.name) && bad.name.split('#').next() == Some("s3") => {
                (&bad.tenant_id, &bad.name, "-".to_owned(), Err(bad.to_string()))
            }
            _ => return None,
        };
        Some(LakeOfRow { tenant_id: tenant_id.clone(), name: name.clone(), place, delivery })
    });
    found.collect()
}
