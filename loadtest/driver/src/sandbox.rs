//! Runs the sandbox as a process of its own, and talks to it.
//!
//! The process prints its endpoint on a line. Each input line has account ids, separated by spaces. The process answers it with
//! one line: a JSON array with the totals accepted in each account. When the instrument ends, so does the input, and the process
//! ends too.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use logferry_sandbox::{QueueCounts, Sandbox, Totals};
use logferry_testbed::worker::http_send;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::usage::{self, Usage};

/// Number of calls by `service:Operation`.
pub(crate) type Calls = BTreeMap<String, u64>;

/// [`Totals`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    events: u64,
    bytes: u64,
    hash: u64,
    puts: u64,
}

/// Runs the sandbox in its counting mode until its input ends.
///
/// # Errors
/// No port is free, or the reader of its output is gone.
pub(crate) async fn serve_counting() -> anyhow::Result<()> {
    let sandbox = start().await?;
    sandbox.set_count_only();
    serve(sandbox).await
}

/// Runs the sandbox until its input ends. Events can be read back.
///
/// # Errors
/// No port is free, or the reader of its output is gone.
pub(crate) async fn serve_keeping() -> anyhow::Result<()> {
    serve(start().await?).await
}

async fn start() -> anyhow::Result<Sandbox> {
    Sandbox::start().await.context("no port is free on the loopback address")
}

async fn serve(sandbox: Sandbox) -> anyhow::Result<()> {
    // Reading and writing pipes blocks; the server has threads of its own.
    tokio::task::spawn_blocking(move || answer(&sandbox)).await?
}

fn answer(sandbox: &Sandbox) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{}", sandbox.endpoint())?;
    for accounts in io::stdin().lines() {
        let accounts = accounts?;
        let lines = accounts.split_whitespace().map(|account| {
            let Totals { events, bytes, hash, puts } = sandbox.totals(account);
            Line { events, bytes, hash, puts }
        });
        writeln!(output, "{}", serde_json::to_string(&lines.collect::<Vec<_>>())?)?;
    }
    Ok(())
}

/// A running sandbox process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct SandboxProcess {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    endpoint: String,
}

impl SandboxProcess {
    /// Starts this same program as a sandbox in its counting mode.
    ///
    /// # Errors
    /// The process does not start.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(&["sandbox"]).await
    }

    /// Starts this same program as a sandbox whose events can be read back.
    ///
    /// # Errors
    /// The process does not start.
    pub(crate) async fn start_keeping() -> anyhow::Result<Self> {
        Self::start_with(&["sandbox", "--keep"]).await
    }

    async fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the sandbox")?;
        let input = child.stdin.take().context("the sandbox's input is not piped")?;
        let mut output =
            BufReader::new(child.stdout.take().context("the sandbox's output is not piped")?).lines();
        let endpoint = output.next_line().await?.context("the sandbox ended at once")?;
        Ok(Self { child, input, output, endpoint })
    }

    /// CPU time and memory of the process so far.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage::of_process(self.child.id().context("the sandbox has ended")?)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Totals accepted so far in each of these accounts.
    ///
    /// # Errors
    /// The sandbox has ended.
    pub(crate) async fn totals(&mut self, accounts: &[String]) -> anyhow::Result<Vec<Totals>> {
        self.input.write_all(format!("{}\n", accounts.join(" ")).as_bytes()).await?;
        let answer = self.output.next_line().await?.context("the sandbox has ended")?;
        let lines: Vec<Line> = serde_json::from_str(&answer)?;
        let totals = |Line { events, bytes, hash, puts }| Totals { events, bytes, hash, puts };
        Ok(lines.into_iter().map(totals).collect())
    }

    /// Number of calls so far.
    ///
    /// # Errors
    /// The sandbox does not answer.
    pub(crate) async fn calls(&self) -> anyhow::Result<Calls> {
        Ok(serde_json::from_str(&self.control("GET", "calls", String::new()).await?)?)
    }

    /// Throttles every PutLogEvents of the account from now on.
    ///
    /// # Errors
    /// The sandbox does not answer, or refuses.
    pub(crate) async fn throttle(&self, account: &str) -> anyhow::Result<()> {
        let error = json!({ "status": 400, "code": "ThrottlingException", "message": "Rate exceeded" });
        self.spoil_puts(account, json!({ "error": error })).await
    }

    /// Delays every PutLogEvents of the account by this time from now on.
    ///
    /// # Errors
    /// The sandbox does not answer, or refuses.
    pub(crate) async fn slow_down(&self, account: &str, by: Duration) -> anyhow::Result<()> {
        self.spoil_puts(account, json!({ "latency": { "milliseconds": by.as_millis() } })).await
    }

    async fn spoil_puts(&self, account: &str, effect: Value) -> anyhow::Result<()> {
        let fault = json!({
            "service": "logs", "operation": "PutLogEvents", "account": account, "effect": effect,
        });
        let answer = self.control("POST", "faults", fault.to_string()).await?;
        ensure!(answer.contains("\"id\""), "the sandbox refuses the fault: {answer}");
        Ok(())
    }

    /// Limits how many messages of the queue may be in flight.
    ///
    /// # Errors
    /// The sandbox does not answer, or has no such queue.
    pub(crate) async fn set_in_flight_quota(&self, queue_arn: &str, messages: u64) -> anyhow::Result<()> {
        let limits = json!({ "in_flight": messages }).to_string();
        let answer = self.control("POST", &format!("queues/{queue_arn}"), limits).await?;
        ensure!(answer.contains("\"ok\""), "the sandbox refuses the quota: {answer}");
        Ok(())
    }

    /// Counts of the queue's messages.
    ///
    /// # Errors
    /// The sandbox does not answer, or has no such queue.
    pub(crate) async fn queue_counts(&self, queue_arn: &str) -> anyhow::Result<QueueCounts> {
        let answer = self.control("GET", &format!("queues/{queue_arn}"), String::new()).await?;
        serde_json::from_str(&answer).with_context(|| format!("the sandbox returns no counts: {answer}"))
    }

    /// Makes an unsigned request and returns the body of the answer.
    async fn control(&self, method: &'static str, path: &str, body: String) -> anyhow::Result<String> {
        let address = self.endpoint.trim_start_matches("http://").parse()?;
        let (_, answer) = http_send(address, method, &format!("/_sandbox/{path}"), &body).await?;
        Ok(answer)
    }
}
