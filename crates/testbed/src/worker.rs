//! Runs a worker as a process that gets its whole configuration from its environment. Its log goes to a file.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::{self, ErrorKind, PipeWriter},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

/// Longest time from the start to the log line with the address.
const START: Duration = Duration::from_secs(60);
/// Longest time that the worker's own endpoint may take to answer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Variables that every program needs to run. The worker inherits no others: above all, no real AWS credentials.
const INHERITED: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// A running worker. Dropping it kills the process; the log file stays.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    log: PathBuf,
}

/// The samples of a worker's `/metrics`.
#[derive(Clone, Debug)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Reads the samples from a worker's endpoint.
    ///
    /// # Errors
    /// No answer came, or a status other than 200.
    pub async fn read(address: SocketAddr) -> io::Result<Self> {
        let (status, text) = http_get(address, "/metrics").await?;
        if status != 200 {
            return Err(io::Error::other(format!("/metrics answers {status}: {text}")));
        }
        Ok(Self::parse(&text))
    }

    /// Reads the samples from a text of Prometheus.
    pub fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// Value of the sample with this name and these labels, such as `name{label="value"}`; 0 if there is no such sample.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Returns whether there is a sample with this name and these labels, which are written as for [`Samples::get`].
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names of all samples, with their labels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Sum of a metric over all labels.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = |sample: &str| {
            sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.0.iter().filter(|(sample, _)| of_name(sample)).map(|(_, value)| value).sum()
    }
}

