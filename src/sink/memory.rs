//! The customers' CloudWatch Logs in memory, for tests. As strict as the service about batches, and stricter about order.
//! Tests can make calls fail.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

use super::{LogSink, LogSinks, PutAnswer, SinkError};
use crate::{
    batch::RejectedEvents,
    credentials::AssumeError,
    event::ObjectRef,
    ledger::lease::Lease,
    tenant::{CloudWatch, Delivery},
};

/// A timestamp and a message.
pub type LogEvent = (i64, String);

/// A call that reached a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkCall {
    /// The stream, the messages and the sequence token.
    Put(String, Vec<String>, Option<String>),
    /// The stream.
    CreateStream(String),
    /// The group and its retention.
    CreateGroup(String, Option<i32>),
}

/// Names a method of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SinkOperation {
    /// [`LogSink::put_log_events`].
    Put,
    /// [`LogSink::create_log_stream`].
    CreateStream,
    /// [`LogSink::create_log_group`].
    CreateGroup,
}

/// All accounts; clones share them.
#[derive(Clone, Debug)]
pub struct MemorySinks {
    shared: Arc<Shared>,
}

/// One account in one Region.
#[derive(Clone, Debug)]
pub struct MemorySink {
    account_region: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Each put takes a permit before its answer, and never returns it.
    answers: Semaphore,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<(String, String), BTreeMap<String, Stream>>,
    calls: Vec<SinkCall>,
    counts: HashMap<SinkOperation, usize>,
    errors: HashMap<(SinkOperation, usize), SinkError>,
    stored_but: HashMap<usize, SinkError>,
    rejections: HashMap<usize, RejectedEvents>,
    too_old_before: i64,
    refused: Vec<String>,
    failing_groups: HashMap<String, SinkError>,
    closed_roles: HashMap<String, AssumeError>,
    opened: Vec<(String, String)>,
    puts_in_flight: HashSet<(String, String, String)>,
    put_time: Duration,
    wants_tokens: bool,
}

#[derive(Debug, Default)]
struct Stream {
    events: Vec<LogEvent>,
    puts: usize,
}

impl MemorySinks {
    /// Accounts without any group.
    pub fn new() -> Self {
        let answers = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { shared: Arc::new(Shared { state: Mutex::default(), answers, changed: Notify::new() }) }
    }

    /// The sink of an account and Region.
    pub fn sink(&self, account: &str, region: &str) -> MemorySink {
        MemorySink { account_region: format!("{account}/{region}"), shared: Arc::clone(&self.shared) }
    }

    /// Makes the n-th call of an operation, counted from 1, do nothing but fail.
    pub fn fail(&self, operation: SinkOperation, nth: usize, error: SinkError) {
        self.lock().errors.insert((operation, nth), error);
    }

    /// Makes the n-th put store its events, and answer with an error.
    pub fn store_but_fail(&self, nth: usize, error: SinkError) {
        self.lock().stored_but.insert(nth, error);
    }

    /// Rejects events of the n-th put.
    pub fn reject(&self, nth: usize, rejected: RejectedEvents) {
        self.lock().rejections.insert(nth, rejected);
    }

    /// Rejects events before this time, in milliseconds.
    pub fn reject_before(&self, time: i64) {
        self.lock().too_old_before = time;
    }

    /// Refuses every put that has an event with this message.
    pub fn refuse_message(&self, text: &str) {
        self.lock().refused.push(text.to_owned());
    }

    /// Fails every put into a group of that name.
    pub fn fail_group(&self, group: &str, error: SinkError) {
        self.lock().failing_groups.insert(group.to_owned(), error);
    }

    /// Undoes [`fail_group`](Self::fail_group).
    pub fn mend_group(&self, group: &str) {
        self.lock().failing_groups.remove(group);
    }

    /// Fails every attempt to enter by this role.
    pub fn close_role(&self, role: &str, error: AssumeError) {
        self.lock().closed_roles.insert(role.to_owned(), error);
    }

    /// Undoes [`close_role`](Self::close_role).
    pub fn mend_role(&self, role: &str) {
        self.lock().closed_roles.remove(role);
    }

    /// Makes every put take this long.
    pub fn put_time(&self, time: Duration) {
        self.lock().put_time = time;
    }

    /// Refuses every put without the sequence token that the stream's last put returned.
    pub fn demand_tokens(&self) {
        self.lock().wants_tokens = true;
    }

