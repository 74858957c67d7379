use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
use opentelemetry_sdk::trace::SamplingDecision;

use super::*;

#[test]
fn the_sender_decides_unless_it_leaves_the_decision_to_us() {
    let decision =
        Decision { rule: Sampler::ParentBased(Box::new(Sampler::AlwaysOff)), root: Sampler::AlwaysOff };
    let always =
        Decision { rule: Sampler::ParentBased(Box::new(Sampler::AlwaysOn)), root: Sampler::AlwaysOn };
    let check = |decision: &Decision, flags: TraceFlags, expected: SamplingDecision| {
        let (trace, span) = (TraceId::from(1), SpanId::from(1));
        let sender = SpanContext::new(trace, span, flags, true, TraceState::NONE);
        let parent = Context::new().with_remote_span_context(sender);
        let result = decision.should_sample(Some(&parent), trace, "", &SpanKind::Consumer, &[], &[]);
        assert_eq!(result.decision, expected, "{flags:?}");
    };
    check(&decision, TraceFlags::SAMPLED, SamplingDecision::RecordAndSample);
    check(&always, TraceFlags::NOT_SAMPLED, SamplingDecision::Drop);
    check(&decision, UNDECIDED, SamplingDecision::Drop);
    check(&always, UNDECIDED, SamplingDecision::RecordAndSample);
}
