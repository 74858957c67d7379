//! Lambda's runtime API, a function that it starts, and the event source mapping between a queue and the function.
//!
//! As on Lambda, the process is stopped whenever it asks for an invocation and there is none.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, HeaderName, StatusCode},
    routing::{get, post},
};
use logferry_sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc, watch},
};

use crate::{
    eventually::eventually, secrets::assert_no_credentials, setup::Setup, target::unique,
    worker::assert_plain,
};

/// Longest wait for the function, besides its own timeout.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Invocation {
    id: String,
    deadline: u128,
    event: String,
}

/// The function's answer: the invocation's id, `response` or `error`, and the body.
type Answer = (String, String, String);

struct Api {
    invocations: Mutex<mpsc::Receiver<Invocation>>,
    answers: mpsc::Sender<Answer>,
    /// Number of times that the function asked for an invocation.
    asked: watch::Sender<usize>,
}

async fn next(State(api): State<Arc<Api>>) -> (HeaderMap, String) {
    let mut invocations = api.invocations.lock().await;
    api.asked.send_modify(|asked| *asked += 1);
    let Invocation { id, deadline, event } = invocations.recv().await.expect("the test holds the sender");
    let arn = "arn:aws:lambda:us-east-1:111111111111:function:logferry".to_owned();
    let headers = [
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", arn),
        ("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    let headers = headers.map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("ASCII")));
    (HeaderMap::from_iter(headers), event)
}

async fn answer(
    State(api): State<Arc<Api>>,
    UrlPath((id, kind)): UrlPath<(String, String)>,
    body: String,
) -> StatusCode {
    // The test may have ended.
    let _ = api.answers.send((id, kind, body)).await;
    StatusCode::ACCEPTED
}

async fn init_error(State(api): State<Arc<Api>>, body: String) -> StatusCode {
    let _ = api.answers.send((String::new(), "init error".to_owned(), body)).await;
    StatusCode::ACCEPTED
}

/// A function on Lambda, killed when dropped.
pub(super) struct Function {
    child: Child,
    log: PathBuf,
    started: Instant,
    invocations: mpsc::Sender<Invocation>,
    answers: mpsc::Receiver<Answer>,
    asked: watch::Receiver<usize>,
    /// Number of invocations that the function has answered.
    answered: usize,
    sandbox: Option<Arc<Sandbox>>,
}

impl Function {
    /// Starts the program without a command, with this environment and the variables that Lambda sets.
    pub(super) async fn start(environment: &BTreeMap<String, String>, sandbox: Option<Arc<Sandbox>>) -> Self {
        let (invocations, received) = mpsc::channel(1);
        let (answered, answers) = mpsc::channel(1);
        let (asking, asked) = watch::channel(0);
        let api = Api { invocations: Mutex::new(received), answers: answered, asked: asking };
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .with_state(Arc::new(api));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address: SocketAddr = listener.local_addr().expect("the listener is bound");
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let name = format!("lambda-{}-{}.log", std::process::id(), unique());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = fs::File::create_new(&log).expect("the log file can be created");
        let child = Command::new(env!("CARGO_BIN_EXE_logferry"))
            .env_clear()
            .envs(environment)
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "logferry")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be cloned"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("cargo built the program");
        Self { child, log, started: Instant::now(), invocations, answers, asked, answered: 0, sandbox }
    }

    /// Invokes the function as [`Self::answer`] does, and returns the ids that it reports.
    pub(super) async fn invoke(&mut self, event: &Value, timeout: Duration) -> Vec<String> {
        let (kind, body) = self.answer(event, timeout).await;
        assert_eq!(kind, "response", "{body}");
        let failures = body["batchItemFailures"].as_array().expect("the list is always there");
        failures.iter().map(|failure| failure["itemIdentifier"].as_str().expect("an id").to_owned()).collect()
    }

    /// Invokes the function, and stops its process when it has answered and asks for the next invocation. Returns the kind of its
    /// answer, `response` or `error`, and the answer.
    pub(super) async fn answer(&mut self, event: &Value, timeout: Duration) -> (String, Value) {
        self.wait_until_asked().await;
        self.signal("CONT");
        let id = format!("invocation-{}", unique());
        let deadline =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970") + timeout;
        let invocation =
            Invocation { id: id.clone(), deadline: deadline.as_millis(), event: event.to_string() };
        let began = Instant::now();
        self.invocations.send(invocation).await.expect("the API runs");
        let answer = tokio::time::timeout(timeout + PATIENCE, self.answers.recv()).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer: {}", self.log()));
        let (answered, kind, body) = answer.expect("the API runs");
        assert!(began.elapsed() < timeout, "Lambda has ended the function: {:?}", began.elapsed());
        assert_eq!(answered, id, "{body}");
        self.answered += 1;
        self.wait_until_asked().await;
        self.signal("STOP");
        (kind, serde_json::from_str(&body).expect("an answer is JSON"))
    }

    /// Waits until the function asks for an invocation.
    async fn wait_until_asked(&mut self) {
        let answered = self.answered;
        let asks = self.asked.wait_for(|asked| *asked > answered);
        let asks = tokio::time::timeout(PATIENCE, asks).await.is_ok_and(|asks| asks.is_ok());
        assert!(asks, "the function does not ask for an invocation: {}", self.log());
    }

    /// Time since the start of the process.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log can be read")
    }

    /// Highest resident memory in bytes; `None` where there is no `/proc`.
    pub(super) fn peak_rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
        Some(peak.parse::<u64>().ok()? * 1024)
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().expect("the function runs").to_string();
        let kill = std::process::Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &id]).status();
        assert!(kill.expect("there is a shell").success(), "SIG{name} cannot be sent");
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // The file may have been removed already.
        let _ = fs::remove_file(&self.log);
        if std::thread::panicking() {
            eprintln!("-- log of the function\n{log}\n--");
            return;
        }
        log.lines().for_each(assert_plain);
        let secrets = self.sandbox.as_ref().map(|sandbox| sandbox.session_secrets());
        assert_no_credentials(&log, &secrets.unwrap_or_default());
    }
}

