//! The program under test, as a process of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Error, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

pub(crate) use logferry_testbed::worker::http_get;
use logferry_testbed::worker::{WorkerError, WorkerProcess};
use serde_json::Value;

use crate::{eventually::eventually, target::unique};

/// How long a worker may take to end.
const END: Duration = Duration::from_secs(60);

/// `logferry` with these arguments and nothing but this environment.
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

/// A running `logferry worker`; killed when dropped. Its log is shown if the test fails.
#[derive(Debug)]
pub(crate) struct Worker {
    process: WorkerProcess,
    address: SocketAddr,
}

impl Worker {
    /// Starts it with nothing but this environment, and waits until it says where it listens.
    pub(crate) async fn start(environment: &BTreeMap<String, String>) -> Self {
        let log = log_file();
        let environment: Vec<_> = environment.iter().collect();
        Self::listening(WorkerProcess::start(program(), &environment, log)).await
    }

    /// The same, its log read up to the line that says where it listens, and held open unread from there on.
    pub(crate) async fn start_unread(environment: &BTreeMap<String, String>) -> Self {
        let log = log_file();
        let environment: Vec<_> = environment.iter().collect();
        let (reader, writer) = std::io::pipe().expect("the system has pipes");
        let process = WorkerProcess::start_piped(program(), &environment, log.clone(), writer);
        std::thread::spawn(move || {
            let mut file = fs::OpenOptions::new().append(true).open(log).expect("it was created");
            let mut lines = BufReader::new(reader);
            let mut line = String::new();
            while !line.contains("\"http.listen\"") {
                line.clear();
                lines.read_line(&mut line).expect("the log is text");
                file.write_all(line.as_bytes()).expect("the disk has room");
            }
            // The program's end of the pipe must not break.
            std::mem::forget(lines);
        });
        Self::listening(process).await
    }

    async fn listening(process: Result<WorkerProcess, WorkerError>) -> Self {
        let process = process.expect("cargo built the program");
        let mut worker = Self { process, address: ([0, 0, 0, 0], 0).into() };
        worker.address = worker.process.listening().await.expect("the worker says where it listens");
        worker
    }

    fn log(&self) -> String {
        self.process.read_log().expect("the log can be read")
    }

    /// Its log so far, as far as the lines are JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until `/readyz` says yes.
    pub(crate) async fn ready(&self) {
        eventually("the worker is ready", async || match self.http_get("/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Asks the worker's own endpoint: status and body.
    pub(crate) async fn http_get(&self, path: &str) -> Result<(u16, String), Error> {
        http_get(self.address, path).await
    }

    /// Every sample of `/metrics` by its name and labels as written.
    pub(crate) async fn metrics(&self) -> Samples {
        let (status, text) = self.http_get("/metrics").await.expect("the endpoint answers");
        assert_eq!(status, 200, "{text}");
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Samples(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The most memory that it had resident at once, in bytes; `None` where there is no `/proc`.
    pub(crate) fn peak_rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()?)).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
        Some(peak.parse::<u64>().ok()? * 1024)
    }

    /// Descriptors that it has open; `None` where there is no `/proc`.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.process.id()?)).ok()?.count())
    }

    /// Where its endpoint listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends SIGTERM.
    pub(crate) fn sigterm(&self) {
        self.process.signal("TERM").expect("it runs");
    }

    /// Takes its time away, as a starved or suspended host does, until [`Worker::resume`].
    pub(crate) fn pause(&self) {
        self.process.signal("STOP").expect("it runs");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.process.signal("CONT").expect("it runs");
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.expect("it runs");
    }

    /// Waits until it has ended.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        self.process.exit_status(END).await.expect("the worker ends")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let log = self.process.read_log().unwrap_or_default();
        // An error means that somebody has tidied up before.
        let _ = fs::remove_file(self.process.log());
        match std::thread::panicking() {
            true => eprintln!("-- log of the worker\n{log}\n--"),
            false => log.lines().for_each(assert_plain),
        }
    }
}

/// Checks that a text for people shows nothing of Rust's own way to print values.
#[track_caller]
pub(crate) fn assert_plain(text: &str) {
    for debug in ["Some(", "Ok(", "Err(", "None,", "None }", " { "] {
        assert!(!text.contains(debug), "Rust's {debug:?} in a text for people: {text}");
    }
}

/// What `/metrics` said.
#[derive(Clone, Debug)]
pub(crate) struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// A sample, `name{label="value"}`; one that is not there counts as 0.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The sum of a metric over all its labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_name = |sample: &str| {
            sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.0.iter().filter(|(sample, _)| of_name(sample)).map(|(_, value)| value).sum()
    }
}

#[test]
fn rust_s_own_way_to_print_is_found() {
    for text in [
        "ExternalId Some(\"x\")",
        "Ok(3)",
        "Err(\"no\")",
        "RejectedEvents { too_old_end: None }",
        "a: None, b",
    ] {
        assert!(std::panic::catch_unwind(|| assert_plain(text)).is_err(), "{text}");
    }
    assert_plain("role r cannot be assumed: AccessDenied: no (check its trust policy, ExternalId \"x\")");
}
