//! Reads how the provider's resources are connected, for `logferry doctor`: what a bucket notifies, who may publish and send,
//! and the keys of tables. Judges nothing; the worker itself makes none of these calls.

pub mod policy;
pub mod s3;
pub mod sns;
pub mod tables;

use std::error::Error;

use aws_sdk_sts::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use self::sns::Topics;
use crate::aws::{Base, describe};

/// The clients of these calls. They sign with our own credentials.
#[derive(Debug)]
pub struct Wiring {
    /// Topics and subscriptions.
    pub topics: Topics,
    s3: aws_sdk_s3::Client,
    dynamodb: aws_sdk_dynamodb::Client,
}

impl Wiring {
    /// Builds the clients. Makes no call yet.
    pub fn new(base: &Base, s3: aws_sdk_s3::Client) -> Self {
        let dynamodb = aws_sdk_dynamodb::Client::from_conf(base.dynamodb().build());
        Self { topics: Topics::new(base), s3, dynamodb }
    }
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// IAM denies the call.
    #[error("not checked: needs {permission} ({problem})")]
    Denied {
        /// The permission that is missing.
        permission: &'static str,
        /// AWS's words.
        problem: String,
    },
    /// The resource does not exist.
    #[error("{0}")]
    Missing(String),
    /// AWS does not answer, or with an error that says nothing about the resource.
    #[error("not checked: {0}")]
    Unavailable(String),
    /// The program was built without the client.
    #[error("not checked: this program was built without the feature `wiring`, and has no client for SNS")]
    NotBuilt,
}

impl Unread {
    fn of<E>(permission: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let problem = describe(error);
        let status = error.raw_response().map(|response| response.status().as_u16());
        match (error.code(), status) {
            (Some(code), _) if code.contains("AccessDenied") || code == "AuthorizationError" => {
                Self::Denied { permission, problem }
            }
            (None, Some(403)) => Self::Denied { permission, problem },
            (Some(code), _) if code.contains("NotFound") || code == "NoSuchBucket" => Self::Missing(problem),
            _ => Self::Unavailable(problem),
        }
    }
}
