//! The provider's account: bucket, topic, queue, tables and the two roles, connected as in production.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveSpecification,
};
use aws_sdk_s3::types::{Event, NotificationConfiguration, TopicConfiguration};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use super::account::element;
use super::{Account, Aws, ProvisionError, failed, root_arn};

/// Settings of the provider's account.
#[derive(Clone, Debug)]
pub struct ProviderSpec {
    /// Account id.
    pub account: String,
    /// Prefix of every name, which keeps set-ups apart. The bucket, for example, is `PREFIX-staging`.
    pub prefix: String,
    /// Whether the bucket is versioned, so that events carry version ids.
    pub versioned: bool,
    /// Whether the topic delivers S3's events without the SNS envelope.
    pub raw_delivery: bool,
    /// Receives after which SQS moves a message to the dead-letter queue.
    pub max_receive_count: u32,
    /// Visibility timeout of the queue, in whole seconds.
    pub visibility_timeout: Duration,
    /// Whether the worker's role may send to the queue, which the worker needs for long waits.
    pub worker_may_send: bool,
}

impl ProviderSpec {
    /// Account 111111111111, no versions, SNS envelopes, 5 receives, a visibility timeout of 30 s, and a worker that may send.
    pub fn new(prefix: &str) -> Self {
        Self {
            account: "111111111111".to_owned(),
            prefix: prefix.to_owned(),
            versioned: false,
            raw_delivery: false,
            max_receive_count: 5,
            visibility_timeout: Duration::from_secs(30),
            worker_may_send: true,
        }
    }
}

/// The resources in the provider's account.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Account id.
    pub account: String,
    /// Region.
    pub region: String,
    /// The staging bucket.
    pub bucket: String,
    /// Topic that the bucket notifies.
    pub topic_arn: String,
    /// Queue that is subscribed to the topic.
    pub queue_url: String,
    /// ARN of that queue.
    pub queue_arn: String,
    /// Queue for messages that were received too often.
    pub dead_letter_url: String,
    /// Tenant table, with the key `tenant_id` and `type`.
    pub tenant_table: String,
    /// Ledger table, with the key `object` and `delivery`.
    pub ledger_table: String,
    /// Role of the first hop.
    pub central_role_arn: String,
    /// Role that the worker runs as. The account's root may assume it.
    pub worker_role_arn: String,
}

/// A queue beside the provider's first one.
#[derive(Clone, Debug)]
pub struct FurtherQueue {
    /// The queue.
    pub url: String,
    /// Its dead-letter queue.
    pub dead_letter_url: String,
}

impl Provider {
    /// Creates and connects all resources.
    ///
    /// The bucket notifies the topic before the queue is subscribed, so the queue never receives S3's test event.
    ///
    /// # Errors
    /// The first step that failed; earlier steps are not undone.
    pub async fn create(aws: &Aws, spec: &ProviderSpec) -> Result<Self, ProvisionError> {
        let account = aws.account(&spec.account);
        let name = |base: &str| format!("{}-{base}", spec.prefix);
        let (queue_url, queue_arn, dead_letter_url) = create_queues(&account, spec).await?;
        let bucket = create_bucket(&account, spec).await?;
        let topic_arn = create_topic(&account, &name("events"), &bucket).await?;
        notify_topic(&account, &bucket, &topic_arn).await?;
        allow_topic(&account, &queue_url, &queue_arn, &topic_arn).await?;
        subscribe(&account, &topic_arn, &queue_arn, spec.raw_delivery).await?;
        let tenant_table = create_table(&account, name("tenants"), ["tenant_id", "type"]).await?;
        let ledger_table = create_table(&account, name("ledger"), ["object", "delivery"]).await?;
        expire_by(&account, &ledger_table, "expires_at").await?;
        let worker_role_arn =
            create_worker_role(&account, &name("logferry-worker"), worker_policy(spec, &queue_arn)).await?;
        let central_role =
            create_central_role(&account, &name("central-log-distribution"), &worker_role_arn).await?;
        Ok(Self {
            account: spec.account.clone(),
            region: aws.region.clone(),
            bucket,
            topic_arn,
            queue_url,
            queue_arn,
            dead_letter_url,
            tenant_table,
            ledger_table,
            central_role_arn: central_role,
            worker_role_arn,
        })
    }

