//! The customer's lake: files in a bucket of the customer, with all records of a tenant, that SQL can read.
//!
//! [`record`] makes columns of a record; [`ndjson`] writes records into a file.

mod known;
pub mod level;
pub mod ndjson;
pub mod record;
#[cfg(test)]
mod samples;
