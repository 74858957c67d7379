//! Runs the pipeline behind Lambda's runtime API.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    EVERYTHING,
    clients::{load_sdk, queue_clients},
    parts::Parts,
    spans, warn_of_gaps,
};
use crate::{
    config::Config,
    fairness::book::Limits,
    lambda::{Function, Times, Waits, serve},
    pipeline::{Pipeline, PipelineSettings},
    queue::{
        Message,
        sqs::{SqsQueue, lambda::SqsEvent},
    },
    room::Place,
    telemetry::Telemetry,
    trace::milliseconds,
};

/// Handles invocations. Clients, sessions, tenants and streams are remembered from one invocation to the next. Returns only
/// after an error.
///
/// # Errors
/// The configuration has no table or role, there is no Region, or the runtime API fails.
pub async fn lambda(config: &Config, telemetry: &Telemetry) -> anyhow::Result<()> {
    serve::check()?;
    let base = load_sdk(config, "lambda", &EVERYTHING).await?;
    warn_of_gaps(config);
    let Parts { ports, settings, metrics, customers, groups, .. } = Parts::build(config, &base)?;
    // Lambda decides how many batches run at once. A message that waited for its tenant's share would wait for the whole
    // visibility timeout.
    let (slots, longest_wait) = (usize::MAX, settings.shares.longest_wait);
    let shares = Limits { slots, max_objects: None, max_bytes: None, longest_wait };
    let settings = PipelineSettings { shares, ..settings };
    let status = Arc::clone(&metrics.status);
    let pipeline = Arc::new(Pipeline::new(ports, settings, metrics.pipeline, Arc::clone(&status)));
    let clients = queue_clients(config, &base);
    let url = config.queue.url.clone().unwrap_or_default();
    let letters = config.queue.dead_letter_url.clone();
    let function = Function {
        queue: Arc::new(SqsQueue::new(clients, url, letters, config.queue.visibility_timeout)),
        handle: move |message: Arc<Message>, stop: CancellationToken| {
            let pipeline = Arc::clone(&pipeline);
            async move { pipeline.handle(&message, &Place::whole(), &stop).await }
        },
        concurrency: config.worker.concurrency,
        waits: if config.queue.url.is_some() { Waits::OfVerdict } else { Waits::OfQueue },
        spans: spans(config),
    };
    if config.queue.url.is_none() {
        tracing::warn!(
            "queue.url is not set: messages that must be retried come again when the queue's visibility timeout ends, not \
             after their own delays"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        worker.concurrency = config.worker.concurrency,
        "logferry lambda starts"
    );
    serve::serve(async |event: SqsEvent, deadline: Instant| {
        let (began, times, messages) = (Instant::now(), Times::until(deadline), event.messages());
        let received = messages.len();
        let failed = function.invoke(messages, times).await;
        customers.tidy();
        groups.tidy();
        status.tidy();
        tracing::info!(
            messages.received = received,
            messages.failed = failed.len(),
            time.total_ms = milliseconds(began.elapsed()),
            "an invocation is done"
        );
        telemetry.flush(times.respond.saturating_duration_since(Instant::now())).await;
        failed
    })
    .await?;
    Ok(())
}
