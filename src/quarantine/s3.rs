//! The quarantine in one of the provider's buckets. The worker writes to it with its own credentials.

use aws_sdk_s3::{Client, error::ProvideErrorMetadata};
use bytes::Bytes;

use super::{QuarantineError, QuarantineStore, WriteFuture};
use crate::aws::describe;

/// Writes files into one bucket.
#[derive(Clone, Debug)]
pub struct S3Quarantine {
    client: Client,
    bucket: String,
    owner: Option<String>,
}

impl S3Quarantine {
    /// Writes into `bucket`. If `owner` is given, the bucket must belong to that account.
    pub fn new(client: Client, bucket: String, owner: Option<String>) -> Self {
        Self { client, bucket, owner }
    }
}

impl QuarantineStore for S3Quarantine {
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> WriteFuture<'a> {
        let put = self.client.put_object().bucket(&self.bucket).key(key).content_type("application/gzip");
        let put = put.set_expected_bucket_owner(self.owner.clone()).body(body.into());
        Box::pin(async move {
            put.send().await.map(drop).map_err(|error| {
                let fix = match error.code() {
                    Some("AccessDenied") => {
                        "; allow the worker's role s3:PutObject there, and check the owner that quarantine.bucket names"
                    }
                    Some("NoSuchBucket") => "; create the bucket, or correct quarantine.bucket",
                    _ => "",
                };
                let problem = format!("bucket {:?}: {}{fix}", self.bucket, describe(&error));
                QuarantineError { key: key.to_owned(), problem }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use logferry_sandbox::Sandbox;
    use logferry_testbed::provision::{Aws, Provider, ProviderSpec};

    use super::*;

    #[tokio::test]
    async fn a_file_is_written_and_a_refusal_names_the_fix() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("q")).await.expect("the provider can be set up");
        let account = aws.account(&provider.account);
        let worker = account.assume_role(&provider.worker_role_arn, "worker", &[]).await;
        let worker = worker.expect("the account may be the worker").s3();
        let quarantine = |bucket: &str, owner: &str| {
            S3Quarantine::new(worker.clone(), bucket.to_owned(), Some(owner.to_owned()))
        };
        let key = "quarantine/acme/a b#1.ndjson.gz";
        let ours = quarantine(&provider.bucket, &provider.account);
        ours.put(key, Bytes::from_static(b"first")).await.expect("the file is written");
        ours.put(key, Bytes::from_static(b"again")).await.expect("the file is replaced");
        let got = account.s3().get_object().bucket(&provider.bucket).key(key).send().await;
        let got = got.expect("the file is there").body.collect().await.expect("the file can be read");
        assert_eq!(got.into_bytes(), "again");
        for (bucket, owner, words) in [
            (&*provider.bucket, "999999999999", ["AccessDenied", "s3:PutObject"]),
            ("nowhere", &provider.account, ["NoSuchBucket", "quarantine.bucket"]),
        ] {
            let refused = quarantine(bucket, owner).put(key, Bytes::new()).await;
            let told = refused.expect_err("the write is refused").to_string();
            for word in words.iter().chain(&[bucket, key]) {
                assert!(told.contains(word), "{word} is not in {told}");
            }
        }
    }
}