/// A failure of a worker's process.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// Path of the program.
        program: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The log file cannot be written or read.
    #[error("cannot use the log file {path}")]
    Log {
        /// Path of the file.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The worker ended without being asked to.
    #[error("the worker ended by itself: {0}")]
    Ended(ExitStatus),
    /// The worker ended with an error after SIGTERM.
    #[error("the worker did not exit 0 on SIGTERM: {0}")]
    Failed(ExitStatus),
    /// The worker missed a deadline.
    #[error("the worker did not {what} within {limit:?}")]
    Late {
        /// The action that it should have taken, as an infinitive.
        what: &'static str,
        /// Time limit.
        limit: Duration,
    },
    /// The operating system refused a request.
    #[error("cannot control the worker's process")]
    System(#[from] io::Error),
}

/// Log line with the address of the worker's endpoint.
#[derive(Deserialize)]
struct Listening {
    #[serde(rename = "http.listen")]
    address: SocketAddr,
}

impl WorkerProcess {
    /// Starts `program worker`. `log` must not exist yet. Ctrl-C reaches both the worker and the process that starts it.
    ///
    /// # Errors
    /// [`WorkerError::Start`] or [`WorkerError::Log`].
    pub fn start(
        program: &Path,
        environment: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
        log: PathBuf,
    ) -> Result<Self, WorkerError> {
        Self::spawn(Command::new(program), program, environment, log, None)
    }

    /// Starts `program worker` with its log written to `pipe`. The reader of the pipe must copy to `log` the line that
    /// [`WorkerProcess::listening`] waits for.
    ///
    /// # Errors
    /// [`WorkerError::Start`] or [`WorkerError::Log`].
    pub fn start_piped(
        program: &Path,
        environment: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
        log: PathBuf,
        pipe: PipeWriter,
    ) -> Result<Self, WorkerError> {
        Self::spawn(Command::new(program), program, environment, log, Some(pipe))
    }

    /// Starts `program worker` in a process group of its own. Ctrl-C does not reach the worker; the process that starts
    /// it must stop it.
    ///
    /// # Errors
    /// [`WorkerError::Start`] or [`WorkerError::Log`].
    pub fn start_apart(
        program: &Path,
        environment: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
        log: PathBuf,
    ) -> Result<Self, WorkerError> {
        let mut command = Command::new(program);
        command.process_group(0);
        Self::spawn(command, program, environment, log, None)
    }

    fn spawn(
        mut command: Command,
        program: &Path,
        environment: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
        log: PathBuf,
        pipe: Option<PipeWriter>,
    ) -> Result<Self, WorkerError> {
        let no_log = |source| WorkerError::Log { path: log.display().to_string(), source };
        let file = fs::File::create_new(&log).map_err(no_log)?;
        let inherited = INHERITED.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
        let child = command
            .arg("worker")
            .env_clear()
            .envs(inherited)
            .envs(environment.iter().map(|(name, value)| (name.as_ref(), value.as_ref())))
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(no_log)?)
            .stderr(pipe.map_or_else(|| Stdio::from(file), Stdio::from))
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| WorkerError::Start { program: program.display().to_string(), source })?;
        Ok(Self { child, log })
    }

    /// Waits for the log line with the worker's address and returns the address.
    ///
    /// # Errors
    /// The worker ended, or took too long.
    pub async fn listening(&mut self) -> Result<SocketAddr, WorkerError> {
        let started = Instant::now();
        loop {
            let log = self.read_log()?;
            if let Some(line) = log.lines().find_map(|line| serde_json::from_str::<Listening>(line).ok()) {
                return Ok(line.address);
            }
            self.check_runs()?;
            if started.elapsed() > START {
                return Err(WorkerError::Late { what: "log its address", limit: START });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Process id; `None` after a method of this type has found that the process ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Path of the log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Reads the log so far.
    ///
    /// # Errors
    /// [`WorkerError::Log`].
    pub fn read_log(&self) -> Result<String, WorkerError> {
        match fs::read(&self.log) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(source) => Err(WorkerError::Log { path: self.log.display().to_string(), source }),
        }
    }

    /// The last lines of the log; empty if it cannot be read.
    pub fn last_lines(&self, count: usize) -> String {
        let text = self.read_log().unwrap_or_default();
        let mut lines: Vec<_> = text.lines().rev().take(count).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Checks that the worker has not ended.
    ///
    /// # Errors
    /// [`WorkerError::Ended`].
    pub fn check_runs(&mut self) -> Result<(), WorkerError> {
        match self.child.try_wait()? {
            Some(status) => Err(WorkerError::Ended(status)),
            None => Ok(()),
        }
    }

    /// Waits for the worker to end without being asked to.
    ///
    /// # Errors
    /// Always, because the function returns only after the worker has ended.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        Err(WorkerError::Ended(self.child.wait().await?))
    }

    /// Kills the worker with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// The worker had ended before.
    pub async fn kill(&mut self) -> Result<(), WorkerError> {
        self.check_runs()?;
        self.child.kill().await?;
        Ok(())
    }

    /// Sends a signal, given by its name without `SIG`.
    ///
    /// # Errors
    /// The worker has ended, or there is no shell.
    pub fn signal(&self, name: &str) -> Result<(), WorkerError> {
        // `Child::id` returns no id after the process was waited for, so the id cannot belong to another process. `kill` is
        // built into the shell.
        let id = self.id().ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the worker has ended"))?;
        let mut kill = std::process::Command::new("sh");
        kill.args(["-c", "kill -\"$0\" \"$1\"", name, &id.to_string()]);
        match kill.status()?.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("SIG{name} cannot be sent")).into()),
        }
    }

    /// Sends SIGTERM and waits for the worker to drain. Returns how long it took.
    ///
    /// # Errors
    /// The worker had ended before, did not end in time, or exited with another status than 0.
    pub async fn stop(&mut self, limit: Duration) -> Result<Duration, WorkerError> {
        let started = Instant::now();
        self.check_runs()?;
        self.signal("TERM")?;
        self.drained(limit).await?;
        Ok(started.elapsed())
    }

    /// Waits for the worker to end after SIGTERM.
    ///
    /// # Errors
    /// The worker did not end in time, or exited with another status than 0.
    pub async fn drained(&mut self, limit: Duration) -> Result<(), WorkerError> {
        match self.exit_status(limit).await? {
            status if status.success() => Ok(()),
            status => Err(WorkerError::Failed(status)),
        }
    }

    /// Waits for the worker to end, with any status.
    ///
    /// # Errors
    /// The worker did not end in time.
    pub async fn exit_status(&mut self, limit: Duration) -> Result<ExitStatus, WorkerError> {
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        Ok(status.map_err(|_| WorkerError::Late { what: "end", limit })??)
    }
}

/// Sends one GET to a worker's endpoint over a new connection. Returns status and body.
///
/// # Errors
/// No answer, or the answer is not HTTP.
pub async fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let HttpAnswer { status, body, .. } = http_get_as(address, path, "*/*").await?;
    Ok((status, body))
}

/// An answer of a worker's own endpoint.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// The value of `Content-Type`; empty if there is none.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// Sends a GET with this `Accept` header to a worker's own endpoint, and closes the connection.
///
/// # Errors
/// No answer, or one that is not HTTP.
pub async fn http_get_as(address: SocketAddr, path: &str, accept: &str) -> io::Result<HttpAnswer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(HTTP_TIMEOUT, exchange).await.map_err(|_| ErrorKind::TimedOut)??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP: {answer:?}")))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    Ok(HttpAnswer {
        status,
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_owned(),
    })
}
