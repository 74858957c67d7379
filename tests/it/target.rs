//! The AWS double that a test runs against.

pub(crate) mod ministack;

use std::{
    fmt::Write,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use logferry_sandbox::{Needed, Sandbox};

/// Names a folder. Each test that ends writes the permissions that its calls to the sandbox needed into a file there.
const PERMISSIONS: &str = "LOGFERRY_PERMISSIONS";

/// The double of a test. All tests of the process share one ministack; a sandbox belongs to one test.
#[derive(Debug)]
pub(crate) struct Target {
    /// `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    /// The sandbox, unless the double is ministack.
    pub(crate) sandbox: Option<Arc<Sandbox>>,
}

impl Target {
    /// Returns the double that `LOGFERRY_TEST_TARGET` selects.
    pub(crate) async fn start() -> Self {
        match std::env::var("LOGFERRY_TEST_TARGET").as_deref() {
            Err(_) | Ok("" | "sandbox") => Self::sandbox().await,
            Ok("ministack") => {
                let shared = ministack::shared().await;
                let endpoint = shared.as_ref().expect("LOGFERRY_TEST_TARGET asks for ministack");
                Self { endpoint: endpoint.clone(), sandbox: None }
            }
            Ok(other) => panic!("LOGFERRY_TEST_TARGET is {other:?}, neither \"sandbox\" nor \"ministack\""),
        }
    }

    /// Starts a sandbox, whatever the variable selects.
    pub(crate) async fn sandbox() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        if std::env::var_os(PERMISSIONS).is_some() {
            sandbox.record_permissions();
        }
        Self { endpoint: sandbox.endpoint(), sandbox: Some(Arc::new(sandbox)) }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let (Some(sandbox), Some(folder)) = (&self.sandbox, std::env::var_os(PERMISSIONS)) else { return };
        let mut lines = String::new();
        for Needed { application, caller, action, resource } in sandbox.permissions() {
            // Other calls are those of the test itself.
            if application.starts_with("logferry-") {
                writeln!(lines, "{application}\t{caller}\t{action}\t{resource}")
                    .expect("a text takes every line");
            }
        }
        let file = Path::new(&folder).join(format!("{}-{}.tsv", std::process::id(), unique()));
        fs::write(file, lines).expect("the folder exists");
    }
}

/// A number that is unique within this process.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An account id that is unique within this process.
pub(crate) fn unique_account() -> String {
    format!("{:012}", 300_000_000_000 + unique())
}