    /// Answers no put until [`MemorySinks::release`].
    pub fn hold(&self) {
        self.shared.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers that many puts.
    pub fn release(&self, puts: usize) {
        self.shared.answers.add_permits(puts);
    }

    /// Creates a group and streams in it; `account_region` is `ACCOUNT/REGION`.
    pub fn create(&self, account_region: &str, group: &str, streams: &[&str]) {
        let mut state = self.lock();
        let group = state.groups.entry((account_region.to_owned(), group.to_owned())).or_default();
        group.extend(streams.iter().map(|stream| ((*stream).to_owned(), Stream::default())));
    }

    /// Deletes a group with all its streams.
    pub fn delete_group(&self, account_region: &str, group: &str) {
        self.lock().groups.remove(&(account_region.to_owned(), group.to_owned()));
    }

    /// Names of a group's streams.
    pub fn streams(&self, account_region: &str, group: &str) -> Vec<String> {
        let state = self.lock();
        let group = state.groups.get(&(account_region.to_owned(), group.to_owned()));
        group.map(|streams| streams.keys().cloned().collect()).unwrap_or_default()
    }

    /// The events in a group's streams, without rejected events; those of one stream in order of arrival.
    pub fn events(&self, account_region: &str, group: &str) -> Vec<LogEvent> {
        let state = self.lock();
        let group = state.groups.get(&(account_region.to_owned(), group.to_owned()));
        group.into_iter().flat_map(BTreeMap::values).flat_map(|stream| stream.events.clone()).collect()
    }

    /// The messages of [`MemorySinks::events`].
    pub fn messages(&self, account_region: &str, group: &str) -> Vec<String> {
        self.events(account_region, group).into_iter().map(|(_, message)| message).collect()
    }

    /// All calls so far, in order of arrival.
    pub fn calls(&self) -> Vec<SinkCall> {
        self.lock().calls.clone()
    }

    /// Number of calls of an operation so far.
    pub fn count(&self, operation: SinkOperation) -> usize {
        self.lock().counts.get(&operation).copied().unwrap_or_default()
    }

    /// Role and cluster of every call of [`LogSinks::open`].
    pub fn opened(&self) -> Vec<(String, String)> {
        self.lock().opened.clone()
    }

    /// Waits until that many puts have arrived.
    pub async fn until_puts(&self, puts: usize) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.count(SinkOperation::Put) >= puts {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), wait).await.expect("the puts arrive within an hour");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Default for MemorySinks {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. Returns its number, and the error if it must fail.
    fn enter(&self, operation: SinkOperation, call: SinkCall) -> (usize, Result<(), SinkError>) {
        let mut state = self.lock();
        state.calls.push(call);
        let count = state.counts.entry(operation).or_default();
        *count += 1;
        let nth = *count;
        let error = state.errors.get(&(operation, nth)).cloned();
        self.changed.notify_waiters();
        (nth, error.map_or(Ok(()), Err))
    }
}

/// Ends a put, even if its future is dropped.
struct InFlight<'a>(&'a Shared, (String, String, String));

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().puts_in_flight.remove(&self.1);
    }
}

struct Request {
    group: String,
    stream: String,
    token: Option<String>,
    events: Vec<LogEvent>,
}

/// Reads a request as the service would. Panics if the request breaks a rule, which ends the test.
fn read_request(body: &[u8]) -> Request {
    let request: Value = serde_json::from_slice(body).expect("a request is JSON");
    let text = |name: &str| request[name].as_str().map(str::to_owned);
    let events: Vec<LogEvent> = request["logEvents"]
        .as_array()
        .expect("a request has events")
        .iter()
        .map(|event| {
            assert_eq!(event.as_object().map(serde_json::Map::len), Some(2), "{event}");
            let message = event["message"].as_str().expect("a message is a string").to_owned();
            assert!(!message.is_empty(), "an event without a message");
            (event["timestamp"].as_i64().expect("a timestamp is a number"), message)
        })
        .collect();
    assert!((1..=10_000).contains(&events.len()), "{} events", events.len());
    let bytes: usize = events.iter().map(|(_, message)| message.len() + 26).sum();
    assert!(bytes <= 1_048_576, "{bytes} bytes");
    assert!(events.is_sorted_by_key(|(timestamp, _)| *timestamp), "not chronological");
    let span = events[events.len() - 1].0 - events[0].0;
    assert!(events[0].0 >= 0 && span <= 24 * 3600 * 1000, "{span} ms");
    Request {
        group: text("logGroupName").expect("a request names its group"),
        stream: text("logStreamName").expect("a request names its stream"),
        token: text("sequenceToken"),
        events,
    }
}

