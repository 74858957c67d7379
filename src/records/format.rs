//! The formats of objects.

use super::TimestampFormat;

/// What the records of an object are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RecordFormat {
    /// Recognised by the object's first bytes.
    #[default]
    Auto,
    /// JSON objects, by themselves or in arrays, as Vector writes them.
    Json,
    /// The elements of `Records` in CloudTrail's documents. The event is an element's JSON, and its time `eventTime`.
    CloudTrail,
    /// The elements of `logEvents` in the documents of a CloudWatch Logs subscription.
    Subscription,
    /// Events of EventBridge. The event is the JSON as it stands, and its time `time`.
    EventBridge,
    /// Flow logs of VPCs and transit gateways as text: a line with the names of the fields, and a line for each flow. The event
    /// is the line, and its time the field `end`.
    FlowLogs,
    /// Lines of text. The event is the line. Its time is found by the format; without one, it is the object's time.
    Lines(Option<TimestampFormat>),
}
