//! Operators' commands: the program runs to its end, and what it left behind is checked.

use std::{collections::BTreeMap, process::Stdio};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::worker::assert_plain;

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl Ended {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Checks that standard error says it.
    #[track_caller]
    pub(crate) fn saying(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not said: {self:?}");
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }
}

/// Runs `logferry` with nothing but this environment.
pub(crate) async fn run(arguments: &[&str], environment: &BTreeMap<String, String>) -> Ended {
    reading(arguments, environment, "").await
}

/// The same with something on standard input.
pub(crate) async fn reading(
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
    stdin: &str,
) -> Ended {
    let mut child = start(arguments, environment);
    let mut input = child.stdin.take().expect("it is piped");
    // A command that reads nothing may be gone already.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    end(child).await
}

/// Starts it and does not wait; killed when dropped.
pub(crate) fn start(arguments: &[&str], environment: &BTreeMap<String, String>) -> Child {
    Command::new(env!("CARGO_BIN_EXE_logferry"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("cargo built the program")
}

/// Waits for its end.
pub(crate) async fn end(child: Child) -> Ended {
    let output = child.wait_with_output().await.expect("it can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ended =
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert_plain(&ended.stderr);
    ended
}
