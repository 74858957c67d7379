//! Accounts of customers: the role that the provider assumes, the log group, and the events that arrived.

use std::collections::HashMap;

use aws_sdk_cloudwatchlogs::types::OutputLogEvent;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;

use super::provider::{create_role, statement};
use super::{Aws, Provider, ProvisionError, failed, partition};

/// Settings of a customer's account.
#[derive(Clone, Debug)]
pub struct CustomerSpec {
    /// Key of the tenant's row.
    pub tenant_id: String,
    /// Name of the role, with or without a path (`team/Name`).
    pub role_name: String,
    /// External id that the trust policy requires.
    pub external_id: String,
    /// Destination log group. The role may write to every group whose name begins with this name.
    pub log_group: String,
    /// Whether the log group is created.
    pub create_group: bool,
    /// Actions on the role that the trust policy allows to the central role.
    pub allow: Vec<TrustAction>,
    /// Conditions and actions of the role's policies.
    pub policies: Policies,
}

/// Variants of the policies of a customer's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policies {
    /// The trust policy requires the external id. The role may create the log group and set its retention.
    Full,
    /// The policies of most existing customers: the trust policy has no condition, and the role may only
    /// `logs:CreateLogStream` and `logs:PutLogEvents` on the log group's ARN with `:*`.
    Published,
}

/// An action that a customer's trust policy can allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustAction {
    /// `sts:AssumeRole`, which every delivery needs.
    AssumeRole,
    /// `sts:TagSession`, for session tags.
    TagSession,
    /// `sts:SetSourceIdentity`, for a source identity.
    SetSourceIdentity,
}

impl TrustAction {
    fn name(self) -> &'static str {
        match self {
            Self::AssumeRole => "sts:AssumeRole",
            Self::TagSession => "sts:TagSession",
            Self::SetSourceIdentity => "sts:SetSourceIdentity",
        }
    }
}

impl CustomerSpec {
    /// Settings of an ordinary customer: the log group exists, and the trust policy allows only `sts:AssumeRole`.
    pub fn new(tenant_id: &str) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            role_name: format!("{tenant_id}-log-distribution"),
            external_id: format!("{tenant_id}-external-id"),
            log_group: format!("/logferry/{tenant_id}"),
            create_group: true,
            allow: vec![TrustAction::AssumeRole],
            policies: Policies::Full,
        }
    }
}

/// The resources in a customer's account.
#[derive(Clone, Debug)]
pub struct Customer {
    /// Account id.
    pub account: String,
    /// Region.
    pub region: String,
    /// Key of the tenant's row.
    pub tenant_id: String,
    /// The role of the second hop.
    pub role_arn: String,
    /// External id that the role requires.
    pub external_id: String,
    /// Destination log group.
    pub log_group: String,
}

/// One event as CloudWatch Logs returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// Name of the log stream.
    pub stream: String,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Message text.
    pub message: String,
    /// Milliseconds since 1970.
    pub ingestion_time: i64,
}

impl Customer {
    /// Creates the role and, if `spec` says so, the log group.
    ///
    /// # Errors
    /// The first step that failed; earlier steps are not undone.
    pub async fn create(
        aws: &Aws,
        account: &str,
        provider: &Provider,
        spec: CustomerSpec,
    ) -> Result<Self, ProvisionError> {
        let CustomerSpec { tenant_id, role_name, external_id, log_group, create_group, allow, policies } =
            spec;
        let root = aws.account(account);
        let asked_for = (policies == Policies::Full).then_some(external_id.as_str());
        let trust = trust(provider, asked_for, &allow);
        let (partition, region) = (partition(&aws.region), &aws.region);
        let group = format!("arn:{partition}:logs:{region}:{account}:log-group:{log_group}");
        let policy = json!([match policies {
            Policies::Full => json!({
                "Effect": "Allow",
                "Action": [
                    "logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:PutRetentionPolicy",
                ],
                // The star covers AWS's ARNs (`NAME:*`) and those of emulators (`NAME`).
                "Resource": format!("{group}*"),
            }),
            Policies::Published => json!({
                "Effect": "Allow",
                "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                "Resource": format!("{group}:*"),
            }),
        }]);
        let role_arn = create_role(&root, &role_name, &trust, policy).await?;
        if create_group {
            let create = root.logs().create_log_group().log_group_name(&log_group);
            create.send().await.map_err(failed("create the log group"))?;
        }
        let region = aws.region.clone();
        Ok(Self { account: account.to_owned(), region, tenant_id, role_arn, external_id, log_group })
    }

