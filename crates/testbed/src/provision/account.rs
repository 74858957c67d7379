//! Clients for one account: SDK clients, and signed Query requests for services whose SDK is not a dependency.

use std::time::SystemTime;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::partition;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// Secret key of every account's root, on the sandbox and on ministack.
const ROOT_SECRET: &str = "test";

/// An endpoint that answers the calls of every service and account, and a Region.
#[derive(Clone, Debug)]
pub struct Aws {
    /// `http://HOST:PORT`.
    pub endpoint: String,
    /// Region of every client.
    pub region: String,
    sdk: SdkConfig,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// The root of an account, or a session of one of its roles.
#[derive(Clone, Debug)]
pub struct Account {
    /// Account id: twelve digits.
    pub id: String,
    credentials: Credentials,
    pub(super) aws: Aws,
}

/// A failed Query request.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// AWS refused the request.
    #[error("{code} ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// AWS's error code.
        code: String,
        /// AWS's error message.
        message: String,
    },
    /// The request could not be signed.
    #[error("the request cannot be signed")]
    Unsigned(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer came.
    #[error("the endpoint does not answer")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Aws {
    /// Creates clients for `endpoint`.
    pub fn new(endpoint: &str, region: &str) -> Self {
        let connector = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(endpoint)
            .region(Region::new(region.to_owned()))
            .http_client(connector)
            .build();
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region: region.to_owned(),
            sdk,
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Returns the root of an account, whose access key is the account id.
    pub fn account(&self, id: &str) -> Account {
        let credentials = Credentials::new(id, ROOT_SECRET, None, None, "provision");
        Account { id: id.to_owned(), credentials, aws: self.clone() }
    }
}

impl Account {
    /// Assumes a role and returns its session; `more` are additional parameters of AssumeRole.
    ///
    /// # Errors
    /// STS refused, or no answer came: see [`QueryError`].
    pub async fn assume_role(
        &self,
        role_arn: &str,
        session_name: &str,
        more: &[(&str, &str)],
    ) -> Result<Self, QueryError> {
        let mut parameters =
            vec![("Action", "AssumeRole"), ("RoleArn", role_arn), ("RoleSessionName", session_name)];
        parameters.extend(more);
        let answer = self.sts_query(&parameters).await?;
        let text = |name| element(&answer, name).unwrap_or_default();
        let (key, secret, token) = (text("AccessKeyId"), text("SecretAccessKey"), text("SessionToken"));
        let id = role_arn.split(':').nth(4).unwrap_or_default().to_owned();
        let credentials = Credentials::new(key, secret, Some(token), None, "provision");
        Ok(Self { id, credentials, aws: self.aws.clone() })
    }

    /// Credentials of this account or session, for a process under test.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// SDK configuration of this account, for other clients.
    pub fn sdk_config(&self) -> SdkConfig {
        let provider = SharedCredentialsProvider::new(self.credentials.clone());
        self.aws.sdk.to_builder().credentials_provider(provider).build()
    }

    /// Creates an SQS client.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sdk_config())
    }

    /// Creates an S3 client with path-style addresses.
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::config::Builder::from(&self.sdk_config()).force_path_style(true).build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// Creates a DynamoDB client.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.sdk_config())
    }

    /// Creates a CloudWatch Logs client.
    pub fn logs(&self) -> aws_sdk_cloudwatchlogs::Client {
        aws_sdk_cloudwatchlogs::Client::new(&self.sdk_config())
    }

    /// Sends a request to SNS and returns the XML answer. `parameters` include `Action`.
    ///
    /// # Errors
    /// SNS refused, or no answer came: see [`QueryError`].
    pub async fn sns_query(&self, parameters: &[(&str, &str)]) -> Result<String, QueryError> {
        self.query("sns", &self.aws.region, "2010-03-31", parameters).await
    }

    /// Sends a request to IAM and returns the XML answer. `parameters` include `Action`.
    ///
    /// # Errors
    /// IAM refused, or no answer came: see [`QueryError`].
    pub async fn iam_query(&self, parameters: &[(&str, &str)]) -> Result<String, QueryError> {
        // IAM is global: requests are signed for one Region of the partition.
        let region = if partition(&self.aws.region) == "aws" { "us-east-1" } else { &self.aws.region };
        self.query("iam", region, "2010-05-08", parameters).await
    }

    /// Sends a request to STS and returns the XML answer. `parameters` include `Action`.
    ///
    /// # Errors
    /// STS refused, or no answer came: see [`QueryError`].
    pub async fn sts_query(&self, parameters: &[(&str, &str)]) -> Result<String, QueryError> {
        self.query("sts", &self.aws.region, "2011-06-15", parameters).await
    }

    async fn query(
        &self,
        service: &str,
        region: &str,
        version: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String, QueryError> {
        let mut body = format!("Version={version}");
        for (key, value) in parameters {
            body.push_str(&format!("&{}={}", percent_encoded(key), percent_encoded(value)));
        }
        let request = self.signed(service, region, body).map_err(QueryError::Unsigned)?;
        let response = self.aws.http.request(request).await.map_err(unanswered)?;
        let status = response.status();
        let text = response.into_body().collect().await.map_err(unanswered)?.to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        match status.is_success() {
            true => Ok(text),
            false => Err(QueryError::Refused {
                status: status.as_u16(),
                code: element(&text, "Code").unwrap_or_default(),
                message: element(&text, "Message").unwrap_or(text),
            }),
        }
    }

    fn signed(
        &self,
        service: &str,
        region: &str,
        body: String,
    ) -> Result<http::Request<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let uri: http::Uri = format!("{}/", self.aws.endpoint).parse()?;
        let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default().to_owned();
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let headers = [(HOST.as_str(), host.as_str()), (CONTENT_TYPE.as_str(), FORM)];
        let signable = SignableRequest::new(
            "POST",
            uri.to_string(),
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        )?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        let mut request = http::Request::post(uri).header(HOST, &host).header(CONTENT_TYPE, FORM).body(())?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request.map(|()| Full::from(body)))
    }
}

fn unanswered(error: impl std::error::Error + Send + Sync + 'static) -> QueryError {
    QueryError::Unanswered(Box::new(error))
}

/// Text of the first element with this name in an XML answer.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let node = document.descendants().find(|node| node.tag_name().name() == name)?;
    node.text().map(str::to_owned)
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
