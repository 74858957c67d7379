//! Carries customers' Kubernetes logs from one S3 staging bucket to CloudWatch Logs in the customers' own AWS accounts.
//!
//! Data flows one way, and the modules follow it:
//!
//! ```text
//! queue -> event -> object -> records -> batches -> delivery -> verdict -> ack
//! ```
//!
//! # Map
//!
//! **Intake**, from the queue to a tenant's object. [`worker`] receives messages from a [`queue`]. [`event`] finds the objects
//! that a message names. [`route`] reads an object's key. [`room`] shares the worker's memory among objects, and [`fairness`]
//! shares slots and the processor among tenants.
//!
//! **Reading**, from stored bytes to records. [`object`] reads the bytes, [`decode`] decompresses them, and [`records`] finds the
//! records.
//!
//! **Delivering**, from records to accounted records. [`pipeline`] handles one message. [`batch`] gathers events into requests,
//! and [`delivery`] puts the requests into a [`sink`]. [`copy`] copies whole objects. [`lake`] writes files that SQL reads.
//! [`name`] names streams, copies and files. The [`ledger`] stores the position of each delivery. [`quarantine`] keeps records
//! that cannot be delivered. In shadow mode, [`shadow`] counts records instead of putting them. [`verdict`] decides what happens
//! to the message.
//!
//! **Customers**. [`tenant`] reads the rows of tenants. [`credentials`] assumes roles in customers' accounts. [`breaker`] stops
//! calls that AWS refuses, and finds out by probes when they work again. [`budget`] limits the rate of requests into each
//! account. [`recent`] caches streams, sessions and breakers.
//!
//! **Operating**. [`app`] builds all parts from a [`config`], for the commands of [`cli`]. [`http`], [`health`], [`metrics`],
//! [`status`], [`telemetry`] and [`trace`] show what a worker does. [`sampler`] limits repeated log lines. [`protection`] keeps
//! ECS from stopping a task that has messages in work. Operators use [`redrive`] for dead letters, `replay` and `manual` to
//! deliver chosen objects, [`doctor`] with [`wiring`] to check the set-up, and `cost` to calculate what a month costs. The
//! adapters share [`aws`] to read the SDK's errors, [`batcher`] to gather entries into batch calls, and [`digest`] to hash.
//!
//! # Two walks through the code
//!
//! A message, from receive to delete:
//!
//! 1. [`worker::run`] receives the message ([`Queue::receive`](queue::Queue::receive)) and keeps it hidden ([`worker::lease`]).
//! 2. [`Pipeline::handle`](pipeline::Pipeline::handle) reads the message's body ([`event::decode`]) and the key of each object in
//!    it ([`KeyLayout::route`](route::KeyLayout::route)).
//! 3. The pipeline finds the deliveries that want the object (`pipeline::wanted`, with
//!    [`Directory::find`](tenant::Directory::find)). It claims the object for each of them
//!    ([`Claims::claim`](ledger::claim::Claims::claim)), and delivers the object (`pipeline::logs`, `pipeline::copies`).
//! 4. [`verdict::decide`] judges the failures of all objects.
//! 5. [`Settler::settle`](worker::settle::Settler::settle) carries the verdict out. After an ack this is
//!    [`Queue::delete`](queue::Queue::delete).
//!
//! A record, from socket to request body:
//!
//! 1. `pipeline::object_reader` reads stored bytes ([`ObjectBody::chunk`](object::ObjectBody::chunk)). [`object::trail`] notes
//!    their fingerprint.
//! 2. [`Decoder::decode`](decode::Decoder::decode) decompresses the bytes into a [`Window`](decode::Window).
//! 3. [`RecordReader::next`](records::RecordReader::next) finds the record in the window.
//! 4. `pipeline::reading` gives the record to the [`Lane`](delivery::Lane) of each delivery.
//! 5. [`Batch::push`](batch::Batch::push) copies the record's message into the JSON of a request.
//! 6. [`ClosedBatch::seal`](batch::ClosedBatch::seal) completes the request's body, and
//!    [`LogSink::put_log_events`](sink::LogSink::put_log_events) sends it.
//!
//! # Invariants
//!
//! 1. A message is acknowledged only when every record of every object in it is accounted for: accepted, rejected and
//!    counted, skipped and counted, or in quarantine.
//! 2. Delivery is at least once. Duplicates are possible and bounded. Records are lost silently in one case only: the
//!    queue's retention of a message ends while a worker works on the message, and then the worker is killed.
//! 3. [`event`], [`route`], [`decode`], [`records`], [`batch`], [`name`] and [`verdict`] do no I/O and read no clock.
//! 4. Memory is bounded by a published formula ([`app::memory_bound`]), compared at start-up with the container's limit.
//! 5. There are exactly two layers of retries: the SDK's, and the queue's redelivery.
//! 6. The SDK's types stay in the adapters ([`queue::sqs`], [`object::s3`], [`sink::cloudwatch`], [`copy::s3`],
//!    [`tenant::table`], [`ledger::dynamodb`], [`quarantine::s3`], [`credentials::assumed`], [`credentials::customers`], with
//!    [`aws`] for their errors) and in [`app`].
//!
//! # One message
//!
//! Each port has an in-memory implementation beside its adapter. This example runs one message through the pipeline without AWS:
//!
//! ```
//! use std::{collections::HashMap, sync::Arc, time::Duration};
//!
//! use jiff::Timestamp;
//! use logferry::{
//!     batch::MAX_BATCH_EVENTS,
//!     fairness::book::Limits,
//!     lake::memory::MemoryBuckets,
//!     ledger::{
//!         claim::{self, ClaimSettings, Claims},
//!         memory::MemoryLedger,
//!     },
//!     object::memory::{MemoryObject, MemoryStore},
//!     pipeline::{self, Pipeline, PipelineSettings, Ports},
//!     queue::{Queue, memory::MemoryQueue},
//!     room::Place,
//!     route::KeyLayout,
//!     sink::memory::MemorySinks,
//!     status::Status,
//!     tenant::{Attribute, Directory, LookupError, OwnBuckets, Row, Tenant, UnknownTenant},
//!     verdict::{Backoff, Verdict},
//! };
//! use tokio_util::sync::CancellationToken;
//!
//! /// A tenant table with one tenant.
//! struct OneTenant(Arc<Tenant>);
//!
//! impl Directory for OneTenant {
//!     async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
//!         Ok((tenant_id == "acme").then(|| Arc::clone(&self.0)))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The tenant: a row, as in DynamoDB.
//! let text = |value: &str| Attribute::Text(value.to_owned());
//! let row = Row::from([
//!     ("enabled".to_owned(), Attribute::Bool(true)),
//!     ("target_region".to_owned(), text("eu-central-1")),
//!     ("log_distribution_role_arn".to_owned(), text("arn:aws:iam::222222222222:role/customer-logs")),
//!     ("log_group_name".to_owned(), text("/logs/acme")),
//! ]);
//! let rows = vec![("cloudwatch".to_owned(), row)];
//! let tenant = Tenant::from_rows("acme", rows, None, Timestamp::now()).expect("there is a row");
//!
//! // An object in the staging bucket, and the message about it.
//! let store = MemoryStore::default();
//! let key = "acme/prod-1/web/web-0/1.json";
//! let records = br#"[{"message":"hello"},{"message":"world"}]"#;
//! store.put("staging", key, MemoryObject::new(records.to_vec(), Timestamp::now()));
//! let queue = MemoryQueue::new(Duration::from_secs(30));
//! queue.send(&format!(
//!     r#"{{"Records":[{{"eventVersion":"2.1","eventName":"ObjectCreated:Put",
//!         "s3":{{"bucket":{{"name":"staging"}},"object":{{"key":"{key}","versionId":"v1"}}}}}}]}}"#
//! ));
//!
//! // The pipeline with in-memory ports.
//! let sinks = MemorySinks::new();
//! let lease = Duration::from_secs(60);
//! let claims = ClaimSettings { lease, out_of_reach_after: Duration::from_secs(120) };
//! let ports = Ports {
//!     store,
//!     directory: OneTenant(Arc::new(tenant)),
//!     sinks: sinks.clone(),
//!     copier: MemoryBuckets::default(),
//!     claims: Claims::new(Some(MemoryLedger::new(lease)), claims, claim::Metrics::default()),
//!     quarantine: None,
//! };
//! let longest = Duration::from_secs(900);
//! let settings = PipelineSettings {
//!     key_rules: KeyLayout::parse(KeyLayout::DEFAULT)?.into(),
//!     buckets: HashMap::from([("staging".to_owned(), None)]),
//!     own_buckets: OwnBuckets::default(),
//!     unknown_tenant: UnknownTenant::DeadLetter,
//!     max_record: 16 << 20,
//!     max_object: 1 << 30,
//!     zstd_windows: 128 << 20,
//!     max_stored: 1 << 30,
//!     backoff: Backoff { first: lease, longest, max_age: 100 * longest, max_refusals: 3 },
//!     max_batch_events: MAX_BATCH_EVENTS,
//!     most_buffers: 2,
//!     shares: Limits { slots: 1, max_objects: None, max_bytes: None, longest_wait: longest },
//!     threads: 1,
//! };
//! let status = Arc::new(Status::new(50));
//! let pipeline = Pipeline::new(ports, settings, pipeline::Metrics::default(), status);
//!
//! // One message, its verdict, and what the customer received.
//! let messages = queue.receive(1, Duration::ZERO).await?;
//! let verdict = pipeline.handle(&messages[0], &Place::whole(), &CancellationToken::new()).await;
//! assert_eq!(verdict, Verdict::Ack);
//! assert_eq!(sinks.messages("222222222222/eu-central-1", "/logs/acme"), ["hello", "world"]);
//! # Ok(())
//! # }
//! ```

