//! What all clients of the worker share.

use aws_config::{SdkConfig, stalled_stream_protection::StalledStreamProtectionConfig};

use super::Calls;

/// Credentials, Region, HTTP client, retries and endpoints of all clients, and the interceptor that counts their calls.
///
/// The method of each service returns the configuration of a client, to be changed and built. No client is built from an
/// [`SdkConfig`] directly: its calls would not be counted. Only S3's calls have the SDK's protection against streams that stall:
/// the time limits of the others cover the whole answer. [`S3Store`](crate::object::s3::S3Store) has a limit of its own.
/// Calls that the SDK makes to find our own credentials do not count.
#[derive(Clone, Debug)]
pub struct Base {
    sdk: SdkConfig,
    calls: Calls,
}

impl Base {
    /// The interceptor of all clients.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The configuration of the SDK.
    pub fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }

    /// A copy without credentials, for calls that bring their own.
    pub fn without_credentials(&self) -> Self {
        let mut sdk = self.sdk.to_builder();
        sdk.set_credentials_provider(None);
        Self { sdk: sdk.build(), calls: self.calls.clone() }
    }

    /// For CloudWatch Logs.
    pub fn logs(&self) -> aws_sdk_cloudwatchlogs::config::Builder {
        aws_sdk_cloudwatchlogs::config::Builder::from(&self.sdk)
            .interceptor(self.calls.clone())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
    }

    /// For DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::config::Builder {
        aws_sdk_dynamodb::config::Builder::from(&self.sdk)
            .interceptor(self.calls.clone())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
    }

    /// For S3.
    pub fn s3(&self) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::config::Builder::from(&self.sdk).interceptor(self.calls.clone())
    }

    /// For SNS.
    #[cfg(feature = "wiring")]
    pub fn sns(&self) -> aws_sdk_sns::config::Builder {
        aws_sdk_sns::config::Builder::from(&self.sdk)
            .interceptor(self.calls.clone())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
    }

    /// For SQS.
    pub fn sqs(&self) -> aws_sdk_sqs::config::Builder {
        aws_sdk_sqs::config::Builder::from(&self.sdk)
            .interceptor(self.calls.clone())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
    }

    /// For STS.
    pub fn sts(&self) -> aws_sdk_sts::config::Builder {
        aws_sdk_sts::config::Builder::from(&self.sdk)
            .interceptor(self.calls.clone())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
    }
}

impl From<SdkConfig> for Base {
    fn from(sdk: SdkConfig) -> Self {
        Self { sdk, calls: Calls::default() }
    }
}
