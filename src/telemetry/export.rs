//! Exports spans in the background, and counts them.
//!
//! The SDK's batch processor has a thread of its own, so that no delivery waits for an export. The exports run on the worker's
//! runtime, because their connections belong to it. If the collector is slow or down, spans are dropped.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::Uri;
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingResult, SdkTracerProvider, ShouldSample,
        Span, SpanData, SpanProcessor,
    },
};
use tokio::runtime::Handle;
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
};

pub(super) use super::collector::check;
use super::{
    Metrics,
    collector::{self, SpanExporter},
    environment::{Protocol, Settings},
};
use crate::trace::{
    TARGET, UNDECIDED,
    semconv::{SCHEMA_URL, SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION},
};

/// The export of traces. Clones are handles of one export.
#[derive(Clone, Debug)]
pub(super) struct Export(SdkTracerProvider);

impl Export {
    /// Prepares the export. Must be called on the worker's runtime.
    ///
    /// # Errors
    /// The certificates that TLS needs cannot be read.
    pub(super) fn new(settings: Settings, metrics: Metrics) -> anyhow::Result<Self> {
        let batches = settings.batches;
        let state = Arc::new(State {
            waiting: AtomicUsize::new(0),
            overflowing: AtomicBool::new(false),
            trouble: Mutex::default(),
            hint: hint(settings.protocol, &settings.endpoint),
            endpoint: format!("{}://{}", settings.endpoint.scheme_str().unwrap_or("http"), host(&settings)),
            metrics,
        });
        let exporter = Exporter {
            inner: Arc::new(collector::exporter(&settings)?),
            runtime: Handle::current(),
            timeout: settings.timeout.min(batches.timeout),
            state: Arc::clone(&state),
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(batches.max_queue)
            .with_max_export_batch_size(batches.max_batch)
            .with_scheduled_delay(batches.delay);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
        let sampler = settings.sampler;
        let root = match sampler.ratio {
            1.0 => Sampler::AlwaysOn,
            0.0 => Sampler::AlwaysOff,
            ratio => Sampler::TraceIdRatioBased(ratio),
        };
        let rule = match sampler.parent_based {
            true => Sampler::ParentBased(Box::new(root.clone())),
            false => root.clone(),
        };
        let own = [
            KeyValue::new(SERVICE_NAME, "logferry"),
            KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(SERVICE_INSTANCE_ID, format!("{:016x}", fastrand::u64(..))),
        ];
        let named = settings.resource.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let resource = Resource::builder_empty().with_attributes(own).with_attributes(named).build();
        let provider = SdkTracerProvider::builder()
            .with_sampler(Decision { rule, root })
            .with_resource(resource)
            .with_span_processor(Bounded { inner: processor, most: batches.max_queue, state });
        Ok(Self(provider.build()))
    }

    /// Turns the spans of [`trace`](crate::trace), and no others, into OpenTelemetry's.
    pub(super) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        let scope = InstrumentationScope::builder("logferry")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL)
            .build();
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer_with_scope(scope))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
            .boxed()
    }

    /// Exports the spans that wait, and returns whether the collector took them. Blocks the thread.
    pub(super) fn flush(&self) -> bool {
        self.0.force_flush().is_ok()
    }

    /// Like [`Export::flush`], for `limit` at most. Later spans are dropped.
    pub(super) fn shut_down(&self, limit: Duration) -> bool {
        self.0.shutdown_with_timeout(limit).is_ok()
    }
}

/// What an operator should look at when exports to this collector fail.
fn hint(protocol: Protocol, endpoint: &Uri) -> &'static str {
    match (protocol, endpoint.port_u16()) {
        (Protocol::HttpProtobuf, Some(4317)) => {
            "; collectors expect gRPC at port 4317: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318"
        }
        (Protocol::Grpc, Some(4318)) => {
            "; collectors expect HTTP at port 4318: unset OTEL_EXPORTER_OTLP_PROTOCOL, or use port 4317"
        }
        _ => "",
    }
}

