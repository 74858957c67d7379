//! A page in headless Chromium, asked over the pipe of the DevTools protocol: JSON texts that end with NUL.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{optional::runs, target::unique};

/// Passes standard input and output on as the descriptors 3 and 4, which the protocol uses.
const WITH_PIPE: &str = "exec chromium \"$@\" 3<&0 4>&1 >&2";

/// A command that starts Chromium with these arguments.
fn chromium(arguments: &[String]) -> Command {
    let profile = format!("--user-data-dir={}/chromium-{}", env!("CARGO_TARGET_TMPDIR"), unique());
    let mut command = Command::new("sh");
    command
        .args(["-c", WITH_PIPE, "chromium", &profile])
        // A container has no namespaces for the browser's own sandbox.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Returns whether there is a Chromium.
pub(super) fn is_installed() -> bool {
    runs("chromium".as_ref(), "LOGFERRY_REQUIRE_CHROMIUM", "observability/screenshot")
}

/// Runs Chromium to its end.
pub(super) async fn run(arguments: &[String]) {
    let ended = chromium(arguments).stdin(Stdio::null()).output().await.expect("there is a shell");
    assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// A page that stays open.
pub(super) struct OpenPage {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Value,
    asked: u64,
}

impl OpenPage {
    pub(super) async fn new(url: &str) -> Self {
        let mut child = chromium(&["--remote-debugging-pipe".to_owned()]).spawn().expect("there is a shell");
        let requests = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut page = Self { child, requests, answers, session: Value::Null, asked: 0 };
        let target = page.ask("Target.createTarget", json!({ "url": url })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        page.session = page.ask("Target.attachToTarget", attach).await["sessionId"].clone();
        page
    }

    /// Value of an expression in the page.
    pub(super) async fn value(&mut self, expression: &str) -> Value {
        let evaluate = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.ask("Runtime.evaluate", evaluate).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.asked += 1;
        let mut request = json!({ "id": self.asked, "method": method, "params": parameters });
        if !self.session.is_null() {
            request["sessionId"] = self.session.clone();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).await.expect("Chromium reads");
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer).await.expect("Chromium answers");
            let mut answer: Value =
                serde_json::from_slice(answer.strip_suffix(b"\0").expect("Chromium runs")).expect("JSON");
            // Chromium also sends events, which have no id.
            if answer["id"] == self.asked {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// Ends Chromium. Returns what it wrote to its log.
    pub(super) async fn end(mut self) -> String {
        self.child.start_kill().expect("it runs");
        let output = self.child.wait_with_output().await.expect("its log can be read");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}
