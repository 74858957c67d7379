//! Runs the program under test as a process of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Error, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use logferry_sandbox::Sandbox;
pub(crate) use logferry_testbed::worker::{Samples, http_get, http_send};
use logferry_testbed::worker::{WorkerError, WorkerProcess, http_get_as};
use serde_json::Value;

use crate::{
    docs::assert_documented, eventually::eventually, secrets::assert_no_credentials, target::unique,
};

/// Longest time that a worker may take to end.
const END: Duration = Duration::from_secs(60);

/// Runs `logferry` with these arguments and this environment, and no other variable.
pub(crate) fn logferry(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_logferry"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("cargo built the program")
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_logferry"))
}

fn log_file() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("worker-{}-{}.log", std::process::id(), unique()))
}

/// A running `logferry worker`, killed when dropped. Its log is shown if the test fails, and searched for credentials otherwise.
#[derive(Debug)]
pub(crate) struct Worker {
    process: WorkerProcess,
    address: SocketAddr,
    /// Knows the credentials that it has issued.
    sandbox: Option<Arc<Sandbox>>,
}

impl Worker {
    /// Starts a worker with this environment, and no other variable, and waits until it has logged its address.
    pub(crate) async fn start(environment: &BTreeMap<String, String>, sandbox: Option<Arc<Sandbox>>) -> Self {
        let log = log_file();
        let environment: Vec<_> = environment.iter().collect();
        Self::listening(WorkerProcess::start(program(), &environment, log), sandbox).await
    }

    /// Starts a worker whose log is a pipe. The pipe is read up to the line with the address, and then stays open, unread.
    pub(crate) async fn start_unread(
        environment: &BTreeMap<String, String>,
        sandbox: Option<Arc<Sandbox>>,
    ) -> Self {
        let log = log_file();
        let environment: Vec<_> = environment.iter().collect();
        let (reader, writer) = std::io::pipe().expect("the system has pipes");
        let process = WorkerProcess::start_piped(program(), &environment, log.clone(), writer);
        std::thread::spawn(move || {
            let mut file = fs::OpenOptions::new().append(true).open(log).expect("the file was created");
            let mut lines = BufReader::new(reader);
            let mut line = String::new();
            while !line.contains("\"http.listen\"") {
                line.clear();
                lines.read_line(&mut line).expect("the log is text");
                file.write_all(line.as_bytes()).expect("the disk has room");
            }
            // Keeps the pipe open: dropping the reader would break the worker's end.
            std::mem::forget(lines);
        });
        Self::listening(process, sandbox).await
    }

    async fn listening(process: Result<WorkerProcess, WorkerError>, sandbox: Option<Arc<Sandbox>>) -> Self {
        let process = process.expect("cargo built the program");
        let mut worker = Self { process, address: ([0, 0, 0, 0], 0).into(), sandbox };
        worker.address = worker.process.listening().await.expect("the worker logs its address");
        worker
    }

    /// The whole log so far.
    pub(crate) fn log(&self) -> String {
        self.process.read_log().expect("the log can be read")
    }

