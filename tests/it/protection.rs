//! A worker that is a task of ECS protects itself from scale-in through ECS's agent, and delivers as well without an answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    eventually::eventually,
    gate::Gate,
    setup::Setup,
    worker::{Worker, logferry},
};

const PATH: &str = "/api/0123-4567/task-protection/v1/state";
const LOGS_ENDPOINT: &str = "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS";

/// How the agent answers.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// As ECS does when it changes the protection.
    Well,
    /// With this status and body.
    With(&'static str, &'static str),
    /// Never.
    Not,
    /// It closes the connection in the middle of the answer.
    HalfWay,
}

/// ECS's agent beside a task.
struct Agent {
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    calls: Arc<Mutex<Vec<(Instant, Value)>>>,
    unexpected: Arc<AtomicUsize>,
    _server: AbortOnDropHandle<()>,
}

impl Agent {
    async fn new(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let (calls, unexpected) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicUsize>::default());
        let answers = Arc::new(Mutex::new(answers));
        let (log, strange, chosen) = (Arc::clone(&calls), Arc::clone(&unexpected), Arc::clone(&answers));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, strange) = (Arc::clone(&log), Arc::clone(&strange));
                let answers = *chosen.lock().expect("nothing panics while it is locked");
                tokio::spawn(async move {
                    if serve(stream, answers, &log).await.is_none() {
                        strange.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, answers, calls, unexpected, _server: AbortOnDropHandle::new(server) }
    }

    fn variable(&self) -> String {
        format!("http://{}/api/0123-4567", self.address)
    }

    /// Answers the next calls in this way.
    fn answer(&self, answers: Answers) {
        *self.answers.lock().expect("nothing panics while it is locked") = answers;
    }

    fn log(&self) -> MutexGuard<'_, Vec<(Instant, Value)>> {
        self.calls.lock().expect("nothing panics while it is locked")
    }

    /// The bodies of all calls.
    fn calls(&self) -> Vec<Value> {
        assert_eq!(self.unexpected.load(Ordering::Relaxed), 0, "each request is one that ECS's agent knows");
        self.log().iter().map(|(_, body)| body.clone()).collect()
    }
}

/// Reads a request, notes its body and answers. Returns `None` if the request is none that the agent knows.
async fn serve(mut stream: TcpStream, answers: Answers, log: &Mutex<Vec<(Instant, Value)>>) -> Option<()> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    let body: Value = loop {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        received.extend_from_slice(&buffer[..read]);
        let text = str::from_utf8(&received).ok()?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
        if body.len() < length {
            continue;
        }
        let is_known = head.starts_with(&format!("put {PATH} http/1.1"))
            && head.contains("\r\ncontent-type: application/json");
        break serde_json::from_str(body).ok().filter(|_| is_known)?;
    };
    log.lock().expect("nothing panics while it is locked").push((Instant::now(), body.clone()));
    let protection = json!({ "protection": {
        "ExpirationDate": "2026-11-28T12:00:00Z", "ProtectionEnabled": body["ProtectionEnabled"],
        "TaskArn": "arn:aws:ecs:eu-central-1:111111111111:task/cluster/0123",
    }});
    let (status, answer) = match answers {
        Answers::Well | Answers::HalfWay => ("200 OK", protection.to_string()),
        Answers::With(status, answer) => (status, answer.to_owned()),
        Answers::Not => return std::future::pending().await,
    };
    let length = answer.len() + if matches!(answers, Answers::HalfWay) { 10 } else { 0 };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{answer}");
    // The worker may have ended.
    let _ = stream.write_all(answer.as_bytes()).await;
    Some(())
}

