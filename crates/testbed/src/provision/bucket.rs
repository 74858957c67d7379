//! A customer's bucket: who may copy into it, and what arrived there.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use serde_json::json;

use super::{Aws, Customer, Provider, ProvisionError, failed, provider::statement};

/// An object in a customer's bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedObject {
    /// Its key.
    pub key: String,
    /// As it is stored.
    pub bytes: bytes::Bytes,
    /// `x-amz-meta-*`.
    pub metadata: BTreeMap<String, String>,
    /// How it is packed.
    pub content_encoding: Option<String>,
}

impl Customer {
    /// Creates a bucket in the customer's account that the provider's central role may write to, for rows that name no role.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn create_bucket(
        &self,
        aws: &Aws,
        provider: &Provider,
        name: &str,
    ) -> Result<(), ProvisionError> {
        let s3 = aws.account(&self.account).s3();
        // us-east-1 is the one Region that must not be named.
        let place = (self.region != "us-east-1").then(|| {
            let region = BucketLocationConstraint::from(self.region.as_str());
            CreateBucketConfiguration::builder().location_constraint(region).build()
        });
        let create = s3.create_bucket().bucket(name).set_create_bucket_configuration(place);
        create.send().await.map_err(failed("create the customer's bucket"))?;
        let policy = statement(let_central_write(provider, name));
        let put = s3.put_bucket_policy().bucket(name).policy(policy);
        put.send().await.map_err(failed("let the central role write to the customer's bucket"))?;
        Ok(())
    }

    /// Lets both the central role and the customer's own also read a bucket of the customer's, and so look at what a copy
    /// would overwrite. Neither may list it.
    ///
    /// # Errors
    /// When S3 or IAM refuses.
    pub async fn let_look(&self, aws: &Aws, provider: &Provider, bucket: &str) -> Result<(), ProvisionError> {
        let resource = format!("arn:aws:s3:::{bucket}/*");
        let mut look = json!({ "Effect": "Allow", "Action": "s3:GetObject", "Resource": resource });
        self.put_role_policy(aws, &format!("{bucket}-look"), json!([look])).await?;
        look["Principal"] = json!({ "AWS": [&provider.central_role_arn, &root_arn(&provider.account)] });
        let statements = json!([let_central_write(provider, bucket), look]);
        let policy = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        let put = aws.account(&self.account).s3().put_bucket_policy().bucket(bucket).policy(policy);
        put.send().await.map_err(failed("let the central role look into the customer's bucket"))?;
        Ok(())
    }

    async fn put_role_policy(
        &self,
        aws: &Aws,
        name: &str,
        statements: serde_json::Value,
    ) -> Result<(), ProvisionError> {
        let policy = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        let put = [
            ("Action", "PutRolePolicy"),
            ("RoleName", self.role_arn.rsplit('/').next().unwrap_or_default()),
            ("PolicyName", name),
            ("PolicyDocument", &policy),
        ];
        let put = aws.account(&self.account).iam_query(&put).await;
        put.map_err(failed("give the customer's role a policy"))?;
        Ok(())
    }

    /// Lets the customer's role copy objects from the staging bucket into a bucket of the customer's; the staging bucket
    /// must let the account [read](Provider::let_read).
    ///
    /// # Errors
    /// When IAM refuses.
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
        self.put_role_policy(aws, bucket, statements).await
    }

    /// The tenant's row for copies into a bucket, in the customer's role if it is to be entered.
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

    /// Everything in a bucket of the customer's, by key.
    ///
    /// # Errors
    /// When S3 refuses to tell.
    pub async fn objects(&self, aws: &Aws, bucket: &str) -> Result<Vec<ReceivedObject>, ProvisionError> {
        let s3 = aws.account(&self.account).s3();
        let mut pages = s3.list_objects_v2().bucket(bucket).into_paginator().send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(failed("list the customer's bucket"))?;
            for key in page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key) {
                let got = s3.get_object().bucket(bucket).key(&key).send().await;
                let got = got.map_err(failed("read the customer's object"))?;
                objects.push(ReceivedObject {
                    key,
                    metadata: got.metadata.unwrap_or_default().into_iter().collect(),
                    content_encoding: got.content_encoding,
                    bytes: got
                        .body
                        .collect()
                        .await
                        .map_err(failed("read the customer's object"))?
                        .into_bytes(),
                });
            }
        }
        Ok(objects)
    }
}

impl Provider {
    /// Lets these accounts, whose roles copy for themselves, read the staging bucket, and no other account.
    ///
    /// # Errors
    /// When S3 refuses.
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

/// A bucket policy's statement, as the customers of the field have it.
fn let_central_write(provider: &Provider, bucket: &str) -> serde_json::Value {
    json!({
        "Effect": "Allow",
        // Emulators know the account alone.
        "Principal": { "AWS": [&provider.central_role_arn, &root_arn(&provider.account)] },
        "Action": ["s3:PutObject", "s3:PutObjectAcl"],
        "Resource": format!("arn:aws:s3:::{bucket}/*"),
        "Condition": { "StringEquals": { "s3:x-amz-acl": "bucket-owner-full-control" } },
    })
}

fn root_arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}
