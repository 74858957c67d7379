//! Proxies, certificates and endpoints from the environment variables that AWS's programs use.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use crate::{eventually::eventually, setup::Setup, worker::logferry};

/// A host name that only the proxy can resolve.
const HOST: &str = "aws.internal";

/// An HTTP proxy that sends all calls to one address and records their targets.
pub(crate) struct Proxy {
    address: SocketAddr,
    targets: Arc<Mutex<BTreeSet<String>>>,
}

impl Proxy {
    /// Starts a proxy. Calls within a tunnel (CONNECT) go to `tunnels`, others to `plain`.
    pub(crate) async fn start(plain: SocketAddr, tunnels: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let targets: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        tokio::spawn({
            let targets = Arc::clone(&targets);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(Self::serve(client, plain, tunnels, Arc::clone(&targets)));
                }
            }
        });
        Self { address, targets }
    }

    async fn serve(
        mut client: TcpStream,
        plain: SocketAddr,
        tunnels: SocketAddr,
        targets: Arc<Mutex<BTreeSet<String>>>,
    ) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut words = text.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let target = target.strip_prefix("http://").unwrap_or(target).split('/').next().unwrap_or_default();
        targets.lock().expect("no test panics while it holds the lock").insert(target.to_owned());
        if method == "CONNECT" {
            let mut server = TcpStream::connect(tunnels).await?;
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            copy_bidirectional(&mut client, &mut server).await?;
        } else {
            // The server accepts the absolute-form requests that a proxy gets, so later requests on the connection pass
            // unchanged.
            let mut server = TcpStream::connect(plain).await?;
            server.write_all(&head).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn targets(&self) -> Vec<String> {
        self.targets.lock().expect("no test panics while it holds the lock").iter().cloned().collect()
    }
}

/// Terminates TLS in front of a plain server, with a certificate of the test's own CA. Returns the address, and the
/// file of the CA certificate.
async fn terminator(plain: SocketAddr, name: &str) -> (SocketAddr, PathBuf) {
    let mut params = CertificateParams::new(Vec::new()).expect("an empty list of names is legal");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
        .expect("the CA can sign itself");
    let key = KeyPair::generate().expect("a key");
    // S3 puts the bucket in front of the endpoint's host name.
    let names = vec![HOST.to_owned(), format!("*.{HOST}")];
    let certificate = CertificateParams::new(names)
        .expect("the names are legal")
        .signed_by(&key, &ca)
        .expect("the CA can sign the certificate");
    let file = std::env::temp_dir().join(format!("logferry-ca-{name}-{}.pem", std::process::id()));
    std::fs::write(&file, ca.pem()).expect("there is room");

    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key is the certificate's");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(plain).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (address, file)
}

fn address_of(endpoint: &str) -> SocketAddr {
    endpoint.trim_start_matches("http://").trim_end_matches('/').parse().expect("the sandbox's address")
}

