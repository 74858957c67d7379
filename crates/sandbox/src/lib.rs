//! The sandbox: a strict double, in one process, of the AWS calls that logferry makes.
//!
//! It listens on loopback and speaks AWS's own protocols, so the worker needs nothing but an endpoint and
//! credentials. Where AWS refuses, it refuses, with AWS's code and message; what it does not cover answers
//! `501 NotImplemented` and names the call. It holds what it received, account by account, for comparison.
//!
//! It is the demo's embedded AWS, the default target of the tests, and the fault injector. It is not a cloud: no
//! persistence, no consistency delays, one process.

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
