//! Runs operators' commands to their end.

use std::{collections::BTreeMap, process::Stdio};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::{secrets::assert_no_credentials, setup::Setup, worker::assert_plain};

/// An operator's surroundings: the provider's side, and the environment of the commands.
pub(crate) struct Operator {
    pub(crate) setup: Setup,
    pub(crate) environment: BTreeMap<String, String>,
}

impl Operator {
    /// Keeps AWS's own variables of a worker's environment and these settings of logferry.
    pub(crate) async fn with(setup: Setup, settings: &[&str]) -> Self {
        let mut environment = setup.environment().await;
        environment.retain(|name, _| name.starts_with("AWS_") || settings.contains(&name.as_str()));
        Self { setup, environment }
    }

    /// Runs a command of `logferry`.
    pub(crate) async fn run(&self, command: &str, arguments: &[&str]) -> Ended {
        run(&[&[command], arguments].concat(), &self.environment).await
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; `None` if a signal ended the command.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Checks that standard error contains these words.
    #[track_caller]
    pub(crate) fn saying(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in standard error: {self:?}");
        self
    }

    /// Parses standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }
}

/// Runs `logferry` with this environment and no other variable.
pub(crate) async fn run(arguments: &[&str], environment: &BTreeMap<String, String>) -> Ended {
    reading(arguments, environment, "").await
}

/// Runs `logferry` with this text on standard input.
pub(crate) async fn reading(
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
    stdin: &str,
) -> Ended {
    let mut child = start(arguments, environment);
    let mut input = child.stdin.take().expect("standard input is piped");
    // A command that reads nothing may have ended already.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    end(child).await
}

/// Starts the command without waiting for its end. Dropping the child kills it.
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

/// Sends a signal, given by its name without `SIG`, to a command that runs.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("the command runs").to_string();
    let kill = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status();
    assert!(kill.expect("the system has the program kill").success(), "kill -{name}");
}

/// Waits for the end of a command.
pub(crate) async fn end(child: Child) -> Ended {
    let output = child.wait_with_output().await.expect("the command can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ended =
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert_plain(&ended.stderr);
    assert_no_credentials(&ended.stdout, &[]);
    assert_no_credentials(&ended.stderr, &[]);
    ended
}
