//! The HTTP client of all calls, with the proxy and the certificates that the environment names, as in any AWS program.

use std::{fs, net::IpAddr, path::Path};

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

use rustls_native_certs::load_certs_from_paths;

use crate::config::Problem;

/// A file with the certificates to trust, instead of the system's.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// A file with the system's certificates, and folders with such files, separated by colons.
const SYSTEM_BUNDLE: &str = "SSL_CERT_FILE";
const SYSTEM_FOLDERS: &str = "SSL_CERT_DIR";
/// Variables that name a proxy, in upper or lower case.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Builds the HTTP client of all calls.
///
/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` choose the proxy of a call. Loopback addresses, where emulators
/// listen, and link-local addresses (169.254.0.0/16 and fd00:ec2::/32), where EC2, ECS and EKS serve credentials, never use
/// a proxy.
///
/// # Errors
/// `AWS_CA_BUNDLE`, `SSL_CERT_FILE` or `SSL_CERT_DIR` names a file that cannot be read or has no certificates; or a proxy
/// variable is not a URL.
pub(super) fn http_client(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<SharedHttpClient> {
    let trust = match variable(CA_BUNDLE).filter(|path| !path.is_empty()) {
        None => {
            check_system_certificates(&variable)?;
            TrustStore::default()
        }
        Some(path) => TrustStore::empty().with_pem_certificate(bundle(&path)?),
    };
    let context = TlsContext::builder().with_trust_store(trust).build().context("preparing TLS")?;
    let direct = client(context.clone(), ProxyConfig::disabled());
    let mut set = Vec::new();
    for name in PROXIES {
        // The first spelling that is set counts, as in the HTTP client.
        let spelled = [name.to_owned(), name.to_lowercase()];
        let Some((name, value)) =
            spelled.into_iter().find_map(|name| variable(&name).map(|value| (name, value)))
        else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        if !is_proxy(&value) {
            // The value may contain a password.
            let problem =
                "is not a proxy's URL such as http://proxy.example.com:3128; correct or unset it".to_owned();
            return Err(Problem { field: name, problem }.into());
        }
        set.push(name);
    }
    if set.is_empty() {
        return Ok(direct);
    }
    tracing::info!(proxies = set.join(", "), "calls go through a proxy that the environment names");
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

/// Whether the HTTP client accepts the value. It ignores other values silently.
fn is_proxy(value: &str) -> bool {
    value.parse::<Uri>().is_ok_and(|uri| {
        uri.authority().is_some() && matches!(uri.scheme_str(), None | Some("http" | "https"))
    })
}

/// Checks the certificates that the variables name instead of the system's. Without any certificate, the TLS library would
/// panic or refuse every call.
fn check_system_certificates(variable: impl Fn(&str) -> Option<String>) -> Result<(), Problem> {
    let (file, named) = (variable(SYSTEM_BUNDLE), variable(SYSTEM_FOLDERS).unwrap_or_default());
    let folders: Vec<_> = std::env::split_paths(&named).collect();
    let folders: Vec<_> = folders.iter().filter(|folder| !folder.as_os_str().is_empty()).collect();
    if file.is_none() && folders.is_empty() {
        return Ok(());
    }
    let of_file = load_certs_from_paths(file.as_deref().map(Path::new), None);
    if let (Some(file), Some(error)) = (&file, of_file.errors.first()) {
        return Err(Problem { field: SYSTEM_BUNDLE.into(), problem: format!("{file:?}: {error}") });
    }
    let of_folders: Vec<_> = folders.iter().map(|folder| load_certs_from_paths(None, Some(folder))).collect();
    let certificates = of_folders.iter().flat_map(|found| found.certs.clone()).chain(of_file.certs);
    if RootCertStore::empty().add_parsable_certificates(certificates).0 > 0 {
        return Ok(());
    }
    let error = of_folders.iter().flat_map(|found| &found.errors).next();
    let problem = error.map_or_else(|| "there is no certificate in PEM".to_owned(), ToString::to_string);
    Err(match file {
        Some(file) => Problem { field: SYSTEM_BUNDLE.into(), problem: format!("{file:?}: {problem}") },
        None => Problem { field: SYSTEM_FOLDERS.into(), problem: format!("{named:?}: {problem}") },
    })
}

/// Reads and checks a file of certificates. The TLS library would panic on a bad one.
fn bundle(path: &str) -> anyhow::Result<Vec<u8>> {
    let problem =
        |problem: String| Problem { field: CA_BUNDLE.into(), problem: format!("{path}: {problem}") };
    let pem = fs::read(path).map_err(|error| problem(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(format!("it is not a PEM file: {error}")))?;
    if certificates.is_empty() {
        return Err(problem("it holds no certificate in PEM".to_owned()).into());
    }
    let mut store = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates) {
        store.add(certificate).map_err(|error| problem(format!("certificate {number} in it: {error}")))?;
    }
    Ok(pem)
}

/// Clients without and with a proxy. The address of each call decides between them.
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

/// Whether the address is on this machine or its own link, which no proxy can reach.
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
    fn loopback_and_link_local_addresses_take_no_proxy() {
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
    fn a_bad_proxy_is_reported_without_its_password() {
        for (value, legal) in [
            ("http://proxy:3128", true),
            ("https://user:secret@proxy.example.com:3128/", true),
            ("proxy:3128", true),
            ("10.0.0.7:3128", true),
            ("", true),
            ("http//user:secret@p:3128", false),
            ("ftp://secret:3128", false),
            ("socks5://secret:1080", false),
            ("http://", false),
            ("/secret", false),
            ("secret proxy", false),
        ] {
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
                let found = http_client(|asked| (asked == name).then(|| value.to_owned()));
                assert_eq!(found.is_ok(), legal, "{name}={value}");
                if let Err(error) = found {
                    let text = format!("{error:#}");
                    assert!(text.starts_with(name) && !text.contains("secret"), "{text}");
                }
            }
        }
        // The HTTP client reads only the first spelling that is set.
        let both = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://proxy:3128".to_owned()),
            "https_proxy" => Some("http//p".to_owned()),
            _ => None,
        };
        assert!(http_client(both).is_ok());
    }

    #[test]
    fn missing_system_certificates_are_reported() {
        let directory = std::env::temp_dir().join(format!("logferry-system-{}", std::process::id()));
        let (empty, full) = (directory.join("empty"), directory.join("full"));
        fs::create_dir_all(&empty).expect("a folder of the test's own");
        fs::create_dir_all(&full).expect("a folder of the test's own");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        fs::write(full.join("ca.pem"), certificate.pem()).expect("the folder is the test's own");
        fs::write(full.join("text"), "no certificate").expect("the folder is the test's own");
        let path = |part: &str| directory.join(part).display().to_string();
        let check = |file: Option<&str>, folders: Option<&str>, problem: Option<(&str, &str)>| {
            let (file, folders) = (file.map(path), folders.map(|folders| folders.replace('@', &path(""))));
            let found = http_client(|name| match name {
                SYSTEM_BUNDLE => file.clone(),
                SYSTEM_FOLDERS => folders.clone(),
                _ => None,
            });
            let text = found.map(drop).map_err(|error| format!("{error:#}"));
            match problem {
                None => assert_eq!(text, Ok(()), "{file:?} {folders:?}"),
                Some((field, words)) => {
                    let text = text.expect_err(words);
                    assert!(text.starts_with(field) && text.contains(words), "{text}");
                }
            }
        };
        check(Some("full/ca.pem"), None, None);
        check(None, Some("@full"), None);
        check(None, Some("@missing:@full"), None);
        check(Some("full/text"), Some("@full"), None);
        check(Some("missing"), None, Some((SYSTEM_BUNDLE, "No such file")));
        check(Some("missing"), Some("@full"), Some((SYSTEM_BUNDLE, "No such file")));
        check(Some("full/text"), None, Some((SYSTEM_BUNDLE, "no certificate in PEM")));
        check(Some("full/text"), Some("@empty"), Some((SYSTEM_BUNDLE, "no certificate in PEM")));
        check(None, Some("@missing"), Some((SYSTEM_FOLDERS, "No such file")));
        check(None, Some("@empty"), Some((SYSTEM_FOLDERS, "no certificate in PEM")));
        fs::remove_dir_all(&directory).expect("the folder exists");
    }

    #[test]
    fn a_bundle_without_certificates_is_reported() {
        let directory = std::env::temp_dir().join(format!("logferry-bundle-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a folder of the test's own");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, content, words) in [
            ("missing", None, "No such file"),
            ("empty", Some(""), "it holds no certificate in PEM"),
            ("text", Some("certificates"), "it holds no certificate in PEM"),
            ("cut", Some("-----BEGIN CERTIFICATE-----\nAAAA"), "it is not a PEM file"),
            ("broken", Some(broken), "certificate 1 in it"),
        ] {
            let path = directory.join(name).display().to_string();
            if let Some(content) = content {
                fs::write(&path, content).expect("the folder is the test's own");
            }
            let error = http_client(|name| (name == CA_BUNDLE).then(|| path.clone())).expect_err(name);
            let text = format!("{error:#}");
            assert!(text.contains("AWS_CA_BUNDLE") && text.contains(&path) && text.contains(words), "{text}");
        }
        fs::remove_dir_all(&directory).expect("the folder exists");
    }
}
