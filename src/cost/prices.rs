//! List prices of AWS, in USD, of one Region.
//!
//! Source: AWS's pricing pages of the services, us-east-1, on-demand and without free tiers, as of 2026-11-28. Where a price has
//! tiers by volume, it is the price of the first tier, so large volumes cost somewhat less.

use serde::Serialize;

/// The Region of the prices.
pub const REGION: &str = "us-east-1";
/// Day of the prices.
pub const AS_OF: &str = "2026-11-28";

/// One price.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Price {
    /// Name in `--price NAME=USD`.
    pub name: &'static str,
    /// The price of `per` units.
    pub usd: f64,
    /// Number of units that the price is for.
    pub per: f64,
    /// The unit; a GB has 2^30 bytes.
    pub unit: &'static str,
}

macro_rules! prices {
    ($($field:ident = $name:literal, $usd:literal per $per:literal $unit:literal;)*) => {
        /// All prices.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Prices {
            $(#[doc = concat!("`", $name, "`")] pub $field: Price,)*
        }

        impl Default for Prices {
            fn default() -> Self {
                Self { $($field: Price { name: $name, usd: $usd, per: $per, unit: $unit },)* }
            }
        }

        impl Prices {
            /// All prices, in the order of the table.
            pub fn all(&self) -> Vec<&Price> {
                vec![$(&self.$field),*]
            }

            /// The price with this name.
            pub fn named(&mut self, name: &str) -> Option<&mut Price> {
                match name {
                    $($name => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

prices! {
    s3_put = "s3-put", 0.005 per 1_000.0 "requests";
    s3_get = "s3-get", 0.0004 per 1_000.0 "requests";
    s3_storage = "s3-storage", 0.023 per 1.0 "GB-months";
    sns_publish = "sns-publish", 0.50 per 1_000_000.0 "requests";
    sqs_request = "sqs-request", 0.40 per 1_000_000.0 "requests";
    dynamodb_write = "dynamodb-write", 0.625 per 1_000_000.0 "write request units";
    dynamodb_read = "dynamodb-read", 0.125 per 1_000_000.0 "read request units";
    dynamodb_storage = "dynamodb-storage", 0.25 per 1.0 "GB-months";
    dynamodb_recovery = "dynamodb-recovery", 0.20 per 1.0 "GB-months";
    sts_call = "sts-call", 0.0 per 1.0 "requests";
    kms_key = "kms-key", 1.0 per 1.0 "key-months";
    kms_request = "kms-request", 0.03 per 10_000.0 "requests";
    fargate_vcpu = "fargate-vcpu", 0.03238 per 1.0 "vCPU-hours";
    fargate_memory = "fargate-memory", 0.00356 per 1.0 "GB-hours";
    endpoint_hour = "endpoint-hour", 0.01 per 1.0 "endpoint-hours";
    endpoint_data = "endpoint-data", 0.01 per 1.0 "GB";
    nat_hour = "nat-hour", 0.045 per 1.0 "gateway-hours";
    nat_data = "nat-data", 0.045 per 1.0 "GB";
    logs_ingestion = "logs-ingestion", 0.50 per 1.0 "GB";
    logs_storage = "logs-storage", 0.03 per 1.0 "GB-months";
    firehose_ingestion = "firehose-ingestion", 0.029 per 1.0 "GB";
    firehose_partitioning = "firehose-partitioning", 0.02 per 1.0 "GB";
    firehose_object = "firehose-object", 0.005 per 1_000.0 "objects";
    firehose_jq = "firehose-jq", 0.07 per 1.0 "JQ-hours";
}
