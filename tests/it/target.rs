//! The AWS double that a test runs against.

pub(crate) mod ministack;

use std::sync::atomic::{AtomicU64, Ordering};

use logferry_sandbox::Sandbox;

/// One test's double; ministack is shared by all tests of the process, a sandbox is the test's own.
#[derive(Debug)]
pub(crate) struct Target {
    /// `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    /// The sandbox, if it is one.
    pub(crate) sandbox: Option<Sandbox>,
}

impl Target {
    /// The double that `LOGFERRY_TEST_TARGET` asks for.
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

    /// A sandbox, whatever the variable says.
    pub(crate) async fn sandbox() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        Self { endpoint: sandbox.endpoint(), sandbox: Some(sandbox) }
    }
}

/// A number that no other test of this process gets.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An account id that no other test of this process gets.
pub(crate) fn unique_account() -> String {
    format!("{:012}", 300_000_000_000 + unique())
}
