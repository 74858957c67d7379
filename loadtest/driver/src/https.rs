//! Terminates TLS in front of the sandbox, so that a worker calls the sandbox by HTTPS, as it calls AWS.

use std::{env, fs, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use rcgen::CertifiedKey;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer, version::TLS13},
};

/// The only name in the certificate.
const HOST: &str = "localhost";
/// Most bytes that are copied at once: a full TLS record.
const RECORD: usize = 16 << 10;

/// A TLS 1.3 server that copies the bytes of each connection to and from the sandbox. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Https {
    endpoint: String,
    /// File with the certificate.
    bundle: PathBuf,
    _server: JoinSet<()>,
}

impl Https {
    /// Starts the server, with a new certificate, in front of the sandbox at `endpoint`.
    ///
    /// # Errors
    /// Loopback has no free port, or the certificate cannot be written into the system's temporary directory.
    pub(crate) async fn start(endpoint: &str) -> anyhow::Result<Self> {
        let sandbox = endpoint.trim_start_matches("http://").parse()?;
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("https://{HOST}:{}", listener.local_addr()?.port());
        let bundle = env::temp_dir().join(format!("logferry-loadtest-{:016x}.pem", fastrand::u64(..)));
        fs::write(&bundle, cert.pem()).with_context(|| format!("cannot write {}", bundle.display()))?;
        let mut server = JoinSet::new();
        server.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), sandbox));
        Ok(Self { endpoint, bundle, _server: server })
    }

    /// Variables of a worker that calls the sandbox through this server. They replace the sandbox's own endpoint.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        [("AWS_ENDPOINT_URL", self.endpoint.clone()), ("AWS_CA_BUNDLE", self.bundle.display().to_string())]
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        // The system clears its temporary directory anyway.
        let _ = fs::remove_file(&self.bundle);
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, sandbox: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        // Without a file descriptor for a further connection the run fails, because its events do not arrive.
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(forward(client, acceptor.clone(), sandbox));
        while connections.try_join_next().is_some() {}
    }
}

/// Copies until one side closes its connection. The other side sees its own connection end, whatever the reason.
async fn forward(client: TcpStream, acceptor: TlsAcceptor, sandbox: SocketAddr) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(sandbox).await?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, RECORD, RECORD).await?;
    Ok(())
}
