//! Buckets of customers: policies that allow copies, and the objects that arrived.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, VersioningConfiguration,
};
use serde_json::json;

use super::{
    Account, Aws, Customer, Provider, ProvisionError, failed,
    provider::{document, statement},
    root_arn,
};

/// An object in a customer's bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedObject {
    /// Object key.
    pub key: String,
    /// Body as stored.
    pub bytes: bytes::Bytes,
    /// `x-amz-meta-*`.
    pub metadata: BTreeMap<String, String>,
    /// Content-Encoding.
    pub content_encoding: Option<String>,
}

impl Customer {
    /// Creates a bucket in the customer's account and allows the provider's central role to write to it. The worker copies
    /// with the central role if the tenant's row names no role.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn create_bucket(
        &self,
        aws: &Aws,
        provider: &Provider,
        name: &str,
    ) -> Result<(), ProvisionError> {
        let account = aws.account(&self.account);
        account.create_bucket(name).await?;
        let policy = statement(let_central_write(provider, name));
        let put = account.s3().put_bucket_policy().bucket(name).policy(policy);
        put.send().await.map_err(failed("let the central role write to the customer's bucket"))?;
        Ok(())
    }

    /// Allows the central role and the customer's role to read the objects in a bucket of the customer, so that a worker can
    /// look at an object before a copy overwrites it. Neither role may list the bucket.
    ///
    /// # Errors
    /// S3 or IAM refused.
    pub async fn let_look(&self, aws: &Aws, provider: &Provider, bucket: &str) -> Result<(), ProvisionError> {
        let resource = format!("arn:aws:s3:::{bucket}/*");
        let mut look = json!({ "Effect": "Allow", "Action": "s3:GetObject", "Resource": resource });
        let account = aws.account(&self.account);
        account.put_role_policy(self.role_name(), &format!("{bucket}-look"), json!([look])).await?;
        look["Principal"] = json!({ "AWS": [&provider.central_role_arn, &root_arn(&provider.account)] });
        let policy = document(json!([let_central_write(provider, bucket), look]));
        let put = account.s3().put_bucket_policy().bucket(bucket).policy(policy);
        put.send().await.map_err(failed("let the central role look into the customer's bucket"))?;
        Ok(())
    }

    /// Allows the customer's role to copy objects from the staging bucket into a bucket of the customer. The staging
    /// bucket must [allow the account to read](Provider::let_read).
    ///
    /// # Errors
    /// IAM refused.
    pub async fn let_role_copy(
        &self,
        aws: &Aws,
        provider: &Provider,
        bucket: &str,
    ) -> Result<(), ProvisionError> {
        let statements = json!([
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                "Resource": format!("arn:aws:s3:::{}/*", provider.bucket),
            },
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:PutObjectAcl"],
                "Resource": format!("arn:aws:s3:::{bucket}/*"),
            },
        ]);
        aws.account(&self.account).put_role_policy(self.role_name(), bucket, statements).await
    }

    /// Lets the customer's role write lake files into a bucket, as `cloudformation/customer.yaml` does.
    ///
    /// # Errors
    /// IAM refused.
    pub async fn let_role_write_lake(&self, aws: &Aws, bucket: &str) -> Result<(), ProvisionError> {
        let statements = json!([{
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload"],
            "Resource": format!("arn:aws:s3:::{bucket}/*"),
        }]);
        aws.account(&self.account).put_role_policy(self.role_name(), bucket, statements).await
    }

    /// Lets the customer's role write and compact lake files in a bucket, as `cloudformation/customer.yaml` does.
    ///
    /// # Errors
    /// IAM refused.
    pub async fn let_role_compact_lake(&self, aws: &Aws, bucket: &str) -> Result<(), ProvisionError> {
        let actions = [
            "s3:GetObject",
            "s3:PutObject",
            "s3:PutObjectRetention",
            "s3:AbortMultipartUpload",
            "s3:DeleteObject",
        ];
        let statements = json!([
            { "Effect": "Allow", "Action": "s3:ListBucket", "Resource": format!("arn:aws:s3:::{bucket}") },
            { "Effect": "Allow", "Action": actions, "Resource": format!("arn:aws:s3:::{bucket}/*") },
        ]);
        aws.account(&self.account).put_role_policy(self.role_name(), bucket, statements).await
    }

    /// Row of the tenant for copies into a bucket. With `in_role` the worker assumes the customer's role to copy.
    pub fn bucket_row(&self, bucket: &str, in_role: bool) -> HashMap<String, AttributeValue> {
        let mut row = self.row();
        row.remove("log_group_name");
        if !in_role {
            row.remove("log_distribution_role_arn");
            row.remove("external_id");
        }
        row.insert("type".to_owned(), AttributeValue::S("s3".to_owned()));
        row.insert("bucket_name".to_owned(), AttributeValue::S(bucket.to_owned()));
        row
    }

    /// Row `s3#lake` of the tenant for a lake in a bucket, which the customer's role writes.
    pub fn lake_row(&self, bucket: &str, format: &str) -> HashMap<String, AttributeValue> {
        let mut row = self.bucket_row(bucket, true);
        for (field, value) in [("type", "s3#lake"), ("format", format)] {
            row.insert(field.to_owned(), AttributeValue::S(value.to_owned()));
        }
        row
    }

    /// All objects in a bucket of the customer, by key.
    ///
    /// # Errors
    /// S3 refused.
    pub async fn objects(&self, aws: &Aws, bucket: &str) -> Result<Vec<ReceivedObject>, ProvisionError> {
        aws.account(&self.account).objects(bucket).await
    }
}