    /// Creates a further queue with a dead-letter queue of its own, and subscribes it to the topic. Both queues get every
    /// later event.
    ///
    /// # Errors
    /// The first step that failed; earlier steps are not undone.
    pub async fn further_queue(&self, aws: &Aws, name: &str) -> Result<FurtherQueue, ProvisionError> {
        let account = aws.account(&self.account);
        let prefix = self.bucket.strip_suffix("-staging").unwrap_or(&self.bucket);
        let spec = ProviderSpec { max_receive_count: 100, ..ProviderSpec::new(&format!("{prefix}-{name}")) };
        let (url, arn, dead_letter_url) = create_queues(&account, &spec).await?;
        allow_topic(&account, &url, &arn, &self.topic_arn).await?;
        subscribe(&account, &self.topic_arn, &arn, spec.raw_delivery).await?;
        Ok(FurtherQueue { url, dead_letter_url })
    }

    /// Environment variable that names the ledger's table.
    pub fn ledger_variable(&self) -> (&'static str, String) {
        ("LOGFERRY_LEDGER__TABLE", self.ledger_table.clone())
    }

    /// Environment of a worker: a session of the worker's role, the endpoint, and the names of all resources except the
    /// ledger. The session lasts an hour.
    ///
    /// # Errors
    /// STS refused the session.
    pub async fn worker_environment(&self, aws: &Aws) -> Result<Vec<(&'static str, String)>, ProvisionError> {
        let root = aws.account(&self.account);
        let worker = root.assume_role(&self.worker_role_arn, "worker", &[]).await;
        let worker = worker.map_err(failed("assume the worker's role"))?;
        let credentials = worker.credentials();
        let text = str::to_owned;
        Ok(vec![
            ("AWS_ENDPOINT_URL", aws.endpoint.clone()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ACCESS_KEY_ID", text(credentials.access_key_id())),
            ("AWS_SECRET_ACCESS_KEY", text(credentials.secret_access_key())),
            ("AWS_SESSION_TOKEN", text(credentials.session_token().unwrap_or_default())),
            ("AWS_S3_USE_PATH_STYLE", text("true")),
            ("AWS_EC2_METADATA_DISABLED", text("true")),
            ("SQS_QUEUE_URL", self.queue_url.clone()),
            ("TENANT_CONFIG_TABLE", self.tenant_table.clone()),
            ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", self.central_role_arn.clone()),
            ("LOGFERRY_QUEUE__DEAD_LETTER_URL", self.dead_letter_url.clone()),
            ("LOGFERRY_SOURCE__BUCKETS", format!("{}={}", self.bucket, self.account)),
            ("LOGFERRY_HTTP__LISTEN", text("127.0.0.1:0")),
        ])
    }

    /// Takes the first hop, as a worker does: a session of the worker's role, and its session of the central role.
    ///
    /// # Errors
    /// STS refused one of them.
    pub async fn first_hop(&self, aws: &Aws) -> Result<(Account, Account), ProvisionError> {
        let root = aws.account(&self.account);
        let worker = root.assume_role(&self.worker_role_arn, "worker", &[]).await;
        let worker = worker.map_err(failed("assume the worker's role"))?;
        let central = worker.assume_role(&self.central_role_arn, "central", &[]).await;
        Ok((worker, central.map_err(failed("assume the central role"))?))
    }

    /// Writes a row to the tenant table.
    ///
    /// # Errors
    /// DynamoDB refused.
    pub async fn put_tenant(
        &self,
        aws: &Aws,
        row: HashMap<String, AttributeValue>,
    ) -> Result<(), ProvisionError> {
        let table = aws.account(&self.account).dynamodb();
        let put = table.put_item().table_name(&self.tenant_table).set_item(Some(row)).send();
        put.await.map_err(failed("put the tenant"))?;
        Ok(())
    }

    /// Uploads an object to the staging bucket, which publishes its event.
    ///
    /// # Errors
    /// S3 refused.
    pub async fn upload(
        &self,
        aws: &Aws,
        key: &str,
        bytes: impl Into<bytes::Bytes>,
    ) -> Result<(), ProvisionError> {
        let put = aws.account(&self.account).s3().put_object().bucket(&self.bucket).key(key);
        put.body(bytes.into().into()).send().await.map_err(failed("upload the object"))?;
        Ok(())
    }
}

async fn create_queues(
    account: &Account,
    spec: &ProviderSpec,
) -> Result<(String, String, String), ProvisionError> {
    let dead_letter_url = create_queue(
        account,
        &format!("{}-dead-letters", spec.prefix),
        HashMap::from([(
            // SQS counts the age of a moved message from its first send, so this queue must keep messages for longer than the
            // queue that they come from.
            QueueAttributeName::MessageRetentionPeriod,
            "1209600".to_owned(),
        )]),
    )
    .await?;
    let dead_letter_arn = queue_arn(account, &dead_letter_url).await?;
    let redrive =
        json!({ "deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": spec.max_receive_count });
    let attributes = HashMap::from([
        (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        (QueueAttributeName::VisibilityTimeout, spec.visibility_timeout.as_secs().to_string()),
    ]);
    let queue_url = create_queue(account, &format!("{}-logs", spec.prefix), attributes).await?;
    let queue_arn = queue_arn(account, &queue_url).await?;
    Ok((queue_url, queue_arn, dead_letter_url))
}

async fn create_queue(
    account: &Account,
    name: &str,
    attributes: HashMap<QueueAttributeName, String>,
) -> Result<String, ProvisionError> {
    let create = account.sqs().create_queue().queue_name(name).set_attributes(Some(attributes));
    let created = create.send().await.map_err(failed("create the queue"))?;
    Ok(created.queue_url.unwrap_or_default())
}

async fn queue_arn(account: &Account, url: &str) -> Result<String, ProvisionError> {
    let get = account.sqs().get_queue_attributes().queue_url(url);
    let got =
        get.attribute_names(QueueAttributeName::QueueArn).send().await.map_err(failed("read the queue"))?;
    Ok(got.attributes.and_then(|mut all| all.remove(&QueueAttributeName::QueueArn)).unwrap_or_default())
}

async fn create_bucket(account: &Account, spec: &ProviderSpec) -> Result<String, ProvisionError> {
    let bucket = format!("{}-staging", spec.prefix);
    account.create_bucket(&bucket).await?;
    if spec.versioned {
        account.enable_versioning(&bucket).await?;
    }
    Ok(bucket)
}

async fn create_topic(account: &Account, name: &str, bucket: &str) -> Result<String, ProvisionError> {
    let created = account
        .sns_query(&[("Action", "CreateTopic"), ("Name", name)])
        .await
        .map_err(failed("create the topic"))?;
    let topic_arn = element(&created, "TopicArn").unwrap_or_default();
    let policy =
        allow_service("s3.amazonaws.com", "sns:Publish", &topic_arn, &format!("arn:aws:s3:::{bucket}"));
    account
        .sns_query(&[
            ("Action", "SetTopicAttributes"),
            ("TopicArn", &topic_arn),
            ("AttributeName", "Policy"),
            ("AttributeValue", &policy),
        ])
        .await
        .map_err(failed("let S3 publish to the topic"))?;
    Ok(topic_arn)
}

async fn notify_topic(account: &Account, bucket: &str, topic_arn: &str) -> Result<(), ProvisionError> {
    let created = Event::from("s3:ObjectCreated:*");
    let topic = TopicConfiguration::builder().topic_arn(topic_arn).events(created).build();
    let notification = NotificationConfiguration::builder()
        .topic_configurations(topic.map_err(failed("build the notification"))?)
        .build();
    let put = account.s3().put_bucket_notification_configuration().bucket(bucket);
    put.notification_configuration(notification)
        .send()
        .await
        .map_err(failed("wire the bucket to the topic"))?;
    Ok(())
}

async fn allow_topic(
    account: &Account,
    queue_url: &str,
    queue_arn: &str,
    topic_arn: &str,
) -> Result<(), ProvisionError> {
    let policy = allow_service("sns.amazonaws.com", "sqs:SendMessage", queue_arn, topic_arn);
    let set = account.sqs().set_queue_attributes().queue_url(queue_url);
    set.attributes(QueueAttributeName::Policy, policy)
        .send()
        .await
        .map_err(failed("let the topic send to the queue"))?;
    Ok(())
}

async fn subscribe(
    account: &Account,
    topic_arn: &str,
    queue_arn: &str,
    raw_delivery: bool,
) -> Result<(), ProvisionError> {
    let mut parameters =
        vec![("Action", "Subscribe"), ("TopicArn", topic_arn), ("Protocol", "sqs"), ("Endpoint", queue_arn)];
    if raw_delivery {
        parameters.push(("Attributes.entry.1.key", "RawMessageDelivery"));
        parameters.push(("Attributes.entry.1.value", "true"));
    }
    account.sns_query(&parameters).await.map_err(failed("subscribe the queue"))?;
    Ok(())
}

async fn create_table(
    account: &Account,
    name: String,
    [hash, range]: [&str; 2],
) -> Result<String, ProvisionError> {
    let mut create =
        account.dynamodb().create_table().table_name(&name).billing_mode(BillingMode::PayPerRequest);
    for (attribute, key_type) in [(hash, KeyType::Hash), (range, KeyType::Range)] {
        let key = KeySchemaElement::builder().attribute_name(attribute).key_type(key_type).build();
        let definition = AttributeDefinition::builder()
            .attribute_name(attribute)
            .attribute_type(ScalarAttributeType::S)
            .build();
        create = create
            .key_schema(key.map_err(failed("build the table's key"))?)
            .attribute_definitions(definition.map_err(failed("build the table's key"))?);
    }
    create.send().await.map_err(failed("create the table"))?;
    Ok(name)
}

async fn expire_by(account: &Account, table: &str, attribute: &str) -> Result<(), ProvisionError> {
    let specification = TimeToLiveSpecification::builder().attribute_name(attribute).enabled(true).build();
    let update = account.dynamodb().update_time_to_live().table_name(table);
    update
        .time_to_live_specification(specification.map_err(failed("build the time to live"))?)
        .send()
        .await
        .map_err(failed("set the time to live"))?;
    Ok(())
}

async fn create_worker_role(account: &Account, name: &str, policy: Value) -> Result<String, ProvisionError> {
    let trust = statement(json!({
        "Effect": "Allow",
        "Principal": { "AWS": root_arn(&account.id) },
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
    }));
    create_role(account, name, &trust, policy).await
}

fn worker_policy(spec: &ProviderSpec, queue_arn: &str) -> Value {
    let allowed = json!({
        "Effect": "Allow",
        "Action": [
            "sqs:*", "dynamodb:*", "s3:GetObject*", "s3:PutObject*", "s3:DeleteObject", "s3:ListBucket", "s3:GetBucket*", "sns:Get*",
            "sns:List*", "sts:AssumeRole", "sts:SetSourceIdentity",
        ],
        "Resource": "*",
    });
    let denied = json!({ "Effect": "Deny", "Action": "sqs:SendMessage", "Resource": queue_arn });
    if spec.worker_may_send { json!([allowed]) } else { json!([allowed, denied]) }
}

async fn create_central_role(
    account: &Account,
    name: &str,
    worker_role_arn: &str,
) -> Result<String, ProvisionError> {
    let trust = statement(json!({
        "Effect": "Allow",
        "Principal": { "AWS": [worker_role_arn, root_arn(&account.id)] },
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
    }));
    // The S3 actions are for copies into buckets of customers whose row names no role.
    let policy = json!([{
        "Effect": "Allow",
        "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity", "s3:GetObject*", "s3:PutObject*"],
        "Resource": "*",
    }]);
    create_role(account, name, &trust, policy).await
}

/// Creates a role with one inline policy and returns its ARN. The name may contain a path.
pub(super) async fn create_role(
    account: &Account,
    name: &str,
    trust: &str,
    policy: Value,
) -> Result<String, ProvisionError> {
    let (path, name) = name.rsplit_once('/').unwrap_or(("", name));
    let path = if path.is_empty() { "/".to_owned() } else { format!("/{}/", path.trim_matches('/')) };
    let created = account
        .iam_query(&[
            ("Action", "CreateRole"),
            ("RoleName", name),
            ("Path", &path),
            ("AssumeRolePolicyDocument", trust),
        ])
        .await
        .map_err(failed("create the role"))?;
    account.put_role_policy(name, "logferry", policy).await?;
    Ok(element(&created, "Arn").unwrap_or_default())
}

impl Account {
    /// Creates or replaces an inline policy of a role.
    ///
    /// # Errors
    /// IAM refused.
    pub async fn put_role_policy(
        &self,
        role: &str,
        name: &str,
        statements: Value,
    ) -> Result<(), ProvisionError> {
        let put = [
            ("Action", "PutRolePolicy"),
            ("RoleName", role),
            ("PolicyName", name),
            ("PolicyDocument", &document(statements)),
        ];
        self.iam_query(&put).await.map_err(failed("put the role's policy"))?;
        Ok(())
    }
}

/// Policy that allows a service `action` on `resource` when it acts for `source`.
fn allow_service(service: &str, action: &str, resource: &str, source: &str) -> String {
    statement(json!({
        "Effect": "Allow",
        "Principal": { "Service": service },
        "Action": action,
        "Resource": resource,
        "Condition": { "ArnLike": { "aws:SourceArn": source } },
    }))
}

/// Policy document with one statement.
pub(super) fn statement(statement: Value) -> String {
    document(json!([statement]))
}

pub(super) fn document(statements: Value) -> String {
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}
