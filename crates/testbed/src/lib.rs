//! The surroundings of a worker: AWS accounts, objects to deliver, and the worker's process.
//!
//! `logferry demo`, the black-box suite, chaos and the load instrument share this crate. It works with any endpoint that
//! answers AWS calls: the sandbox or an emulator.

pub mod provision;
pub mod samples;
pub mod worker;
