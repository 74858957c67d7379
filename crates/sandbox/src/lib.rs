//! The sandbox: a strict double of the AWS calls that logferry makes, in one process.
//!
//! It listens on loopback and speaks AWS's own protocols, so that the worker needs only an endpoint and credentials. It
//! refuses what AWS refuses, with AWS's code and message. A call that it does not implement gets `501 NotImplemented`
//! with the name of the call. It keeps the accepted events of every account, so that tests can compare them.
//!
//! The demo runs on it instead of on AWS, tests run on it by default, and chaos injects faults with it. It keeps its state in
//! memory only, and a write is visible to the next call at once.

pub mod call;
mod cloud;
mod dynamodb;
mod encoding;
pub mod faults;
mod iam;
mod logs;
mod policy;
#[cfg(test)]
mod requests;
mod s3;
mod server;
mod sigv4;
mod sns;
mod sqs;
mod sts;

pub use iam::Needed;
pub use logs::{Put, Totals};
pub use server::Sandbox;
pub use sqs::{QueueCounts, QueueLimits, UnknownQueue};
