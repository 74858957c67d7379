//! The connection to a collector of traces: OTLP over gRPC or HTTP.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::HttpError;
pub(super) use opentelemetry_otlp::SpanExporter;
use opentelemetry_otlp::{Protocol as OtlpProtocol, WithExportConfig, WithHttpConfig, WithTonicConfig};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tonic::{metadata::MetadataMap, transport::Endpoint};

use super::environment::{Protocol, Settings};
use crate::config::Problem;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer of a collector. A usual answer has a few bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Variable that names the file with the certificates to trust.
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// Prepares the exporter. Does not connect yet. Needs a runtime.
///
/// # Errors
/// The certificates that TLS needs cannot be read.
pub(super) fn exporter(settings: &Settings) -> anyhow::Result<SpanExporter> {
    let tls = tls(settings)?;
    let built = match settings.protocol {
        Protocol::Grpc => {
            let connector = https(tls).enable_http2().build();
            let endpoint = Endpoint::from(settings.endpoint.clone()).connect_timeout(CONNECT_TIMEOUT);
            let channel = endpoint.connect_with_connector_lazy(connector);
            let headers = settings.headers.iter().cloned().collect();
            SpanExporter::builder()
                .with_tonic()
                .with_channel(channel)
                .with_metadata(MetadataMap::from_headers(headers))
                .with_timeout(settings.timeout)
                .build()
        }
        Protocol::HttpProtobuf => {
            let connector = https(tls).enable_http1().build();
            let client = Client::builder(TokioExecutor::new()).build(connector);
            let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
            let headers = settings.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
            SpanExporter::builder()
                .with_http()
                .with_http_client(HttpClient { client, timeout: settings.timeout })
                .with_headers(headers.collect())
                .with_endpoint(settings.endpoint.to_string())
                .with_protocol(OtlpProtocol::HttpBinary)
                .with_timeout(settings.timeout)
                .build()
        }
    };
    built.context("preparing the export of traces")
}

/// Trusts the system's certificates, or those that the environment names.
fn tls(settings: &Settings) -> anyhow::Result<ClientConfig> {
    let roots = match settings.endpoint.scheme_str() {
        Some("https") => roots(settings)?,
        _ => RootCertStore::empty(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().context("preparing TLS for traces")?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn roots(settings: &Settings) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &settings.certificates {
        Some(path) => {
            let bad = || format!("{CERTIFICATE}: {path:?}");
            for certificate in CertificateDer::pem_file_iter(path).with_context(bad)? {
                roots.add(certificate.with_context(bad)?).with_context(bad)?;
            }
            ensure!(!roots.is_empty(), "{CERTIFICATE}: {path:?} has no certificate in PEM");
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            ensure!(
                !roots.is_empty(),
                "the collector of traces needs TLS, and this system has no certificates to trust; name a file in {CERTIFICATE}"
            );
        }
    }
    Ok(roots)
}

/// Reads the certificates that the export will need.
///
/// # Errors
/// They cannot be read.
pub(super) fn check(settings: &Settings) -> Result<(), Problem> {
    let problem = |error| Problem { field: CERTIFICATE.to_owned(), problem: format!("{error:#}") };
    tls(settings).map(drop).map_err(problem)
}

fn https(tls: ClientConfig) -> HttpsConnectorBuilder<hyper_rustls::builderstates::WantsProtocols1> {
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http()
}

/// Sends exports over HTTP.
#[derive(Debug)]
struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for HttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let send = async {
            let response = self.client.request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(self.timeout, send).await?
    }
}
