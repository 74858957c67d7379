//! Reads a customer's log group through the customer's role, with FilterLogEvents.
//!
//! The session may read this one group and do nothing else; a worker's sessions may not read.

use std::{ops::Range, time::Duration};

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_cloudwatchlogs::{
    Client,
    config::{self, Region},
    error::ProvideErrorMetadata,
};
use aws_smithy_runtime::client::identity::IdentityCache;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Count, Window, comparison::Cells};
use crate::{
    aws::{Base, describe, find_cause},
    batch::EVENT_OVERHEAD,
    credentials::{AssumeError, customers::Customers, request::SessionSpec, scope::Scope},
    tenant::{CloudWatch, Delivery},
};

/// Reads customers' log groups.
#[derive(Debug)]
pub struct LogReader {
    /// Without credentials, so that a call without a customer's credentials fails.
    client: Client,
    customers: Customers,
    pace: Interval,
}

impl LogReader {
    /// Enters accounts with `customers`. Sends at most `rate` calls per second. The quota of FilterLogEvents is 5 per second
    /// and account in the smallest Regions, and the customer shares it.
    pub fn new(base: &Base, customers: Customers, rate: u16) -> Self {
        let client = Client::from_conf(base.without_credentials().logs().build());
        let mut pace = interval(Duration::from_secs(1) / u32::from(rate.max(1)));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { client, customers, pace }
    }

    /// Counts the group's events whose windows begin in `windows`. A group that does not exist has no events.
    ///
    /// # Errors
    /// The role cannot be assumed, or may not read the group, or CloudWatch Logs does not answer. The text has AWS's words, and
    /// what to do.
    pub async fn count(
        &mut self,
        delivery: &Delivery,
        destination: &CloudWatch,
        windows: Range<Window>,
    ) -> Result<Cells, String> {
        let role = self.customers.enter(SessionSpec {
            tenant_id: delivery.tenant_id.clone(),
            role: destination.role.clone(),
            external_id: destination.external_id.clone(),
            session_tags: destination.session_tags,
            source_identity: destination.source_identity,
            cluster: String::new(),
            scope: Scope::ReadLogGroup {
                region: delivery.target_region.clone(),
                log_group_name: destination.log_group_name.clone(),
            },
        });
        let role = role.await.map_err(|error| error.to_string())?;
        let customer = config::Builder::default()
            .region(Region::new(delivery.target_region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(role.clone()))
            .identity_cache(IdentityCache::no_cache());
        let (from, until) = (windows.start.start(), windows.end.start());
        let filter = self
            .client
            .filter_log_events()
            .log_group_name(&destination.log_group_name)
            // Both times are inclusive. Source: CloudWatch Logs API reference, FilterLogEvents.
            .start_time(from)
            .end_time(until - 1);
        let (mut cells, mut token) = (Cells::new(), None);
        loop {
            self.pace.tick().await;
            let filter = filter.clone().set_next_token(token.take());
            let page =
                role.call(|| filter.clone().customize().config_override(customer.clone()).send()).await;
            let page = match page {
                Ok(page) => page,
                Err(error) if error.code() == Some("ResourceNotFoundException") => break,
                Err(error) => {
                    return Err(match (find_cause::<AssumeError>(&error), error.code()) {
                        (Some(session), _) => session.to_string(),
                        (None, Some("AccessDeniedException" | "AccessDenied")) => format!(
                            "{}; the role {} lacks logs:FilterLogEvents on the group's ARN and on the ARN with :*",
                            describe(&error),
                            destination.role
                        ),
                        (None, _) => describe(&error),
                    });
                }
            };
            for event in page.events.unwrap_or_default() {
                // An emulator may not know the end of the range.
                let Some(timestamp) = event.timestamp.filter(|at| (from..until).contains(at)) else {
                    continue;
                };
                let bytes = event.message.as_deref().map_or(0, str::len) + EVENT_OVERHEAD;
                let stream = event.log_stream_name.unwrap_or_default();
                *cells.entry((Window::of(timestamp), stream)).or_default() +=
                    Count { events: 1, bytes: bytes as u64 };
            }
            // A page may be empty although more follow; only a missing token ends the reading. Source as above.
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        Ok(cells)
    }
}