/// Received messages that the function has not handled yet.
pub(super) struct Mapping {
    messages: Vec<Message>,
}

impl Mapping {
    /// Receives `count` messages.
    pub(super) async fn receive(setup: &Setup, count: usize) -> Self {
        let (sqs, mut messages) = (setup.account().sqs(), Vec::new());
        eventually("the messages arrive", async || {
            let receive = sqs
                .receive_message()
                .queue_url(&setup.provider.queue_url)
                .max_number_of_messages((count - messages.len()).min(10) as i32)
                .visibility_timeout(600)
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .message_attribute_names("All");
            let received = receive.send().await.expect("the queue can be read");
            messages.extend(received.messages.unwrap_or_default());
            if messages.len() == count { Ok(()) } else { Err(format!("{} of {count}", messages.len())) }
        })
        .await;
        Self { messages }
    }

    /// The id of the message whose body contains this text.
    pub(super) fn id(&self, text: &str) -> String {
        let message =
            self.messages.iter().find(|message| message.body().is_some_and(|body| body.contains(text)));
        message.and_then(Message::message_id).unwrap_or_else(|| panic!("no message has {text:?}")).to_owned()
    }

    /// The id of the first message.
    pub(super) fn first(&self) -> String {
        self.messages[0].message_id().expect("a message has an id").to_owned()
    }

    /// Gives all messages to the function, deletes those that it does not report, and returns the ids of the others.
    pub(super) async fn invoke(
        &mut self,
        setup: &Setup,
        function: &mut Function,
        timeout: Duration,
    ) -> Vec<String> {
        let records: Vec<_> = self.messages.iter().map(record).collect();
        let failed = function.invoke(&json!({ "Records": records }), timeout).await;
        let known =
            |id: &String| self.messages.iter().any(|message| message.message_id() == Some(id.as_str()));
        assert!(failed.iter().all(known), "an unknown id makes Lambda repeat the whole batch: {failed:?}");
        let is_failed = |message: &Message| failed.iter().any(|id| message.message_id() == Some(id.as_str()));
        let handled = self.messages.extract_if(.., |message| !is_failed(message)).enumerate();
        let entries = handled.map(|(index, message)| {
            let receipt = message.receipt_handle.expect("a received message has a receipt");
            let entry =
                DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt);
            entry.build().expect("id and receipt are set")
        });
        let entries: Vec<_> = entries.collect();
        for entries in entries.chunks(10) {
            let delete = setup.account().sqs().delete_message_batch().queue_url(&setup.provider.queue_url);
            let deleted = delete.set_entries(Some(entries.to_vec())).send().await.expect("the queue answers");
            assert_eq!(deleted.failed, []);
        }
        failed
    }
}

/// A message in Lambda's event.
fn record(message: &Message) -> Value {
    let attributes = message.attributes.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
    let ours = message.message_attributes.iter().flatten().map(|(name, value)| {
        let value = json!({
            "stringValue": value.string_value(), "dataType": value.data_type(),
            "stringListValues": [], "binaryListValues": [],
        });
        (name.as_str(), value)
    });
    json!({
        "messageId": message.message_id(), "receiptHandle": message.receipt_handle(), "body": message.body(),
        "attributes": attributes.collect::<HashMap<_, _>>(), "messageAttributes": ours.collect::<HashMap<_, _>>(),
        "md5OfBody": message.md5_of_body(), "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:111111111111:logs", "awsRegion": "us-east-1",
    })
}
