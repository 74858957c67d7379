//! Files in a customer's lake: records in columns, partitioned by hour.

#[cfg(feature = "parquet")]
pub mod parquet;
pub mod row;
