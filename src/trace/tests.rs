use std::sync::{Arc, Mutex};

use opentelemetry::{Context, KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, ShouldSample, SpanData, SpanProcessor},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
};

use super::{semconv::*, spans::sender, *};

const HEADER: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// Keeps spans that have ended.
#[derive(Clone, Debug, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _span: &mut opentelemetry_sdk::trace::Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().expect("no test panics with the lock").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Runs `work` with traces, and returns the spans that were exported.
fn spans(sampler: impl ShouldSample + 'static, work: impl FnOnce()) -> Vec<SpanData> {
    let ended = Ended::default();
    let provider =
        SdkTracerProvider::builder().with_sampler(sampler).with_span_processor(ended.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_location(false);
    let layer = layer.with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO));
    testing::with_subscriber(tracing_subscriber::registry().with(layer), work);
    ended.0.lock().expect("no test panics with the lock").clone()
}

fn messages(sender: SenderSpan) -> Messages {
    Messages::new("https://sqs.eu-central-1.amazonaws.com/111111111111/logs", sender)
}

fn one_message(sender: SenderSpan) {
    let span = messages(sender).process("m-1", 3, Some(HEADER));
    span.in_scope(|| {
        let step = step("get", &[(AWS_S3_KEY, "k")]);
        step.in_scope(|| drop(call("S3", "GetObject")));
        fail(&step, "object_missing", &"gone");
    });
}

#[test]
fn a_message_has_a_trace_of_its_own_with_a_link_to_its_sender() {
    let spans = spans(Sampler::AlwaysOn, || one_message(SenderSpan::Linked));
    let [call, step, process] = &spans[..] else { panic!("three spans: {spans:?}") };
    assert_eq!((&*call.name, &*step.name, &*process.name), ("S3.GetObject", "get", "process logs"));
    assert_eq!(call.parent_span_id, step.span_context.span_id());
    assert_eq!(step.parent_span_id, process.span_context.span_id());
    let has = |span: &SpanData, key: &'static str, value: &'static str| {
        assert!(span.attributes.contains(&KeyValue::new(key, value)), "{key}: {:?}", span.attributes);
    };
    has(process, MESSAGING_MESSAGE_ID, "m-1");
    has(process, MESSAGING_DESTINATION_NAME, "logs");
    has(step, AWS_S3_KEY, "k");
    has(step, ERROR_TYPE, "object_missing");
    let link = process.links.iter().next().expect("there is a link");
    assert_eq!(link.span_context.trace_id().to_string(), "5759e988bd862e3fe1be46a994272793");
    assert_ne!(process.span_context.trace_id(), link.span_context.trace_id());
}

#[test]
fn a_message_can_continue_its_senders_trace() {
    let spans = spans(Sampler::AlwaysOn, || one_message(SenderSpan::Parent));
    let process = spans.last().expect("there are spans");
    assert_eq!(process.span_context.trace_id().to_string(), "5759e988bd862e3fe1be46a994272793");
    assert_eq!(process.parent_span_id.to_string(), "53995c3f42cd8ad8");
    assert!(process.links.is_empty());
}

#[test]
fn headers_that_name_no_span_are_ignored() {
    for header in
        ["", "Root=1-5759e988-bd862e3fe1be46a994272793", "Root=1;Parent=53995c3f42cd8ad8", "\u{e9};=;Root=é"]
    {
        assert_eq!(sender(Some(header)), None, "{header}");
    }
    let undecided =
        sender(Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=?"));
    assert_eq!(undecided.expect("it names a span").trace_flags(), UNDECIDED);
}

#[test]
fn a_trace_that_is_not_sampled_has_one_span_and_an_id() {
    let spans = spans(Sampler::AlwaysOff, || {
        let message = messages(SenderSpan::Linked).process("m-1", 1, Some(HEADER));
        message.in_scope(|| {
            assert_eq!(step("get", &[]).id(), message.id());
            assert!(call("S3", "GetObject").is_none());
            assert!(trace_id().is_some() && sampled_trace_id().is_none());
        });
    });
    assert!(spans.is_empty(), "{spans:?}");
}

#[test]
fn without_traces_there_is_no_span() {
    // The log's layer alone, with a filter that allows everything but spans.
    let filter = Targets::new().with_default(LevelFilter::TRACE).with_target(TARGET, LevelFilter::OFF);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(filter);
    testing::alone("trace::tests::without_traces_there_is_no_span", || {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            let message = messages(SenderSpan::Linked).process("m-1", 1, Some(HEADER));
            assert!(message.is_disabled() && messages(SenderSpan::Linked).receive().is_disabled());
            message.in_scope(|| {
                assert!(step("get", &[]).is_disabled() && call("S3", "GetObject").is_none());
                assert_eq!(trace_id(), None);
            });
        });
    });
}

#[test]
fn a_shared_call_belongs_to_the_first_message_and_links_to_the_others() {
    let spans = spans(Sampler::AlwaysOn, || {
        let many = [1, 2].map(|id| messages(SenderSpan::Linked).process(&id.to_string(), 1, None));
        let span = shared(many.iter().chain([&Span::none()]));
        span.in_scope(|| drop(call("SQS", "DeleteMessageBatch")));
        assert_eq!(shared(many.iter().take(1)).id(), many[0].id());
        assert!(shared([Span::none()].iter()).is_disabled());
    });
    let [_, batch, second, first] = &spans[..] else { panic!("four spans: {spans:?}") };
    let (first, second) =
        if batch.parent_span_id == first.span_context.span_id() { (first, second) } else { (second, first) };
    assert_eq!(batch.parent_span_id, first.span_context.span_id());
    let link = batch.links.iter().next().expect("there is a link");
    assert_eq!(link.span_context.span_id(), second.span_context.span_id());
}
