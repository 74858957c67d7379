//! Our own credentials, found like those of any AWS program, with errors that name the profile.

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{
        self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError,
        future::ProvideCredentials as Future,
    },
};

use crate::aws::chain;

/// The profile that AWS programs use by default.
const DEFAULT_PROFILE: &str = "default";
/// The SDK's words if a profile needs a cargo feature that this build lacks; the feature's name follows. The SDK gives only
/// this text, no type.
const LEFT_OUT: &str = "cargo feature(s) enabled: ";

/// A credentials provider, and the profile that it reads.
#[derive(Debug)]
struct Profiled {
    provider: SharedCredentialsProvider,
    /// The value of `AWS_PROFILE`.
    profile: Option<String>,
}

/// Wraps the credentials provider of `sdk`, so that its errors name `profile`, the value of `AWS_PROFILE`.
pub(super) fn naming_profile(sdk: SdkConfig, profile: Option<String>) -> SdkConfig {
    let Some(provider) = sdk.credentials_provider() else { return sdk };
    let profile = profile.filter(|profile| !profile.is_empty());
    let provider = SharedCredentialsProvider::new(Profiled { provider, profile });
    sdk.into_builder().credentials_provider(provider).build()
}

impl Profiled {
    async fn credentials(&self) -> provider::Result {
        let found = self.provider.provide_credentials().await;
        found.map_err(|error| CredentialsError::provider_error(explain(&error, self.profile.as_deref())))
    }
}

impl ProvideCredentials for Profiled {
    fn provide_credentials<'a>(&'a self) -> Future<'a>
    where
        Self: 'a,
    {
        Future::new(self.credentials())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.provider.fallback_on_interrupt()
    }
}

/// Why there are no credentials, and the remedy, in one line.
fn explain(error: &CredentialsError, profile: Option<&str>) -> String {
    let name = profile.unwrap_or(DEFAULT_PROFILE);
    let problem = chain(error);
    if let Some((_, feature)) = problem.split_once(LEFT_OUT) {
        let way = if feature.starts_with("sso") { "IAM Identity Center" } else { "aws login" };
        return format!(
            "profile {name:?} signs in by {way}, which this program does not support; take its credentials from the AWS CLI: \
             eval \"$(aws configure export-credentials --profile {name} --format env)\""
        );
    }
    // The SDK's own text lists all providers, one per line.
    if matches!(error, CredentialsError::CredentialsNotLoaded(_)) {
        return match profile {
            Some(name) => format!(
                "profile {name:?} is not in AWS's configuration files, or has no credentials; see AWS_PROFILE, AWS_CONFIG_FILE and \
                 AWS_SHARED_CREDENTIALS_FILE"
            ),
            None => "there are no credentials: no AWS_ACCESS_KEY_ID, no profile, and no role of ECS, EKS or EC2; to use a profile, \
                     set AWS_PROFILE"
                .to_owned(),
        };
    }
    if profile.is_none() && !matches!(error, CredentialsError::InvalidConfiguration(_)) {
        return problem;
    }
    let remedy = if problem.contains("SSO token") {
        format!("; sign in again: aws sso login --profile {name}")
    } else {
        String::new()
    };
    format!("profile {name:?}: {problem}{remedy}")
}
