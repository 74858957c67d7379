//! The metrics of single tenants. Their number is bounded: only some tenants have series of their own, see
//! [`super::Status::tidy`].

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Status, book::Sample, heartbeat::Ages};

/// Registers the metrics of tenants and of the heartbeat, which are read from `status` at each scrape.
pub fn register(status: &Arc<Status>, registry: &mut Registry) {
    registry.register_collector(Box::new(Ages(Arc::clone(status))));
    registry.register_collector(Box::new(Tenants(Arc::clone(status))));
}

#[derive(Debug)]
struct Tenants(Arc<Status>);

impl Collector for Tenants {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let samples = self.0.book().samples(self.0.now().ms);
        if samples.is_empty() {
            return Ok(());
        }
        // Nothing is expected to arrive from a tenant in shadow mode.
        fn expected(sample: &Sample) -> Option<&Sample> {
            (!sample.in_shadow).then_some(sample)
        }
        let mut gauge = |name, help, unit: Option<Unit>, value: &dyn Fn(&Sample) -> Option<f64>| {
            let values = samples.iter().filter_map(|sample| Some((sample, value(sample)?)));
            let mut values = values.peekable();
            // A metric without samples gets no `HELP` and `TYPE` lines either.
            if values.peek().is_none() {
                return Ok(());
            }
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for (sample, value) in values {
                metric.encode_family(&[("tenant", &*sample.tenant)])?.encode_gauge(&value)?;
            }
            fmt::Result::Ok(())
        };
        gauge(
            "tenant_last_success_timestamp",
            "Unix time of the last success while no other delivery of the tenant was failing.",
            Some(Unit::Seconds),
            &|sample| Some(expected(sample)?.last_success?.as_millisecond() as f64 / 1_000.0),
        )?;
        gauge(
            "tenant_oldest_waiting",
            "Age of the oldest object that the tenant waits for, from its first receipt; 0 if there is none.",
            Some(Unit::Seconds),
            &|sample| Some(expected(sample)?.oldest_waiting.as_secs_f64()),
        )?;
        gauge("tenant_waiting_objects", "Objects that the tenant waits for.", None, &|sample| {
            Some(expected(sample)?.waiting as f64)
        })?;
        let mut counter = |name, help, value: fn(&Sample) -> u64| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for sample in &samples {
                let labels = [("tenant", &*sample.tenant)];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value(sample), None)?;
            }
            fmt::Result::Ok(())
        };
        counter("tenant_events", "Events that CloudWatch Logs accepted.", |sample| sample.series.events)?;
        counter("tenant_event_bytes", "Bytes as CloudWatch Logs bills them.", |sample| sample.series.bytes)?;
        counter("tenant_shadow_events", "Events that deliveries in shadow mode counted.", |sample| {
            sample.series.shadow_events
        })?;
        counter(
            "tenant_shadow_bytes",
            "Bytes of events or copies that deliveries in shadow mode counted.",
            |sample| sample.series.shadow_bytes,
        )?;
        if samples.iter().all(|sample| sample.series.failures.is_empty()) {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(
            "tenant_failures",
            "Failures of the tenant's objects, by reason.",
            None,
            MetricType::Counter,
        )?;
        for sample in &samples {
            for (reason, count) in &sample.series.failures {
                let labels = [("tenant", &*sample.tenant), ("reason", *reason)];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        Ok(())
    }
}
