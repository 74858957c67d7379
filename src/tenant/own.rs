//! Checks rows against the worker's configuration: a valid row may need a quarantine that is not configured, or name a
//! bucket of the provider. Pure.

use std::collections::BTreeSet;

use super::{BadRow, Delivery, Destination, FieldProblem, Oversize};

/// The provider's own buckets in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnBuckets {
    /// `source.buckets`.
    pub staging: BTreeSet<String>,
    /// `quarantine.bucket`; `None` if no quarantine is configured.
    pub quarantine: Option<String>,
}

impl OwnBuckets {
    /// Checks a delivery against the provider's buckets.
    ///
    /// # Errors
    /// The row names one of these buckets: a copy in a staging bucket would be delivered again as a new object, and a
    /// copy in the quarantine would be mixed with quarantined records. Or the row needs a quarantine and none is
    /// configured: any other `oversize` policy would break the customer's choice.
    pub fn check(&self, delivery: &Delivery) -> Result<(), BadRow> {
        let (field, problem) = match &delivery.destination {
            Destination::CloudWatch(to)
                if to.oversize == Oversize::Quarantine && self.quarantine.is_none() =>
            {
                ("oversize", "\"quarantine\" needs the worker's setting quarantine.bucket".to_owned())
            }
            Destination::S3(to) if self.staging.contains(&to.bucket_name) => {
                ("bucket_name", format!("{:?} is one of the worker's source.buckets", to.bucket_name))
            }
            Destination::S3(to) if self.quarantine.as_ref() == Some(&to.bucket_name) => {
                ("bucket_name", format!("{:?} is the worker's quarantine.bucket", to.bucket_name))
            }
            Destination::CloudWatch(_) | Destination::S3(_) => return Ok(()),
        };
        Err(bad(delivery, field, problem))
    }

    /// Checks a delivery as [`Self::check`] does, for an object in `bucket`. `source.buckets` need not name this bucket.
    ///
    /// # Errors
    /// Those of [`Self::check`], or the row names `bucket` itself.
    pub fn check_for(&self, delivery: &Delivery, bucket: &str) -> Result<(), BadRow> {
        match &delivery.destination {
            Destination::S3(to) if to.bucket_name == bucket => {
                Err(bad(delivery, "bucket_name", format!("{bucket:?} is the bucket of the object itself")))
            }
            Destination::CloudWatch(_) | Destination::S3(_) => self.check(delivery),
        }
    }
}

fn bad(delivery: &Delivery, field: &str, problem: String) -> BadRow {
    BadRow {
        tenant_id: delivery.tenant_id.clone(),
        name: delivery.name.clone(),
        enabled: delivery.enabled,
        problems: vec![FieldProblem { field: field.to_owned(), problem }],
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::tenant::tests::delivery_of;

    #[test]
    fn rows_are_checked_against_the_configuration() {
        let mut config = Config::default();
        let check = |config: &Config, kind: &str, fields: &[(&str, &str)], expected: Option<&str>| {
            let delivery = delivery_of(kind, &[fields, &[("target_region", "us-east-1")]].concat());
            let told = config.own_buckets().check(&delivery).err();
            let told = told.map(|bad| bad.problems[0].to_string());
            assert_eq!(told.as_deref(), expected);
        };
        let role = ("log_distribution_role_arn", "arn:aws:iam::222222222222:role/x");
        let quarantined = [role, ("log_group_name", "g"), ("oversize", "quarantine")];
        let needs = "oversize: \"quarantine\" needs the worker's setting quarantine.bucket";
        check(&config, "cloudwatch", &quarantined, Some(needs));
        config.quarantine.bucket = Some("aside=111111111111".to_owned());
        config.source.buckets = vec!["staging=111111111111".to_owned(), "staging-2".to_owned()];
        check(&config, "cloudwatch", &quarantined, None);
        for (bucket, problem) in [
            ("staging", Some("bucket_name: \"staging\" is one of the worker's source.buckets")),
            ("staging-2", Some("bucket_name: \"staging-2\" is one of the worker's source.buckets")),
            ("aside", Some("bucket_name: \"aside\" is the worker's quarantine.bucket")),
            ("theirs", None),
        ] {
            check(&config, "s3", &[("bucket_name", bucket)], problem);
        }
    }
}