impl LogSink for MemorySink {
    async fn put_log_events(&self, body: Bytes, lease: &Lease) -> Result<PutAnswer, SinkError> {
        lease.check().map_err(SinkError::LeaseEnded)?;
        let Request { group, stream, token, events } = read_request(&body);
        let messages = events.iter().map(|(_, message)| message.clone()).collect();
        let (nth, entered) =
            self.shared.enter(SinkOperation::Put, SinkCall::Put(stream.clone(), messages, token.clone()));
        let key = (self.account_region.clone(), group.clone(), stream.clone());
        let alone = self.shared.lock().puts_in_flight.insert(key.clone());
        assert!(alone, "two puts into stream {stream} at once");
        let _in_flight = InFlight(&self.shared, key);
        self.shared.answers.acquire().await.expect("the semaphore is never closed").forget();
        let time = self.shared.lock().put_time;
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        entered?;

        let mut state = self.shared.lock();
        if let Some(error) = state.failing_groups.get(&group) {
            return Err(error.clone());
        }
        let refused = |(_, message): &LogEvent| state.refused.contains(message);
        if events.iter().any(refused) {
            return Err(SinkError::Refused("InvalidParameterException: an event".into()));
        }
        let mut rejected = state.rejections.get(&nth).copied().unwrap_or_default();
        let too_old = events.partition_point(|(timestamp, _)| *timestamp < state.too_old_before);
        rejected.too_old_end = rejected.too_old_end.max((too_old > 0).then_some(too_old));
        let (wants_tokens, stored_but) = (state.wants_tokens, state.stored_but.get(&nth).cloned());
        let streams = state.groups.get_mut(&(self.account_region.clone(), group));
        let streams = streams.ok_or_else(|| SinkError::NotFound("the log group".into()))?;
        let stored = streams.get_mut(&stream).ok_or_else(|| SinkError::NotFound("the log stream".into()))?;
        let expected = (stored.puts > 0).then(|| format!("{stream}-{}", stored.puts));
        if wants_tokens && token != expected {
            return Err(SinkError::InvalidSequenceToken { expected });
        }
        let first_good = rejected.too_old_end.max(rejected.expired_end).unwrap_or(0);
        let good = first_good..rejected.too_new_start.unwrap_or(events.len());
        stored.events.extend_from_slice(events.get(good).unwrap_or_default());
        stored.puts += 1;
        let next_sequence_token = wants_tokens.then(|| format!("{stream}-{}", stored.puts));
        stored_but.map_or(Ok(PutAnswer { next_sequence_token, rejected }), Err)
    }

    async fn create_log_stream(&self, group: &str, stream: &str, lease: &Lease) -> Result<(), SinkError> {
        lease.check().map_err(SinkError::LeaseEnded)?;
        self.shared.enter(SinkOperation::CreateStream, SinkCall::CreateStream(stream.to_owned())).1?;
        let mut state = self.shared.lock();
        let streams = state.groups.get_mut(&(self.account_region.clone(), group.to_owned()));
        let streams = streams.ok_or_else(|| SinkError::NotFound("the log group".into()))?;
        streams.entry(stream.to_owned()).or_default();
        Ok(())
    }

    async fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> Result<(), SinkError> {
        lease.check().map_err(SinkError::LeaseEnded)?;
        self.shared
            .enter(SinkOperation::CreateGroup, SinkCall::CreateGroup(group.to_owned(), retention_days))
            .1?;
        self.shared.lock().groups.entry((self.account_region.clone(), group.to_owned())).or_default();
        Ok(())
    }
}

impl LogSinks for MemorySinks {
    type Sink = MemorySink;

    async fn closed(&self, _: &Delivery, destination: &CloudWatch, _: &str) -> Option<SinkError> {
        let closed = self.lock().closed_roles.get(destination.role.as_str()).cloned();
        closed.filter(|error| matches!(error, AssumeError::Held { .. })).map(SinkError::Session)
    }