    /// The lines of the log that are JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until `/readyz` answers with 200.
    pub(crate) async fn ready(&self) {
        eventually("the worker is ready", async || match self.http_get("/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Status code and body of `/readyz`.
    pub(crate) async fn readiness(&self) -> Result<(u16, Readiness), String> {
        let (status, body) = self.http_get("/readyz").await.map_err(|error| error.to_string())?;
        let body = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        Ok((status, Readiness(body)))
    }

    /// Sends a GET to the worker's endpoint. Returns status and body.
    pub(crate) async fn http_get(&self, path: &str) -> Result<(u16, String), Error> {
        http_get(self.address, path).await
    }

    /// Sends a GET with this `Accept` header. Returns the content type and the body.
    pub(crate) async fn http_get_as(&self, path: &str, accept: &str) -> (String, String) {
        let answer = http_get_as(self.address, path, accept).await.expect("the endpoint answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.content_type, answer.body)
    }

    /// All samples of `/metrics`, by name and labels as written. Checks that the page of metrics has them.
    pub(crate) async fn metrics(&self) -> Samples {
        let (status, text) = self.http_get("/metrics").await.expect("the endpoint answers");
        assert_eq!(status, 200, "{text}");
        assert_documented(&text);
        Samples::parse(&text)
    }

    /// Waits until the metrics fulfil a condition.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Samples) -> bool) {
        eventually(what, async || {
            let metrics = self.metrics().await;
            if holds(&metrics) { Ok(()) } else { Err(format!("{metrics:?}")) }
        })
        .await;
    }

    /// Waits until a metric is at least as large.
    pub(crate) async fn reaches(&self, name: &str, least: f64) {
        self.until(name, |metrics| metrics.get(name) >= least).await;
    }

    /// Highest resident memory in bytes; `None` where there is no `/proc`.
    pub(crate) fn peak_rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()?)).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
        Some(peak.parse::<u64>().ok()? * 1024)
    }

    /// Number of open descriptors; `None` where there is no `/proc`.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.process.id()?)).ok()?.count())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn sigterm(&self) {
        self.process.signal("TERM").expect("the worker runs");
    }

    /// Stops the process, as a suspended host would, until [`Worker::resume`].
    pub(crate) fn pause(&self) {
        self.process.signal("STOP").expect("the worker runs");
    }

    pub(crate) fn resume(&self) {
        self.process.signal("CONT").expect("the worker runs");
    }

    pub(crate) async fn kill(mut self) {
        self.process.kill().await.expect("the worker runs");
    }

    /// Lets the worker drain. No receive is left then that could take a message from the next worker.
    pub(crate) async fn stop(mut self) {
        self.sigterm();
        assert!(self.wait().await.success(), "{}", self.log());
    }

    pub(crate) async fn wait(&mut self) -> ExitStatus {
        self.process.exit_status(END).await.expect("the worker ends")
    }
}

/// Body of `/readyz` or `/healthz`.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(pub(crate) Value);

impl Readiness {
    /// The answer in a word.
    pub(crate) fn status(&self) -> &str {
        self.0["status"].as_str().unwrap_or_default()
    }

    /// Names of the degraded conditions.
    pub(crate) fn degraded(&self) -> Vec<&str> {
        let degraded = self.conditions().iter().filter(|condition| condition["status"] == "degraded");
        degraded.filter_map(|condition| condition["condition"].as_str()).collect()
    }

    /// The condition with this name.
    pub(crate) fn condition(&self, name: &str) -> &Value {
        let found = self.conditions().iter().find(|condition| condition["condition"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {}", self.0))
    }

    fn conditions(&self) -> &Vec<Value> {
        self.0["conditions"].as_array().expect("the body has conditions")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let log = self.process.read_log().unwrap_or_default();
        // The file may have been removed already.
        let _ = fs::remove_file(self.process.log());
        if std::thread::panicking() {
            eprintln!("-- log of the worker\n{log}\n--");
            return;
        }
        log.lines().for_each(assert_plain);
        let secrets = self.sandbox.as_ref().map(|sandbox| sandbox.session_secrets());
        assert_no_credentials(&log, &secrets.unwrap_or_default());
    }
}

/// Checks that a text for people contains no values in Rust's debug format.
#[track_caller]
pub(crate) fn assert_plain(text: &str) {
    for debug in ["Some(", "Ok(", "Err(", "None,", "None }", " { "] {
        assert!(!text.contains(debug), "Rust's {debug:?} in a text for people: {text}");
    }
}

#[test]
fn rusts_debug_format_is_noticed() {
    for text in [
        "ExternalId Some(\"x\")",
        "Ok(3)",
        "Err(\"no\")",
        "RejectedEvents { too_old_end: None }",
        "a: None, b",
    ] {
        assert!(std::panic::catch_unwind(|| assert_plain(text)).is_err(), "{text}");
    }
    assert_plain("role r cannot be assumed: AccessDenied: no (ExternalId \"x\" was sent)");
}
