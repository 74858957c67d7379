//! Who we are before any role is assumed.

use aws_sdk_sts::Client;

use crate::aws::describe;

/// What STS calls us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Twelve digits.
    pub account: String,
    /// Of a user, or of a role's session.
    pub arn: String,
}

/// Asks STS whose credentials `sts` signs with, which needs no permission.
///
/// # Errors
/// There are no credentials, they are not valid, or STS does not answer; in the SDK's words.
pub async fn identity(sts: &Client) -> Result<Identity, String> {
    let answer = sts.get_caller_identity().send().await.map_err(|error| describe(&error))?;
    match (answer.account, answer.arn) {
        (Some(account), Some(arn)) => Ok(Identity { account, arn }),
        _ => Err("STS did not say who we are".to_owned()),
    }
}