    async fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
        _object: &ObjectRef,
    ) -> Result<MemorySink, SinkError> {
        let role = destination.role.as_str();
        let mut state = self.lock();
        state.opened.push((role.to_owned(), cluster.to_owned()));
        if let Some(error) = state.closed_roles.get(role) {
            return Err(SinkError::Session(error.clone()));
        }
        Ok(self.sink(destination.role.account(), &delivery.target_region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "222222222222/us-east-1";

    fn sink(sinks: &MemorySinks) -> MemorySink {
        sinks.sink("222222222222", "us-east-1")
    }

    fn body(events: &[(i64, &str)], token: Option<&str>) -> Bytes {
        let events: Vec<_> = events
            .iter()
            .map(|(timestamp, message)| serde_json::json!({"timestamp": timestamp, "message": message}))
            .collect();
        let mut request = serde_json::json!({"logGroupName": "g", "logStreamName": "s", "logEvents": events});
        if let Some(token) = token {
            request["sequenceToken"] = token.into();
        }
        request.to_string().into()
    }

    #[tokio::test]
    async fn nothing_is_stored_before_group_and_stream_exist() {
        let sinks = MemorySinks::new();
        let sink = sink(&sinks);
        for _ in 0..2 {
            assert!(matches!(
                sink.put_log_events(body(&[(1, "a")], None), &Lease::unlimited()).await,
                Err(SinkError::NotFound(_))
            ));
            assert!(matches!(
                sink.create_log_stream("g", "s", &Lease::unlimited()).await,
                Err(SinkError::NotFound(_))
            ));
            sink.create_log_group("g", Some(7), &Lease::unlimited()).await.expect("the call succeeds");
            sinks.delete_group(PLACE, "g");
        }
        sink.create_log_group("g", None, &Lease::unlimited()).await.expect("the call succeeds");
        sink.create_log_stream("g", "s", &Lease::unlimited()).await.expect("the call succeeds");
        sink.put_log_events(body(&[(1, "a")], None), &Lease::unlimited())
            .await
            .expect("the group and the stream exist");
        assert_eq!(sinks.events(PLACE, "g"), [(1, "a".to_owned())]);
        assert_eq!(sinks.events("333333333333/us-east-1", "g"), []);
    }

    #[tokio::test]
    async fn tokens_errors_and_rejections_come_as_requested() {
        let sinks = MemorySinks::new();
        let sink = sink(&sinks);
        sinks.create(PLACE, "g", &["s"]);
        sinks.demand_tokens();
        sinks.fail(SinkOperation::Put, 2, SinkError::Throttled("slow down".into()));
        sinks.reject(3, RejectedEvents { too_old_end: Some(1), too_new_start: Some(2), expired_end: None });
        let first = sink
            .put_log_events(body(&[(1, "a")], None), &Lease::unlimited())
            .await
            .expect("the first put needs no token");
        let token = first.next_sequence_token.expect("tokens are demanded");
        let events = [(1, "b"), (2, "c"), (3, "d")];
        let throttled = sink.put_log_events(body(&events, Some(&token)), &Lease::unlimited()).await;
        assert!(matches!(throttled, Err(SinkError::Throttled(_))));
        sink.put_log_events(body(&events, Some(&token)), &Lease::unlimited())
            .await
            .expect("the third put succeeds");
        let stale = sink.put_log_events(body(&events, Some(&token)), &Lease::unlimited()).await;
        assert_eq!(stale, Err(SinkError::InvalidSequenceToken { expected: Some("s-2".into()) }));
        assert_eq!(sinks.messages(PLACE, "g"), ["a", "c"]);
    }

    #[tokio::test]
    #[should_panic(expected = "two puts into stream s at once")]
    async fn two_puts_at_once_end_the_test() {
        let sinks = MemorySinks::new();
        let sink = sink(&sinks);
        sinks.hold();
        let lease = Lease::unlimited();
        let request = || sink.put_log_events(body(&[(1, "a")], None), &lease);
        let _ = tokio::join!(request(), request());
    }

    #[test]
    fn a_request_that_breaks_a_rule_ends_the_test() {
        let long = "x".repeat(1_048_576 - 25);
        let many: Vec<_> = (0..10_001).map(|at| (at, "m")).collect();
        for bad in [
            vec![],
            vec![(1, "")],
            vec![(2, "a"), (1, "b")],
            vec![(0, "a"), (86_400_001, "b")],
            many,
            vec![(1, long.as_str())],
        ] {
            let request = body(&bad, None);
            assert!(std::panic::catch_unwind(|| read_request(&request)).is_err(), "{} events", bad.len());
        }
        read_request(&body(&[(0, "a"), (86_400_000, "b")], None));
    }
}
