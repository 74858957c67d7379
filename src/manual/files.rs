//! Tenants as local files are delivered to them: S3 cannot copy a file that it does not have.

use std::sync::Arc;

use tokio::time::Instant;

use crate::tenant::{Bucket, Contents, Destination, Directory, LookupError, Tenant};

/// A directory without the deliveries that copy objects.
#[derive(Clone, Debug)]
pub struct WithoutCopies<D>(pub D);

fn without_copies(tenant_id: &str, tenant: Option<Arc<Tenant>>) -> Option<Arc<Tenant>> {
    let mut tenant = Tenant::clone(&*tenant?);
    tenant.deliveries.retain(|row| match row {
        Ok(delivery) if delivery.enabled && is_copy(&delivery.destination) => {
            tracing::warn!(
                tenant.id = tenant_id,
                delivery.name,
                "S3 copies only objects that it has, so a local file is not copied into the customer's bucket"
            );
            false
        }
        _ => true,
    });
    Some(Arc::new(tenant))
}

fn is_copy(destination: &Destination) -> bool {
    matches!(destination, Destination::S3(Bucket { contents: Contents::Copies(_), .. }))
}

impl<D: Directory> Directory for WithoutCopies<D> {
    async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        Ok(without_copies(tenant_id, self.0.find(tenant_id).await?))
    }

    async fn confirm(&self, tenant_id: &str, since: Instant) -> Result<Option<Arc<Tenant>>, LookupError> {
        Ok(without_copies(tenant_id, self.0.confirm(tenant_id, since).await?))
    }
}
