//! The endpoint for orchestrators and Prometheus: `/healthz`, `/readyz`, `/metrics`.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{health::Health, metrics::Metrics};

/// What prometheus-client writes. Source: the OpenMetrics specification, "Overall structure".
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `shutdown` is done.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let alive = Arc::clone(&health);
    let router = Router::new()
        .route("/healthz", get(async move || answer(alive.alive())))
        .route("/readyz", get(async move || answer(health.ready())))
        .route("/metrics", get(async move || scrape(&metrics)));
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

fn answer(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

fn scrape(metrics: &Metrics) -> Response {
    match metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
