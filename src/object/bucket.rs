//! Checks that the buckets in the configuration exist, for readiness and `logferry doctor`.

use aws_sdk_s3::Client;

use crate::{aws::describe, name::bucket::OwnBucket};

/// Reason why the check of a bucket failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// The bucket does not exist.
    #[error("bucket {0:?} does not exist")]
    Missing(String),
    /// The bucket is in another Region than `aws.region`.
    #[error("bucket {bucket:?} is in Region {region}, and not in aws.region")]
    Elsewhere {
        /// The bucket.
        bucket: String,
        /// Its Region, or `unknown`.
        region: String,
    },
    /// The bucket exists, but S3 denies HeadBucket. Its objects may still be readable.
    #[error(
        "HeadBucket is denied for bucket {0:?}: the worker needs s3:ListBucket, and the account in the configuration must \
         own the bucket"
    )]
    Hidden(String),
    /// The bucket exists, and belongs to another account than the configuration says.
    #[error(
        "bucket {bucket:?} does not belong to account {owner}, which the configuration names as its owner"
    )]
    Foreign {
        /// The bucket.
        bucket: String,
        /// The account in the configuration.
        owner: String,
    },
    /// S3 does not answer, or its answer is unknown.
    #[error("bucket {bucket:?}: {problem}")]
    Unavailable {
        /// The bucket.
        bucket: String,
        /// Error text of the SDK.
        problem: String,
    },
}

/// Checks that a bucket exists and has the owner in the configuration, with HeadBucket, which needs `s3:ListBucket`.
///
/// # Errors
/// See [`BucketError`].
pub async fn probe(client: &Client, bucket: &OwnBucket) -> Result<(), BucketError> {
    let head = |owner| client.head_bucket().bucket(&bucket.name).set_expected_bucket_owner(owner).send();
    let Err(error) = head(bucket.owner.clone()).await else { return Ok(()) };
    let name = || bucket.name.clone();
    let Some(response) = error.raw_response() else {
        return Err(BucketError::Unavailable { bucket: name(), problem: describe(&error) });
    };
    // The answer to HEAD has no body, so it has no error code. Source: S3 API reference, HeadBucket.
    Err(match response.status().as_u16() {
        404 => BucketError::Missing(name()),
        301 | 307 => {
            let region = response.headers().get("x-amz-bucket-region").unwrap_or("unknown").to_owned();
            BucketError::Elsewhere { bucket: name(), region }
        }
        // S3 gives this answer to a caller without the permission, and for another owner than the expected one.
        403 => match &bucket.owner {
            Some(owner) if head(None).await.is_ok() => {
                BucketError::Foreign { bucket: name(), owner: owner.clone() }
            }
            _ => BucketError::Hidden(name()),
        },
        _ => BucketError::Unavailable { bucket: name(), problem: describe(&error) },
    })
}

#[cfg(test)]
mod tests {
    use logferry_sandbox::{
        Sandbox,
        faults::{Effect, ErrorAnswer, Fault},
    };
    use logferry_testbed::provision::{Aws, Provider, ProviderSpec};

    use super::*;

    #[tokio::test]
    async fn each_answer_of_s3_gives_its_error() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("b")).await.expect("the provider can be set up");
        let s3 = aws.account(&provider.account).s3();
        let stranger = aws.account("999999999999").s3();
        let bucket = |text: &str| text.parse::<OwnBucket>().expect("a bucket");
        let ours = bucket(&provider.bucket);
        assert_eq!(probe(&s3, &ours).await, Ok(()));
        assert_eq!(probe(&stranger, &ours).await, Err(BucketError::Hidden(ours.name.clone())));
        let foreign = bucket(&format!("{}=999999999999", ours.name));
        let owner = "999999999999".to_owned();
        let expected = Err(BucketError::Foreign { bucket: ours.name.clone(), owner });
        assert_eq!(probe(&s3, &foreign).await, expected);
        assert_eq!(
            probe(&stranger, &bucket(&format!("{}={}", ours.name, provider.account))).await,
            Err(BucketError::Hidden(ours.name.clone()))
        );
        let nowhere = probe(&s3, &bucket("nowhere")).await;
        assert_eq!(nowhere, Err(BucketError::Missing("nowhere".to_owned())));
        let down = Effect::Error(ErrorAnswer::new(500, "InternalError"));
        sandbox.faults().add(Fault::new("s3", "HeadBucket", down));
        let told = probe(&s3, &ours).await;
        assert!(matches!(told, Err(BucketError::Unavailable { .. })), "{told:?}");
    }
}