/// The collector's host and port, without a user's name or password.
fn host(settings: &Settings) -> &str {
    let authority = settings.endpoint.authority().map_or("", |authority| authority.as_str());
    authority.rsplit('@').next().unwrap_or_default()
}

/// What processor and exporter share.
#[derive(Debug)]
struct State {
    /// Spans that wait for their export.
    waiting: AtomicUsize,
    /// Whether a span was dropped since the last export because too many waited.
    overflowing: AtomicBool,
    /// While exports fail, or too many spans wait: how many spans had been dropped before that began.
    trouble: Mutex<Option<u64>>,
    endpoint: String,
    hint: &'static str,
    metrics: Metrics,
}

impl State {
    /// Counts an export, and logs when trouble begins and when it ends.
    fn ended(&self, spans: usize, result: &OTelSdkResult) {
        let Metrics { spans_exported, spans_dropped } = &self.metrics;
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = spans_dropped.get();
        let overflowing = self.overflowing.swap(false, Ordering::Relaxed);
        match (result, &*trouble) {
            (Ok(()), Some(_)) if overflowing => {}
            (Ok(()), Some(dropped_before)) => {
                let spans = dropped - dropped_before;
                tracing::info!(collector = self.endpoint, spans.dropped = spans, "traces are exported again");
                *trouble = None;
            }
            (Err(error), None) => {
                tracing::warn!(
                    collector = self.endpoint,
                    error = format!("{error}{}", self.hint),
                    "traces cannot be exported; spans are dropped until the collector takes them again, and \
                     logferry_spans_dropped_total counts them; deliveries go on"
                );
                *trouble = Some(dropped);
            }
            (Ok(()), None) if overflowing => {
                tracing::warn!(
                    collector = self.endpoint,
                    "the collector is slow, and spans were dropped; sample fewer traces (OTEL_TRACES_SAMPLER), or let more spans \
                     wait (OTEL_BSP_MAX_QUEUE_SIZE)"
                );
                *trouble = Some(dropped);
            }
            (Ok(()), None) | (Err(_), Some(_)) => {}
        }
        match result {
            Ok(()) => spans_exported.inc_by(spans as u64),
            Err(_) => spans_dropped.inc_by(spans as u64),
        };
    }
}

/// Drops spans when too many wait, and counts them. The SDK's processor would drop them too, but not count them.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    most: usize,
    state: Arc<State>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let one_more = |waiting| (waiting < self.most).then_some(waiting + 1);
        match self.state.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => self.inner.on_end(span),
            Err(_) => {
                self.state.metrics.spans_dropped.inc();
                self.state.overflowing.store(true, Ordering::Relaxed);
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Exports on the worker's runtime, and counts the spans.
struct Exporter {
    inner: Arc<SpanExporter>,
    runtime: Handle,
    timeout: Duration,
    state: Arc<State>,
}

/// Without `inner`, whose headers may hold a token.
impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("state", &self.state).finish_non_exhaustive()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let (spans, timeout, state) = (batch.len(), self.timeout, Arc::clone(&self.state));
        state.waiting.fetch_sub(spans, Ordering::Relaxed);
        let inner = Arc::clone(&self.inner);
        let export = async move { tokio::time::timeout(timeout, inner.export(batch)).await };
        let export = self.runtime.spawn(export);
        async move {
            let result = match export.await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(OTelSdkError::Timeout(timeout)),
                // The runtime has ended.
                Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
            };
            state.ended(spans, &result);
            result
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // The provider sets the resource before the first export, so no export shares the exporter yet.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

/// Decides whether a trace is sampled.
#[derive(Clone, Debug)]
struct Decision {
    rule: Sampler,
    /// For traces whose sender left the decision to us.
    root: Sampler,
}

impl ShouldSample for Decision {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let undecided = parent.is_some_and(|parent| {
            let span = parent.span();
            let parent = span.span_context();
            parent.is_remote() && parent.trace_flags() & UNDECIDED == UNDECIDED
        });
        let sampler = if undecided { &self.root } else { &self.rule };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests;