    /// Replaces the role's trust policy. The new one allows the central role only `actions`. If `actions` is empty, STS
    /// refuses the role to everyone. Existing sessions stay valid.
    ///
    /// # Errors
    /// IAM refused.
    pub async fn allow(
        &self,
        aws: &Aws,
        provider: &Provider,
        actions: &[TrustAction],
    ) -> Result<(), ProvisionError> {
        let policy = match actions {
            [] => statement(json!({ "Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole" })),
            actions => trust(provider, Some(&self.external_id), actions),
        };
        let update = [
            ("Action", "UpdateAssumeRolePolicy"),
            ("RoleName", self.role_name()),
            ("PolicyDocument", &policy),
        ];
        let root = aws.account(&self.account);
        root.iam_query(&update).await.map_err(failed("replace the role's trust policy"))?;
        Ok(())
    }

    /// Name of the role, without its path.
    pub(super) fn role_name(&self) -> &str {
        self.role_arn.rsplit('/').next().unwrap_or_default()
    }

    /// Row of the tenant for delivery to this account's CloudWatch Logs.
    pub fn row(&self) -> HashMap<String, AttributeValue> {
        let texts = [
            ("tenant_id", &self.tenant_id),
            ("type", &"cloudwatch".to_owned()),
            ("target_region", &self.region),
            ("log_distribution_role_arn", &self.role_arn),
            ("external_id", &self.external_id),
            ("log_group_name", &self.log_group),
        ]
        .map(|(name, text)| (name.to_owned(), AttributeValue::S(text.clone())));
        let mut row = HashMap::from(texts);
        row.insert("enabled".to_owned(), AttributeValue::Bool(true));
        row
    }

    /// All events in the log group, stream by stream, each stream in the order of CloudWatch Logs. Empty if there is no such
    /// group.
    ///
    /// # Errors
    /// CloudWatch Logs refused.
    pub async fn events(&self, aws: &Aws) -> Result<Vec<ReceivedEvent>, ProvisionError> {
        let logs = aws.account(&self.account).logs();
        let mut events = Vec::new();
        for stream in self.streams(&logs).await? {
            let mut token = None;
            loop {
                let get = logs.get_log_events().log_group_name(&self.log_group).log_stream_name(&stream);
                let page = get.start_from_head(true).set_next_token(token.clone()).send();
                let page = page.await.map_err(failed("read the log events"))?;
                events.extend(
                    page.events.unwrap_or_default().into_iter().map(|event| received(&stream, event)),
                );
                // At the end of a stream AWS returns the same token again.
                if page.next_forward_token.is_none() || page.next_forward_token == token {
                    break;
                }
                token = page.next_forward_token;
            }
        }
        Ok(events)
    }

    async fn streams(&self, logs: &aws_sdk_cloudwatchlogs::Client) -> Result<Vec<String>, ProvisionError> {
        let mut streams = Vec::new();
        let mut token = None;
        loop {
            let describe = logs.describe_log_streams().log_group_name(&self.log_group);
            let page = match describe.set_next_token(token).send().await {
                Ok(page) => page,
                Err(error)
                    if error.as_service_error().is_some_and(|e| e.is_resource_not_found_exception()) =>
                {
                    return Ok(streams);
                }
                Err(error) => return Err(failed("list the log streams")(error)),
            };
            streams.extend(
                page.log_streams.unwrap_or_default().into_iter().filter_map(|stream| stream.log_stream_name),
            );
            match page.next_token {
                Some(next) => token = Some(next),
                None => return Ok(streams),
            }
        }
    }
}

fn trust(provider: &Provider, external_id: Option<&str>, actions: &[TrustAction]) -> String {
    let mut allowed = json!({
        "Effect": "Allow",
        "Principal": { "AWS": provider.central_role_arn },
        "Action": actions.iter().map(|action| action.name()).collect::<Vec<_>>(),
    });
    if let Some(external_id) = external_id {
        allowed["Condition"] = json!({ "StringEquals": { "sts:ExternalId": external_id } });
    }
    statement(allowed)
}

fn received(stream: &str, event: OutputLogEvent) -> ReceivedEvent {
    ReceivedEvent {
        stream: stream.to_owned(),
        timestamp: event.timestamp.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        ingestion_time: event.ingestion_time.unwrap_or_default(),
    }
}
