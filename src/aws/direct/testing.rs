//! An HTTP client that keeps the requests it sends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aws_config::SdkConfig;
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};

use crate::aws::Base;

/// A request that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Whether the SDK's orchestrator did not send it.
    pub(crate) is_direct: bool,
    pub(crate) method: String,
    /// The parameters of its query are sorted.
    pub(crate) uri: String,
    /// Without those of the signature, and those that count the SDK's retries.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Sent {
    /// The request, as if the SDK had sent it.
    pub(crate) fn by_the_sdk(self) -> Self {
        Self { is_direct: false, ..self }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Recording {
    inner: SharedHttpClient,
    sent: Arc<Mutex<Vec<Sent>>>,
    /// The `date` of all answers, if set.
    date: Arc<Mutex<Option<&'static str>>>,
}

impl Recording {
    /// Keeps the requests of all clients of the base that is returned.
    pub(crate) fn of(sdk: &SdkConfig) -> (Self, Base) {
        let recording = Self {
            inner: sdk.http_client().expect("there is one"),
            sent: Arc::default(),
            date: Arc::default(),
        };
        let base = sdk.to_builder().http_client(recording.clone()).build().into();
        (recording, base)
    }

    /// Gives all further answers this `date`.
    pub(crate) fn date_all(&self, date: &'static str) {
        *self.date.lock().expect("nobody panics") = Some(date);
    }

    /// The requests since the last call whose URI or headers contain `part`.
    pub(crate) fn take(&self, part: &str) -> Vec<Sent> {
        let mut sent = std::mem::take(&mut *self.sent.lock().expect("nobody panics"));
        sent.retain(|sent| {
            sent.uri.contains(part) || sent.headers.values().any(|value| value.contains(part))
        });
        sent
    }
}

impl HttpClient for Recording {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let (inner, sent) = (self.inner.http_connector(settings, components), Arc::clone(&self.sent));
        SharedHttpConnector::new(RecordingConnector { inner, sent, date: Arc::clone(&self.date) })
    }
}

#[derive(Debug)]
struct RecordingConnector {
    inner: SharedHttpConnector,
    sent: Arc<Mutex<Vec<Sent>>>,
    date: Arc<Mutex<Option<&'static str>>>,
}

impl HttpConnector for RecordingConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let left_out = ["amz-sdk-invocation-id", "amz-sdk-request", "authorization", "x-amz-date"];
        let headers = request.headers().iter().filter(|(name, _)| !left_out.contains(name));
        let sent = Sent {
            is_direct: request.headers().get("amz-sdk-invocation-id").is_none(),
            method: request.method().to_owned(),
            uri: sorted(request.uri()),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: request.body().bytes().unwrap_or_default().to_vec(),
        };
        self.sent.lock().expect("nobody panics").push(sent);
        let (answer, date) = (self.inner.call(request), *self.date.lock().expect("nobody panics"));
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            if let Some(date) = date {
                answer.headers_mut().insert("date", date);
            }
            Ok(answer)
        })
    }
}

fn sorted(uri: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut query: Vec<_> = query.split('&').collect();
    query.sort_unstable();
    format!("{path}?{}", query.join("&"))
}