/// Delivers an object with these variables and compares what arrived.
async fn delivers(setup: &Setup, variables: &[(&str, &str)]) {
    let customer = setup.customer("acme").await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 100).await;
    let worker = setup.worker_with(variables).await;
    setup.acknowledged(&worker, 1).await;
    setup.arrived_once(&customer, [&object]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_uses_the_proxy_of_the_environment() {
    let setup = Setup::new("proxy").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let aws = address_of(&sandbox.endpoint());
    let proxy = Proxy::start(aws, aws).await;
    let endpoint = format!("http://{HOST}:4566");
    delivers(&setup, &[("AWS_ENDPOINT_URL", &endpoint), ("HTTP_PROXY", &proxy.url())]).await;
    assert_eq!(proxy.targets(), [format!("{HOST}:4566")], "the proxy has no other targets");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_certificates_is_trusted_through_a_proxy() {
    let setup = Setup::new("bundle").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let aws = address_of(&sandbox.endpoint());
    let (tls, ca) = terminator(aws, "bundle").await;
    let proxy = Proxy::start(aws, tls).await;
    let (endpoint, ca) = (format!("https://{HOST}"), ca.display().to_string());
    let variables = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("https_proxy", &proxy.url())];
    for bundle in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let setup = Setup::new(&format!("bundle-{}", bundle.to_lowercase().replace('_', "-"))).await;
        let sandbox = setup.sandbox().expect("the target is the sandbox");
        let aws = address_of(&sandbox.endpoint());
        let (tls, ca) = terminator(aws, bundle).await;
        let proxy = Proxy::start(aws, tls).await;
        let ca = ca.display().to_string();
        let variables =
            [("AWS_ENDPOINT_URL", endpoint.as_str()), ("HTTPS_PROXY", &proxy.url()), (bundle, &ca)];
        delivers(&setup, &variables).await;
        assert_eq!(proxy.targets(), [format!("{HOST}:443")], "{bundle}");
    }
    // Without the bundle the certificate's issuer is unknown, and the log says so.
    let worker = setup.worker_with(&variables).await;
    eventually("the worker logs the unknown issuer", async || {
        let lines = worker.log_lines();
        let told = lines.iter().any(|line| line.to_string().contains("UnknownIssuer"));
        if told { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .await;
    let _ = std::fs::remove_file(ca);
}

/// Emulators listen on loopback addresses, and credentials come from link-local ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_addresses_bypass_the_proxy() {
    let setup = Setup::new("near").await;
    if setup.sandbox().is_none() {
        return;
    }
    let nobody = "http://127.0.0.1:9";
    delivers(&setup, &[("HTTP_PROXY", nobody), ("HTTPS_PROXY", nobody)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fips_and_dual_stack_endpoints_are_used() {
    let setup = Setup::new("endpoints").await;
    if setup.sandbox().is_none() {
        return;
    }
    for (variable, endings) in [
        ("AWS_USE_FIPS_ENDPOINT", [".amazonaws.com:443", "-fips."]),
        ("AWS_USE_DUALSTACK_ENDPOINT", [".api.aws:443", "sqs."]),
    ] {
        // The proxy has no server behind it.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let proxy = Proxy::start(nobody, nobody).await;
        let mut environment = setup.environment().await;
        environment.remove("AWS_ENDPOINT_URL");
        environment
            .extend([(variable.to_owned(), "true".to_owned()), ("HTTPS_PROXY".to_owned(), proxy.url())]);
        let _worker = setup.start(&environment).await;
        eventually("the queue's host is requested", async || {
            let targets = proxy.targets();
            let right = targets
                .iter()
                .any(|target| target.starts_with("sqs") && endings.iter().all(|part| target.contains(part)));
            if right { Ok(()) } else { Err(format!("{variable}: {targets:?}")) }
        })
        .await;
    }
}

/// Checks that the worker ends with these words before it calls AWS.
fn ends(variables: &[(&str, &str)], words: &str) {
    let needed = [
        ("TENANT_CONFIG_TABLE", "tenants"),
        ("SQS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/111111111111/logferry"),
        ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "arn:aws:iam::111111111111:role/central"),
    ];
    let output = logferry(&["worker"], &[&needed[..], variables].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains(words), "{text}");
}

#[test]
fn unusable_certificates_and_proxies_end_the_command() {
    let region = ("AWS_REGION", "us-east-1");
    ends(&[region, ("AWS_CA_BUNDLE", "/nowhere/ca.pem")], "AWS_CA_BUNDLE: /nowhere/ca.pem: No such file");
    ends(&[region, ("SSL_CERT_FILE", "/nowhere/ca.pem")], "SSL_CERT_FILE: \"/nowhere/ca.pem\": ");
    ends(&[region, ("HTTPS_PROXY", "http//user:secret@p:3128")], "HTTPS_PROXY: is not a proxy's URL");
}

/// The queue must be in the configured Region, whichever setting names the Region.
#[test]
fn a_queue_in_another_region_ends_the_command() {
    let words = "is in Region us-east-1, and calls go to eu-west-1";
    ends(&[("AWS_REGION", "eu-west-1")], words);
    ends(&[("AWS_DEFAULT_REGION", "eu-west-1")], words);
}
