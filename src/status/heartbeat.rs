//! The heartbeat: the newest record of one tenant that CloudWatch Logs has accepted, by the record's own timestamp.
//!
//! Whatever writes the tenant's records writes one at regular intervals. So the age of the newest record shows whether logs go
//! the whole way, from the pod to the customer's account.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use super::Status;

/// Stands for no record. A timestamp of an event is not negative.
const NONE: i64 = i64::MIN;

#[derive(Debug)]
pub(super) struct Heartbeat {
    tenant_id: Option<String>,
    /// Milliseconds since 1970.
    newest: AtomicI64,
}

impl Heartbeat {
    /// Follows this tenant's records. Without a tenant there is no heartbeat.
    pub(super) fn of(tenant_id: Option<String>) -> Self {
        Self { tenant_id, newest: AtomicI64::new(NONE) }
    }

    /// A record of a tenant with this timestamp was accepted.
    pub(super) fn accepted(&self, tenant_id: &str, timestamp: i64) {
        if self.tenant_id.as_deref() == Some(tenant_id) {
            self.newest.fetch_max(timestamp, Ordering::Relaxed);
        }
    }

    /// Age of the newest record in seconds; 0 if its timestamp is in the future.
    fn age(&self, now: Timestamp) -> Option<f64> {
        let newest = Some(self.newest.load(Ordering::Relaxed)).filter(|newest| *newest != NONE)?;
        Some((now.as_millisecond() - newest).max(0) as f64 / 1_000.0)
    }

    fn encode(&self, now: Timestamp, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.tenant_id.is_none() {
            return Ok(());
        }
        let help = "Always 1: the configuration names a tenant whose records are the heartbeat.";
        let metric = encoder.encode_descriptor("heartbeat_expected", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(metric)?;
        let Some(age) = self.age(now) else { return Ok(()) };
        let help = "Age of the heartbeat's newest record that CloudWatch Logs has accepted.";
        let (name, unit) = ("heartbeat_age", Unit::Seconds);
        ConstGauge::new(age).encode(encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?)
    }
}

/// The metrics of a status's heartbeat.
#[derive(Debug)]
pub(super) struct Ages(pub(super) Arc<Status>);

impl Collector for Ages {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.heartbeat.encode(Timestamp::now(), encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_the_tenant_counts() {
        let second = |second: i64| Timestamp::from_second(second).expect("a time");
        let heartbeat = Heartbeat::of(Some("heart".to_owned()));
        assert_eq!(heartbeat.age(second(1_000)), None);
        heartbeat.accepted("other", 999_000);
        assert_eq!(heartbeat.age(second(1_000)), None);
        heartbeat.accepted("heart", 990_500);
        assert_eq!(heartbeat.age(second(1_000)), Some(9.5));
        // Objects may be delivered out of order.
        heartbeat.accepted("heart", 930_000);
        assert_eq!(heartbeat.age(second(1_000)), Some(9.5));
        heartbeat.accepted("heart", 1_001_000);
        assert_eq!(heartbeat.age(second(1_000)), Some(0.0));
        assert_eq!(heartbeat.age(second(1_100)), Some(99.0));
        let none = Heartbeat::of(None);
        none.accepted("heart", 990_000);
        assert_eq!(none.age(second(1_000)), None);
    }
}
