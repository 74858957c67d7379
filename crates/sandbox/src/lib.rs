//! The sandbox: a strict double of the AWS calls that logferry makes, in one process.
//!
//! It listens on loopback and speaks AWS's own protocols, so that the worker needs only an endpoint and credentials. It
//! refuses what AWS refuses, with AWS's code and message. A call that it does not implement gets `501 NotImplemented`
//! with the name of the call. It stores what it received, by account, for comparison.
//!
//! The demo uses it as its AWS, the tests as their default target, chaos as its fault injector. It has no persistence
//! and no consistency delays.

pub mod call;
mod cloud;
mod dynamodb;
pub mod faults;
mod iam;
mod logs;
mod policy;
mod s3;
mod server;
mod sigv4;
mod sns;
mod sqs;
mod sts;

pub use logs::{Put, Totals};
pub use server::Sandbox;
pub use sqs::{QueueCounts, QueueLimits, UnknownQueue};
