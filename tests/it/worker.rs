//! The program under test, as a process of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Error, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use crate::eventually::eventually;

/// How long a request to the worker's own endpoint may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

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

/// A running `logferry worker`; killed when dropped. Its log is shown if the test fails.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Worker {
    /// Starts it with nothing but this environment, and waits until it says where it listens.
    pub(crate) async fn start(environment: &BTreeMap<String, String>) -> Self {
        Self::start_reading(environment, |_| true).await
    }

    /// The same, its log read while `go_on` says so of each line, and held open unread from there on.
    pub(crate) async fn start_reading(
        environment: &BTreeMap<String, String>,
        go_on: impl Fn(&str) -> bool + Send + 'static,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_logferry"))
            .arg("worker")
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo built the program");
        let stderr = child.stderr.take().expect("it is piped");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                let mut lines = BufReader::new(stderr).split(b'\n');
                for line in lines.by_ref().map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    let last = !go_on(&line);
                    log.lock().expect("nobody panics with it").push(line);
                    if last {
                        // The program's end of the pipe must not break.
                        return std::mem::forget(lines);
                    }
                }
            }
        });
        let mut worker = Self { child, log, reader: Some(reader), address: ([0, 0, 0, 0], 0).into() };
        worker.address = eventually("the worker says where it listens", async || {
            if let Ok(Some(status)) = worker.child.try_wait() {
                panic!("the worker ended with {status}");
            }
            let starts = worker.log_lines().into_iter().find(|line| line["http.listen"].is_string());
            let address = starts.as_ref().and_then(|line| line["http.listen"].as_str()?.parse().ok());
            address.ok_or_else(|| "no such line in its log".to_owned())
        })
        .await;
        worker
    }

    /// Its log so far, as far as the lines are JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let log = self.log.lock().expect("nobody panics with it");
        log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
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
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
        Some(peak.parse::<u64>().ok()? * 1024)
    }

    /// Descriptors that it has open; `None` where there is no `/proc`.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?.count())
    }

    /// Where its endpoint listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends SIGTERM.
    pub(crate) fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Takes its time away, as a starved or suspended host does, until [`Worker::resume`].
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        let status = status.expect("there is a kill");
        assert!(status.success(), "kill -{name}: {status}");
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.wait().await;
    }

    /// Waits until it has ended.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let status = eventually("the worker ends", async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
        .await;
        // Its last words.
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        status
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            if let Some(reader) = self.reader.take() {
                let _ = reader.join();
            }
            let log = self.log.lock().map(|log| log.join("\n")).unwrap_or_default();
            eprintln!("-- log of the worker\n{log}\n--");
            return;
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let log = self.log.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default();
        log.iter().for_each(|line| assert_plain(line));
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

/// One GET over a connection of its own: status and body.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String), Error> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let exchange = move || {
        let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
        stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, Error>(answer)
    };
    let answer = tokio::task::spawn_blocking(exchange).await.expect("it does not panic")?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    status.map(|status| (status, body.to_owned())).ok_or_else(|| Error::other(format!("no HTTP: {answer:?}")))
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
