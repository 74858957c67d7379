//! A collector of traces: takes OTLP over gRPC or HTTP, and keeps the spans.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::eventually::eventually;

/// Whether these calls are needed depends on what the readiness probes have asked for, and on the target.
const OPTIONAL: [&str; 3] = ["GetCallerIdentity", "CreateLogStream", "CreateLogGroup"];

/// Protocol of the exports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

/// A running collector.
pub(crate) struct Collector {
    protocol: Protocol,
    endpoint: String,
    received: Received,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Received {
    fn take(&self, request: ExportTraceServiceRequest) {
        self.0.lock().expect("no test panics while it holds the lock").push(request);
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if request.metadata().get("x-test").is_none_or(|value| value != "of the test") {
            return Err(Status::unauthenticated("the header is missing"));
        }
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start(protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let received = Received::default();
        let server = match protocol {
            Protocol::Grpc => {
                let service = TraceServiceServer::new(received.clone());
                let server = tonic::transport::Server::builder().add_service(service);
                tokio::spawn(async move {
                    let served = server.serve_with_incoming(TcpIncoming::from(listener)).await;
                    served.expect("the collector serves");
                })
            }
            Protocol::Http => {
                let take = async |State(received): State<Received>, body: Bytes| {
                    received.take(ExportTraceServiceRequest::decode(body).expect("it is protobuf"));
                    ExportTraceServiceResponse::default().encode_to_vec()
                };
                let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
                tokio::spawn(
                    async move { axum::serve(listener, router).await.expect("the collector serves") },
                )
            }
        };
        Self { protocol, endpoint, received, _server: AbortOnDropHandle::new(server) }
    }

    /// The variables that make a worker export to this collector soon after a span has ended.
    pub(crate) fn variables(&self) -> Vec<(&str, &str)> {
        let mut variables = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-test=of%20the%20test"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_SERVICE_NAME", "ferry"),
        ];
        if let Protocol::Grpc = self.protocol {
            variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
        }
        variables
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.received.0.lock().expect("no test panics while it holds the lock").clone();
        let resources = requests.into_iter().flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|of_resource| {
            let resource = of_resource.resource.expect("every export names its resource");
            let service = text(&resource.attributes, "service.name");
            assert_eq!(service.as_deref(), Some("ferry"));
            of_resource.scope_spans
        });
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Waits for the span of a message that `wanted` selects, and for all spans of its trace.
    pub(crate) async fn message(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Trace {
        eventually(what, async || {
            let spans = self.spans();
            let root = spans.iter().find(|span| span.name.starts_with("process ") && wanted(span));
            // The span of a message ends last.
            match root {
                Some(root) => Ok(Trace {
                    root: root.clone(),
                    spans: spans.iter().filter(|span| span.trace_id == root.trace_id).cloned().collect(),
                }),
                None => Err(format!("{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>())),
            }
        })
        .await
    }
}

/// The spans of one message.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) root: Span,
    spans: Vec<Span>,
}

impl Trace {
    /// The tree of all spans except those of [`OPTIONAL`] calls, with one line (name and kind) for each. Siblings with equal
    /// subtrees appear once. `queue` replaces the queue's name.
    pub(crate) fn tree(&self, queue: &str) -> String {
        let known: BTreeSet<_> = self.spans.iter().map(|span| &span.span_id).collect();
        for span in self.spans.iter().filter(|span| **span != self.root) {
            assert!(known.contains(&span.parent_span_id), "{} has no parent in {:?}", span.name, self.spans);
        }
        self.lines(&self.root, 0).join("\n").replace(queue, "queue")
    }

    fn lines(&self, span: &Span, depth: usize) -> Vec<String> {
        let kind = SpanKind::try_from(span.kind).expect("a known kind").as_str_name();
        let mut lines = vec![format!(
            "{}{} {}",
            "  ".repeat(depth),
            span.name,
            kind.trim_start_matches("SPAN_KIND_").to_lowercase()
        )];
        let needed = |child: &&Span| !OPTIONAL.iter().any(|name| child.name.contains(name));
        let children = self.spans.iter().filter(|child| child.parent_span_id == span.span_id).filter(needed);
        let children: BTreeSet<_> = children.map(|child| self.lines(child, depth + 1)).collect();
        lines.extend(children.into_iter().flatten());
        lines
    }

    /// The first span with this name.
    pub(crate) fn span(&self, name: &str) -> &Span {
        let found = self.spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no span is called {name:?}"))
    }

    /// All spans with this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| span.name == name)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.root.trace_id)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the span's status is an error.
pub(crate) fn is_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// An attribute as text; a list of one text as this text.
pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    text(&span.attributes, key)
}

fn text(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    shown(value)
}

fn shown(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::ArrayValue(array) => shown(array.values.first()?),
        other => Some(format!("{other:?}")),
    }
}
