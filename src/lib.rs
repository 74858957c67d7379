//! Carries customers' Kubernetes logs from one S3 staging bucket to CloudWatch Logs in the customers' own AWS accounts.
//!
//! Data flows one way, and the modules follow it: [`queue`] -> [`event`] -> [`route`] and [`object`] -> [`decode`] and
//! [`records`] -> [`batch`] -> [`delivery`] and [`sink`] -> [`verdict`] -> back to the queue. [`worker`] receives,
//! [`pipeline`] does; [`app`] builds both out of a [`config`].
//!
//! What holds everywhere:
//!
//! 1. A message is acknowledged only when every record of every object in it is accounted for: accepted, rejected and
//!    counted, skipped and counted, or in quarantine.
//! 2. Delivery is at least once. Duplicates are possible and bounded; silent loss is not possible.
//! 3. [`event`], [`route`], [`decode`], [`records`], [`batch`], [`name`] and [`verdict`] do no I/O and read no clock.
//! 4. Memory is bounded by a published formula ([`app::memory_bound`]), held at start-up against the container's limit.
//! 5. There are two layers of retries: the SDK's, and the queue's redelivery. Never a third.
//! 6. The SDK's types stay in the adapters ([`queue::sqs`], [`object::s3`], [`sink::cloudwatch`], [`copy::s3`],
//!    [`tenant::table`], [`ledger::dynamodb`], [`quarantine::s3`], [`credentials::assumed`], [`credentials::customers`], with
//!    [`aws`] for their errors) and in [`app`].

pub mod app;
pub mod aws;
pub mod batch;
pub mod breaker;
pub mod budget;
pub mod cli;
pub mod config;
pub mod copy;
pub mod credentials;
pub mod decode;
pub mod delivery;
#[cfg(feature = "demo")]
pub mod demo;
pub mod digest;
pub mod doctor;
pub mod event;
pub mod fairness;
pub mod health;
pub mod http;
pub mod ledger;
pub mod metrics;
pub mod name;
pub mod object;
pub mod pipeline;
pub mod quarantine;
pub mod queue;
pub mod recent;
pub mod records;
pub mod redrive;
pub mod route;
pub mod sink;
pub mod telemetry;
pub mod tenant;
pub mod verdict;
pub mod worker;
