//! Makes the same calls, good and bad, on the sandbox and on ministack, and compares the answers. Every call of the worker
//! is among them.
//!
//! Neither double is AWS; a difference between them shows an error in one. Differences that are understood are listed
//! in [`known`] with their reasons. A difference that no longer exists must be removed from the list.

mod copy;
mod dynamodb;
mod known;
mod logs;
mod s3;
mod sns;
mod sqs;
mod sts;
mod writes;

use std::collections::BTreeMap;

use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use self::known::KNOWN_DIFFERENCES;
use crate::{
    setup::Setup,
    target::{Target, ministack},
};

/// Answers of one double, by the name of the question.
#[derive(Debug, Default)]
struct Answers(BTreeMap<String, String>);

impl Answers {
    /// Records an observation.
    fn note(&mut self, question: &str, seen: impl Into<String>) {
        let before = self.0.insert(question.to_owned(), seen.into());
        assert_eq!(before, None, "{question} is asked twice");
    }

    /// Records an answer: `shape` describes a good one, status and code an error.
    fn answer<T, E>(
        &mut self,
        question: &str,
        answer: Result<T, SdkError<E, HttpResponse>>,
        shape: impl FnOnce(T) -> String,
    ) where
        E: ProvideErrorMetadata + std::fmt::Debug,
    {
        let seen = match answer {
            Ok(good) => format!("ok {}", shape(good)).trim_end().to_owned(),
            Err(SdkError::ServiceError(error)) => {
                let status = error.raw().status().as_u16();
                format!("{status} {}", error.err().code().unwrap_or("without a code"))
            }
            Err(error) => format!("no answer: {error:?}"),
        };
        self.note(question, seen);
    }
}

/// Description of a good answer whose content does not matter.
fn nothing<T>(_: T) -> String {
    String::new()
}

async fn ask(target: Target) -> BTreeMap<String, String> {
    let setup = Setup::on(target, "conformance", |spec| spec.versioned = true).await;
    let mut answers = Answers::default();
    logs::ask(&setup, &mut answers).await;
    sts::ask(&setup, &mut answers).await;
    s3::ask(&setup, &mut answers).await;
    sns::ask(&setup, &mut answers).await;
    copy::ask(&setup, &mut answers).await;
    sqs::ask(&setup, &mut answers).await;
    dynamodb::ask(&setup, &mut answers).await;
    writes::ask(&setup, &mut answers).await;
    answers.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doubles_give_the_same_answers() {
    let endpoint = match ministack::shared().await {
        Ok(endpoint) => endpoint.clone(),
        Err(problem) if ministack::is_required() => panic!("LOGFERRY_REQUIRE_MINISTACK=1, but {problem}"),
        Err(problem) => return eprintln!("skipped: {problem}"),
    };
    let ministack = ask(Target { endpoint, sandbox: None }).await;
    let sandbox = ask(Target::sandbox().await).await;
    assert!(sandbox.keys().eq(ministack.keys()), "both doubles get the same questions");
    let mut problems = Vec::new();
    for (question, ours) in &sandbox {
        let theirs = &ministack[question];
        let known = KNOWN_DIFFERENCES.iter().find(|known| known.question == question);
        match known {
            None if ours != theirs => {
                problems.push(format!("{question}\n    sandbox:   {ours}\n    ministack: {theirs}"));
            }
            Some(known) if (ours.as_str(), theirs.as_str()) != (known.sandbox, known.ministack) => {
                problems.push(format!(
                    "{question}: no longer the known difference\n    sandbox:   {ours}\n    ministack: {theirs}"
                ));
            }
            _ => {}
        }
    }
    for known in KNOWN_DIFFERENCES {
        assert_ne!(known.sandbox, known.ministack, "{}: the known answers do not differ", known.question);
        if !sandbox.contains_key(known.question) {
            problems.push(format!("{}: a known difference, but the question is never asked", known.question));
        }
    }
    assert!(problems.is_empty(), "{} of {} answers:\n{}", problems.len(), sandbox.len(), problems.join("\n"));
}
