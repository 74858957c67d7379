//! Watches a worker as its operators do: collects a fraction of its traces, reads `/metrics`, and keeps the status page open.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use logferry_testbed::worker::{Samples, WorkerProcess};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Interval between two readings of `/metrics`. Prometheus's default is a minute.
const READ_EVERY: Duration = Duration::from_secs(5);

/// A collector of traces, and the readers of the worker's endpoint. All of them end when this value is dropped.
#[derive(Debug)]
pub(crate) struct Observers {
    endpoint: String,
    /// Fraction of the messages whose traces are exported, 0 to 1.
    fraction: f64,
    exports: Arc<AtomicU64>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Observers {
    /// Starts the collector for a worker that exports the traces of `fraction` of its messages.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub(crate) async fn start(fraction: f64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let exports = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&exports);
        let take = move |body: Bytes| async move {
            counter.fetch_add(u64::from(!body.is_empty()), Ordering::Relaxed);
            // An empty body is an `ExportTraceServiceResponse` that reports no rejected span.
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { Ok(axum::serve(listener, router).await?) });
        Ok(Self { endpoint, fraction, exports, tasks })
    }

    /// Variables of a worker that exports its traces to the collector.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint.clone()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG", self.fraction.to_string()),
        ]
    }

    /// Begins to read the worker's endpoint.
    ///
    /// # Errors
    /// The worker ended, or its endpoint does not answer.
    pub(crate) async fn watch(&mut self, worker: &mut WorkerProcess) -> anyhow::Result<()> {
        let address = worker.listening().await?;
        Samples::read(address).await.context("the worker's /metrics cannot be read")?;
        self.tasks.spawn(read_metrics(address));
        self.tasks.spawn(keep_page_open(address));
        Ok(())
    }

    /// Checks, after the worker's end, that its traces arrived if it exports all of them.
    ///
    /// # Errors
    /// No trace arrived.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let exports = self.exports.load(Ordering::Relaxed);
        ensure!(self.fraction < 1.0 || exports > 0, "the worker exports all traces, and none arrived");
        Ok(())
    }
}

async fn read_metrics(address: SocketAddr) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(READ_EVERY).await;
        // A worker that is paused or busy answers late, and answers the next request.
        let _ = Samples::read(address).await;
    }
}

/// Reads the events of the status page, as a browser does.
async fn keep_page_open(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /events HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut chunk = vec![0; 64 << 10];
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}