impl Account {
    /// Creates a bucket in the clients' Region.
    ///
    /// # Errors
    /// S3 refused.
    pub async fn create_bucket(&self, name: &str) -> Result<(), ProvisionError> {
        let region = self.aws.region.as_str();
        // S3 refuses us-east-1 as a location constraint.
        let place = (region != "us-east-1").then(|| {
            let region = BucketLocationConstraint::from(region);
            CreateBucketConfiguration::builder().location_constraint(region).build()
        });
        let create = self.s3().create_bucket().bucket(name).set_create_bucket_configuration(place);
        create.send().await.map_err(failed("create the bucket"))?;
        Ok(())
    }

    /// Switches versioning of a bucket on.
    ///
    /// # Errors
    /// S3 refused.
    pub async fn enable_versioning(&self, bucket: &str) -> Result<(), ProvisionError> {
        let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let put = self.s3().put_bucket_versioning().bucket(bucket).versioning_configuration(versioning);
        put.send().await.map_err(failed("switch versioning on"))?;
        Ok(())
    }

    /// All objects in a bucket, by key.
    ///
    /// # Errors
    /// S3 refused.
    pub async fn objects(&self, bucket: &str) -> Result<Vec<ReceivedObject>, ProvisionError> {
        let s3 = self.s3();
        let mut pages = s3.list_objects_v2().bucket(bucket).into_paginator().send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("list the bucket"))?;
            for key in page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key) {
                let got = s3.get_object().bucket(bucket).key(&key).send().await;
                let got = got.map_err(failed("read the object"))?;
                let metadata = got.metadata.unwrap_or_default().into_iter().collect();
                let bytes = got.body.collect().await.map_err(failed("read the object"))?.into_bytes();
                objects.push(ReceivedObject { key, metadata, content_encoding: got.content_encoding, bytes });
            }
        }
        Ok(objects)
    }
}

impl Provider {
    /// Allows these accounts, and no others, to read the staging bucket, so that roles of the accounts can copy from it.
    ///
    /// # Errors
    /// S3 refused.
    pub async fn let_read(&self, aws: &Aws, accounts: &[&str]) -> Result<(), ProvisionError> {
        let policy = statement(json!({
            "Effect": "Allow",
            "Principal": { "AWS": accounts.iter().map(|account| root_arn(account)).collect::<Vec<_>>() },
            "Action": ["s3:GetObject", "s3:GetObjectVersion"],
            "Resource": format!("arn:aws:s3:::{}/*", self.bucket),
        }));
        let put = aws.account(&self.account).s3().put_bucket_policy().bucket(&self.bucket).policy(policy);
        put.send().await.map_err(failed("let the customers read the staging bucket"))?;
        Ok(())
    }
}

/// Bucket policy statement that existing customers use.
fn let_central_write(provider: &Provider, bucket: &str) -> serde_json::Value {
    json!({
        "Effect": "Allow",
        // Emulators know only the account's root.
        "Principal": { "AWS": [&provider.central_role_arn, &root_arn(&provider.account)] },
        "Action": ["s3:PutObject", "s3:PutObjectAcl"],
        "Resource": format!("arn:aws:s3:::{bucket}/*"),
        "Condition": { "StringEquals": { "s3:x-amz-acl": "bucket-owner-full-control" } },
    })
}
