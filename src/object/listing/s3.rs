//! A bucket's listing on S3: ListObjectsV2.

use aws_sdk_s3::{Client, error::ProvideErrorMetadata, types::EncodingType};
use jiff::Timestamp;

use super::{ListedObject, ListingError, ObjectListing, Page};
use crate::{aws::describe, event::decode_key, name::bucket::OwnBucket};

/// Lists a bucket. Needs `s3:ListBucket`.
#[derive(Clone, Debug)]
pub struct S3Listing {
    client: Client,
    bucket: OwnBucket,
}

impl S3Listing {
    /// Lists `bucket` with `client`.
    pub fn new(client: Client, bucket: OwnBucket) -> Self {
        Self { client, bucket }
    }

    fn failed(&self, problem: impl Into<String>) -> ListingError {
        ListingError { bucket: self.bucket.name.clone(), problem: problem.into() }
    }
}

impl ObjectListing for S3Listing {
    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Page, ListingError> {
        let list = self.client.list_objects_v2().bucket(&self.bucket.name).prefix(prefix);
        let output = list
            .set_start_after(after.map(str::to_owned))
            .set_expected_bucket_owner(self.bucket.owner.clone())
            // XML 1.0 has no form for some characters that keys may have.
            .encoding_type(EncodingType::Url)
            .send()
            .await
            .map_err(|error| {
                let fix = match error.code() {
                    Some("AccessDenied") => {
                        "; allow s3:ListBucket on the bucket, and check the owner in source.buckets"
                    }
                    Some("NoSuchBucket") => "; correct --bucket or source.buckets",
                    Some("PermanentRedirect" | "AuthorizationHeaderMalformed") => "; correct aws.region",
                    _ => "",
                };
                self.failed(describe(&error) + fix)
            })?;
        let encoded = output.encoding_type == Some(EncodingType::Url);
        let mut objects = Vec::new();
        for object in output.contents.unwrap_or_default() {
            let key =
                object.key.ok_or_else(|| self.failed("the answer of S3 has an object without a key"))?;
            let key = if encoded { decode_key(&key).map_err(|problem| self.failed(problem))? } else { key };
            let modified = object.last_modified.and_then(|at| Timestamp::from_nanosecond(at.as_nanos()).ok());
            objects.push(ListedObject {
                size: object.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
                etag: object.e_tag.map(|etag| etag.trim_matches('"').to_owned()),
                modified: modified
                    .ok_or_else(|| self.failed(format!("object {key:?} has no LastModified")))?,
                key,
            });
        }
        let more = output.is_truncated.unwrap_or_default();
        if more && objects.is_empty() {
            return Err(
                self.failed("the answer of S3 has no object, but says that more follow; list again later")
            );
        }
        Ok(Page { objects, more })
    }
}

#[cfg(test)]
mod tests {
    use logferry_sandbox::Sandbox;
    use logferry_testbed::provision::{Aws, Provider, ProviderSpec};

    use super::{super::Walk, *};

    async fn keys(listing: &S3Listing, prefix: &str) -> Vec<String> {
        let (mut walk, mut found) = (Walk::new(listing, [prefix.to_owned()]), Vec::new());
        while let Some(listed) = walk.next().await.expect("the sandbox answers") {
            assert!((listed.size, listed.etag.is_some()) == (1, true), "{listed:?}");
            found.push(listed.key);
        }
        found
    }

    #[tokio::test]
    async fn all_pages_are_listed_and_keys_are_decoded() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("l")).await.expect("the provider can be set up");
        let mut expected: Vec<_> = (0..1001).map(|number| format!("p/{number:04}")).collect();
        expected.extend(["q/a b+c%2B", "q/\u{1}", "q/p\u{e4}d/\u{1F680}"].map(str::to_owned));
        for key in &expected {
            provider.upload(&aws, key, "x").await.expect("the object can be put");
        }
        let bucket = OwnBucket { name: provider.bucket.clone(), owner: Some(provider.account.clone()) };
        let listing = S3Listing::new(aws.account(&provider.account).s3(), bucket.clone());
        expected.sort();
        assert_eq!(keys(&listing, "").await, expected);
        assert_eq!(keys(&listing, "p/0999").await, ["p/0999"]);
        for (bucket, problem) in [
            (OwnBucket { owner: Some("999999999999".to_owned()), ..bucket }, "s3:ListBucket"),
            (OwnBucket { name: "nowhere".to_owned(), owner: None }, "--bucket"),
        ] {
            let listing = S3Listing::new(aws.account(&provider.account).s3(), bucket);
            let error = listing.page("", None).await.expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
