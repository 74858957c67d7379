//! How calls leave the process: by the proxy and with the certificates that the environment names, as of any AWS program.

use std::{fs, net::IpAddr};

use anyhow::Context;
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};
use axum::http::Uri;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::config::Problem;

/// A file with the certificates to trust, in the place of the system's (which `SSL_CERT_FILE` may name).
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// Variables that name a proxy, in either case of letters.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// The client of every call that the process makes.
///
/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` decide which proxy a call takes. This machine and its link (loopback,
/// where emulators listen; 169.254.0.0/16 and fd00:ec2::/32, where credentials of EC2, ECS and EKS come from) are always
/// reached directly.
///
/// # Errors
/// `AWS_CA_BUNDLE` names a file that cannot be read, or that holds no certificates.
pub(super) fn http_client(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<SharedHttpClient> {
    let trust = match variable(CA_BUNDLE).filter(|path| !path.is_empty()) {
        None => TrustStore::default(),
        Some(path) => TrustStore::empty().with_pem_certificate(bundle(&path)?),
    };
    let context = TlsContext::builder().with_trust_store(trust).build().context("preparing TLS")?;
    let direct = client(context.clone(), ProxyConfig::disabled());
    let is_set = |name: &&&str| {
        [name.to_string(), name.to_lowercase()]
            .iter()
            .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
    };
    let set: Vec<_> = PROXIES.iter().filter(is_set).collect();
    if set.is_empty() {
        return Ok(direct);
    }
    tracing::info!(proxies = ?set, "calls leave by a proxy that the environment names");
    Ok(SharedHttpClient::new(Outbound { direct, proxied: client(context, ProxyConfig::from_env()) }))
}

fn client(context: TlsContext, proxy: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    })
}

/// The certificates, looked at before the TLS library does, which would panic.
fn bundle(path: &str) -> anyhow::Result<Vec<u8>> {
    let problem =
        |problem: String| Problem { field: CA_BUNDLE.into(), problem: format!("{path}: {problem}") };
    let pem = fs::read(path).map_err(|error| problem(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(format!("it is no PEM file: {error}")))?;
    if certificates.is_empty() {
        return Err(problem("it holds no certificate in PEM".to_owned()).into());
    }
    let mut store = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates) {
        store.add(certificate).map_err(|error| problem(format!("certificate {number} of it: {error}")))?;
    }
    Ok(pem)
}

/// Two ways out.
#[derive(Debug)]
struct Outbound {
    direct: SharedHttpClient,
    proxied: SharedHttpClient,
}

impl HttpClient for Outbound {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connectors {
            direct: self.direct.http_connector(settings, components),
            proxied: self.proxied.http_connector(settings, components),
        })
    }
}

#[derive(Debug)]
struct Connectors {
    direct: SharedHttpConnector,
    proxied: SharedHttpConnector,
}

impl HttpConnector for Connectors {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match is_near(request.uri()) {
            true => self.direct.call(request),
            false => self.proxied.call(request),
        }
    }
}

/// Whether it is this machine or its link, behind which no proxy can be.
fn is_near(uri: &str) -> bool {
    let Some(host) = uri.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)) else {
        return false;
    };
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.segments()[..2] == [0xfd00, 0x0ec2],
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_takes_no_proxy() {
        for (uri, expected) in [
            ("http://127.0.0.1:4566/", true),
            ("http://127.9.9.9/", true),
            ("http://localhost:4566/queue", true),
            ("http://bucket.s3.localhost:4566/", true),
            ("http://[::1]:4566/", true),
            ("http://169.254.170.2/v2/credentials", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::254]/latest/api/token", true),
            ("https://sts.eu-central-1.amazonaws.com/", false),
            ("https://10.0.0.7/", false),
            ("https://[fd00:ec3::254]/", false),
            ("https://localhost.example.com/", false),
            ("no address", false),
        ] {
            assert_eq!(is_near(uri), expected, "{uri}");
        }
    }

    #[test]
    fn a_bundle_that_holds_no_certificates_is_told() {
        let directory = std::env::temp_dir().join(format!("logferry-bundle-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a folder of the test's own");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, content, words) in [
            ("missing", None, "No such file"),
            ("empty", Some(""), "it holds no certificate in PEM"),
            ("text", Some("certificates"), "it holds no certificate in PEM"),
            ("cut", Some("-----BEGIN CERTIFICATE-----\nAAAA"), "it is no PEM file"),
            ("broken", Some(broken), "certificate 1 of it"),
        ] {
            let path = directory.join(name).display().to_string();
            if let Some(content) = content {
                fs::write(&path, content).expect("the folder is the test's own");
            }
            let error = http_client(|name| (name == CA_BUNDLE).then(|| path.clone())).expect_err(name);
            let text = format!("{error:#}");
            assert!(text.contains("AWS_CA_BUNDLE") && text.contains(&path) && text.contains(words), "{text}");
        }
        fs::remove_dir_all(&directory).expect("it is there");
    }
}