async fn uploaded_and_delivered(setup: &Setup, worker: &Worker, number: usize) {
    setup.upload_generated(&format!("acme/c/app/pod/{number}.json.gz"), 20, 100).await;
    setup.acknowledged(worker, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_is_protected_from_the_first_message_until_it_is_idle() {
    let setup = Setup::new("protected").await;
    setup.customer("acme").await;
    let agent = Agent::new(Answers::Well).await;
    let gate = Gate::new(&setup.aws.endpoint, 100_000).await;
    let variables = [("ECS_AGENT_URI", &*agent.variable()), (LOGS_ENDPOINT, gate.endpoint())];
    let worker = setup.worker_with(&variables).await;
    worker.ready().await;
    assert_eq!(agent.calls(), [Value::Null; 0]);
    assert_eq!(worker.metrics().await.get("logferry_task_protected"), 0.0);
    setup.upload_generated("acme/c/app/pod/1.json.gz", 400, 20_000).await;
    worker.reaches("logferry_task_protected", 1.0).await;
    let protect = json!({ "ProtectionEnabled": true, "ExpiresInMinutes": 10 });
    assert_eq!(agent.calls(), [protect.clone()]);
    gate.open();
    setup.acknowledged(&worker, 1).await;
    let done = Instant::now();
    uploaded_and_delivered(&setup, &worker, 2).await;
    assert_eq!(agent.calls(), [protect.clone()], "a task that was just busy is still protected");
    let counted = "logferry_task_protection_calls_total{result=\"cleared\"}";
    worker.reaches(counted, 1.0).await;
    assert_eq!(agent.calls(), [protect.clone(), json!({ "ProtectionEnabled": false })]);
    assert!(agent.log()[1].0 - done > Duration::from_secs(25), "the protection outlasts short pauses");
    assert_eq!(worker.metrics().await.get("logferry_task_protected"), 0.0);
    uploaded_and_delivered(&setup, &worker, 3).await;
    worker.reaches("logferry_task_protection_calls_total{result=\"protected\"}", 2.0).await;
    assert_eq!(agent.calls().len(), 3);
    // The task ends; ECS would refuse a call now.
    worker.stop().await;
    assert_eq!(agent.calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_do_not_need_the_agent() {
    let refusal = r#"{"failure":{"Arn":"arn:aws:ecs:eu-central-1:111111111111:task/c/0","Detail":null,"Reason":"TASK_NOT_VALID"}}"#;
    let denied = r#"{"requestID":"0-1","error":{"Arn":"a","Code":"AccessDeniedException","Message":"no identity-based policy allows the ecs:UpdateTaskProtection action"}}"#;
    let canceled = r#"{"error":{"Arn":"a","Code":"RequestCanceled","Message":"Timed out calling ECS Task Protection API"}}"#;
    for (name, answers, words) in [
        (
            "refused",
            Answers::With("200 OK", refusal),
            "refuses to change the task's protection: TASK_NOT_VALID",
        ),
        (
            "denied",
            Answers::With("400 Bad Request", denied),
            "400 Bad Request: AccessDeniedException: no identity-based",
        ),
        (
            "canceled",
            Answers::With("504 Gateway Timeout", canceled),
            "does not answer: 504 Gateway Timeout: RequestCanceled",
        ),
        ("nonsense", Answers::With("200 OK", "hello"), "does not answer: 200 OK"),
        ("half", Answers::HalfWay, "does not answer: the request failed"),
        ("silent", Answers::Not, "does not answer: no answer within 10 s"),
    ] {
        let setup = Setup::new(&format!("agent-{name}")).await;
        setup.customer("acme").await;
        let agent = Agent::new(answers).await;
        let worker = setup.worker_with(&[("ECS_AGENT_URI", &agent.variable())]).await;
        worker.ready().await;
        let began = Instant::now();
        for number in 1..=3 {
            uploaded_and_delivered(&setup, &worker, number).await;
        }
        if name == "silent" {
            assert!(
                began.elapsed() < Duration::from_secs(8),
                "{:?}: the messages did not wait",
                began.elapsed()
            );
        }
        worker.reaches("logferry_task_protection_calls_total{result=\"failed\"}", 1.0).await;
        assert_eq!(agent.calls()[0], json!({ "ProtectionEnabled": true, "ExpiresInMinutes": 10 }), "{name}");
        assert_eq!(worker.metrics().await.get("logferry_task_protected"), 0.0, "{name}");
        let warnings: Vec<_> = worker
            .log_lines()
            .into_iter()
            .filter(|line| {
                line["level"] == "WARN"
                    && line["message"].as_str().is_some_and(|text| text.contains("protection from scale-in"))
            })
            .collect();
        assert_eq!(warnings.len(), 1, "{name}: {warnings:?}");
        assert!(
            warnings[0]["error"].as_str().is_some_and(|text| text.contains(words)),
            "{name}: {warnings:?}"
        );
        worker.stop().await;
    }
}

/// The protection that may be there after a lost answer is ended, and the log tells once that calls succeed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_answers_again_is_told_of_in_the_log() {
    let setup = Setup::new("agent-again").await;
    setup.customer("acme").await;
    let agent = Agent::new(Answers::With("500 Internal Server Error", "")).await;
    let worker = setup.worker_with(&[("ECS_AGENT_URI", &agent.variable())]).await;
    uploaded_and_delivered(&setup, &worker, 1).await;
    worker.reaches("logferry_task_protection_calls_total{result=\"failed\"}", 1.0).await;
    agent.answer(Answers::Well);
    worker.reaches("logferry_task_protection_calls_total{result=\"cleared\"}", 1.0).await;
    eventually("the log tells", async || {
        let lines = worker.log_lines();
        let told = lines
            .iter()
            .filter(|line| line["message"].as_str().is_some_and(|text| text.contains("changed again")));
        if told.count() == 1 { Ok(()) } else { Err(worker.log()) }
    })
    .await;
    worker.stop().await;
}

#[test]
fn an_address_that_cannot_be_the_agents_is_refused() {
    let environment = [
        ("AWS_REGION", "eu-central-1"),
        ("SQS_QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/111111111111/logs"),
        ("TENANT_CONFIG_TABLE", "tenants"),
        ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "arn:aws:iam::111111111111:role/central"),
        ("LOGFERRY_HTTP__LISTEN", "127.0.0.1:0"),
        ("ECS_AGENT_URI", "169.254.170.2/api/0123"),
    ];
    let output = logferry(&["worker"], &environment);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("ECS_AGENT_URI: \"169.254.170.2/api/0123\" is not an address"), "{told}");
}
