//! The sandbox and ministack, asked the same: every call that the worker makes, good and bad, must be answered alike.
//!
//! Neither is AWS, and each keeps the other honest. Where they differ and know it, the difference stands with its reason
//! in [`known`]; one that is gone must leave the list.

mod copy;
mod dynamodb;
mod known;
mod logs;
mod s3;
mod sqs;
mod sts;

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

/// What a double answered, by the name of the question.
#[derive(Debug, Default)]
struct Answers(BTreeMap<String, String>);

impl Answers {
    /// Notes what was seen.
    fn note(&mut self, question: &str, seen: impl Into<String>) {
        let before = self.0.insert(question.to_owned(), seen.into());
        assert_eq!(before, None, "{question} is asked twice");
    }

    /// Notes an answer: what `shape` tells of a good one, status and code of an error.
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

/// Nothing to tell but that it went well.
fn nothing<T>(_: T) -> String {
    String::new()
}

async fn ask(target: Target) -> BTreeMap<String, String> {
    let setup = Setup::on(target, "conformance", |spec| spec.versioned = true).await;
    let mut answers = Answers::default();
    logs::ask(&setup, &mut answers).await;
    sts::ask(&setup, &mut answers).await;
    s3::ask(&setup, &mut answers).await;
    copy::ask(&setup, &mut answers).await;
    sqs::ask(&setup, &mut answers).await;
    dynamodb::ask(&setup, &mut answers).await;
    answers.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doubles_answer_alike() {
    let endpoint = match ministack::shared().await {
        Ok(endpoint) => endpoint.clone(),
        Err(problem) if ministack::is_required() => panic!("LOGFERRY_REQUIRE_MINISTACK=1, but {problem}"),
        Err(problem) => return eprintln!("skipped: {problem}"),
    };
    let ministack = ask(Target { endpoint, sandbox: None }).await;
    let sandbox = ask(Target::sandbox().await).await;
    assert!(sandbox.keys().eq(ministack.keys()), "the questions are the same");
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
                    "{question}: not the known difference any more\n    sandbox:   {ours}\n    ministack: {theirs}"
                ));
            }
            _ => {}
        }
    }
    for known in KNOWN_DIFFERENCES {
        assert_ne!(known.sandbox, known.ministack, "{}: no difference", known.question);
        if !sandbox.contains_key(known.question) {
            problems.push(format!("{}: known, but never asked", known.question));
        }
    }
    assert!(problems.is_empty(), "{} of {} answers:\n{}", problems.len(), sandbox.len(), problems.join("\n"));
}
