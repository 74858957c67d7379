//! A record of a lake, with all its columns.

/// One row. The labels come from the object's key; the other columns come from the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row<'a> {
    /// Milliseconds since 1970, UTC.
    pub timestamp: i64,
    /// The record's message, unescaped.
    pub message: &'a str,
    /// The tenant of the object's key.
    pub tenant: &'a str,
    /// The cluster of the object's key.
    pub cluster: &'a str,
    /// The application of the object's key.
    pub application: &'a str,
    /// The pod of the object's key.
    pub pod: &'a str,
    /// `stdout` or `stderr`.
    pub stream: Option<&'a str>,
    /// Namespace of the pod.
    pub namespace: Option<&'a str>,
    /// Container that wrote the message.
    pub container: Option<&'a str>,
    /// Node that the pod ran on.
    pub node: Option<&'a str>,
    /// Level of the message, in lower case.
    pub level: Option<&'a str>,
    /// A JSON object with all other members of the record.
    pub rest: Option<&'a str>,
}
