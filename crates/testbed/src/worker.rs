//! The worker as a process of its own, told nothing but its environment. Its log goes to a file.

use std::{
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

/// How long it may take until it listens.
const START: Duration = Duration::from_secs(60);
/// How long its own endpoint may take to answer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What a program needs from the environment to run at all; the rest, any real AWS credentials first, is kept from it.
const INHERITED: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// A running worker; dropping it kills it. The file of its log stays.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    log: PathBuf,
}

/// What went wrong with a worker's process.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// Its file.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its log cannot be written or read.
    #[error("cannot use the log file {path}")]
    Log {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended though nobody asked it to.
    #[error("the worker ended by itself: {0}")]
    Ended(ExitStatus),
    /// It was asked to end and has ended with an error.
    #[error("the worker did not exit 0 on SIGTERM: {0}")]
    Failed(ExitStatus),
    /// It takes too long.
    #[error("the worker did not {what} within {limit:?}")]
    Late {
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The system refuses.
    #[error("the worker's process cannot be reached")]
    System(#[from] io::Error),
}

/// The line by which a worker says where it listens.
#[derive(Deserialize)]
struct Listening {
    #[serde(rename = "http.listen")]
    address: SocketAddr,
}

impl WorkerProcess {
    /// Starts `program worker`; `log` must not be there yet. Ctrl-C reaches it as well as its starter.
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

    /// The same, its log written to `pipe`. Whoever reads the pipe writes to `log` what [`WorkerProcess::listening`] looks for.
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

    /// The same in a process group of its own: Ctrl-C is for the starter alone, which has to stop it.
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

    /// Waits until it has logged where it listens.
    ///
    /// # Errors
    /// It ended, or it took too long.
    pub async fn listening(&mut self) -> Result<SocketAddr, WorkerError> {
        let started = Instant::now();
        loop {
            let log = self.read_log()?;
            if let Some(line) = log.lines().find_map(|line| serde_json::from_str::<Listening>(line).ok()) {
                return Ok(line.address);
            }
            self.check_runs()?;
            if started.elapsed() > START {
                return Err(WorkerError::Late { what: "say where it listens", limit: START });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Its process id, as long as it has not been seen to end.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The file of its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its log so far.
    ///
    /// # Errors
    /// [`WorkerError::Log`].
    pub fn read_log(&self) -> Result<String, WorkerError> {
        match fs::read(&self.log) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(source) => Err(WorkerError::Log { path: self.log.display().to_string(), source }),
        }
    }

    /// The last lines of its log; nothing if it cannot be read.
    pub fn last_lines(&self, count: usize) -> String {
        let text = self.read_log().unwrap_or_default();
        let mut lines: Vec<_> = text.lines().rev().take(count).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Says so if it has ended, which nobody asked for.
    ///
    /// # Errors
    /// [`WorkerError::Ended`].
    pub fn check_runs(&mut self) -> Result<(), WorkerError> {
        match self.child.try_wait()? {
            Some(status) => Err(WorkerError::Ended(status)),
            None => Ok(()),
        }
    }

    /// Waits for an end that nobody asked for.
    ///
    /// # Errors
    /// Always: there is no other way out.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        Err(WorkerError::Ended(self.child.wait().await?))
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// It had ended before, which nobody asked for.
    pub async fn kill(&mut self) -> Result<(), WorkerError> {
        self.check_runs()?;
        self.child.kill().await?;
        Ok(())
    }

    /// Sends that signal, by its name without `SIG`.
    ///
    /// # Errors
    /// It has ended, or there is no shell.
    pub fn signal(&self, name: &str) -> Result<(), WorkerError> {
        // Not yet waited for, so the id is still the worker's. The shell's own kill needs no other program.
        let id = self.id().ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the worker has ended"))?;
        let mut kill = std::process::Command::new("sh");
        kill.args(["-c", "kill -\"$0\" \"$1\"", name, &id.to_string()]);
        match kill.status()?.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("SIG{name} cannot be sent")).into()),
        }
    }

    /// Sends SIGTERM and waits until it has drained; says how long that took.
    ///
    /// # Errors
    /// It has ended before, or did not end in time, or not with 0.
    pub async fn stop(&mut self, limit: Duration) -> Result<Duration, WorkerError> {
        let started = Instant::now();
        self.check_runs()?;
        self.signal("TERM")?;
        self.drained(limit).await?;
        Ok(started.elapsed())
    }

    /// Waits until it has ended after a SIGTERM.
    ///
    /// # Errors
    /// It did not end in time, or not with 0.
    pub async fn drained(&mut self, limit: Duration) -> Result<(), WorkerError> {
        match self.exit_status(limit).await? {
            status if status.success() => Ok(()),
            status => Err(WorkerError::Failed(status)),
        }
    }

    /// Waits until it has ended, however it ends.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn exit_status(&mut self, limit: Duration) -> Result<ExitStatus, WorkerError> {
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        Ok(status.map_err(|_| WorkerError::Late { what: "end", limit })??)
    }
}

/// One GET of a worker's own endpoint, over a connection of its own: status and body.
///
/// # Errors
/// It does not answer, or no HTTP.
pub async fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(HTTP_TIMEOUT, exchange).await.map_err(|_| ErrorKind::TimedOut)??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    status
        .map(|status| (status, body.to_owned()))
        .ok_or_else(|| io::Error::other(format!("no HTTP: {answer:?}")))
}