// These macros panic if the output is closed or full. `tell` and `cli::show` do not.
#![deny(clippy::print_stderr, clippy::print_stdout)]

// Intake.
pub mod event;
pub mod fairness;
pub mod queue;
pub mod room;
pub mod route;
pub mod worker;

// Reading.
pub mod decode;
pub mod object;
pub mod records;

// Delivering.
pub mod batch;
pub mod copy;
pub mod delivery;
pub mod lake;
pub mod ledger;
pub mod name;
pub mod pipeline;
pub mod quarantine;
pub mod shadow;
pub mod sink;
pub mod verdict;

// Customers.
pub mod breaker;
pub mod budget;
pub mod credentials;
pub mod recent;
pub mod tenant;

// Operating.
pub mod app;
pub mod aws;
pub mod batcher;
pub mod cli;
pub mod config;
#[cfg(feature = "tools")]
pub mod cost;
#[cfg(feature = "demo")]
pub mod demo;
pub mod digest;
pub mod doctor;
pub mod health;
pub mod http;
pub mod json;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "tools")]
pub mod manual;
pub mod metrics;
pub mod protection;
pub mod redrive;
#[cfg(feature = "tools")]
pub mod replay;
pub mod sampler;
pub mod status;
pub mod telemetry;
mod tell;
pub mod trace;
pub mod wiring;
