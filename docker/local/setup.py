"""Creates on ministack what a worker needs, and shows what arrives.

Usage: setup.py create     creates bucket, topic, queues, tables, roles and one customer; repeating it changes nothing
       setup.py put        puts an object of 100 log lines with the current time into the staging bucket
       setup.py delivered  prints the lines in the customer's log group; fails if there is none

Needs botocore, which ministack brings. Reads AWS_ENDPOINT_URL and AWS_REGION.
"""

import datetime
import gzip
import json
import os
import sys
import uuid

import botocore.session
from botocore.config import Config

PROVIDER, CUSTOMER = "111111111111", "222222222222"
REGION = os.environ["AWS_REGION"]
BUCKET, TOPIC, QUEUE, DEAD_LETTERS = "logferry-staging", "logferry-events", "logferry", "logferry-dead-letters"
TENANT, EXTERNAL_ID, LOG_GROUP = "acme-corp", "logs-for-acme", "/managed-kubernetes/acme-corp"
CENTRAL_ROLE, CUSTOMER_ROLE = "central-log-distribution", "customer-log-distribution"


def client(service, account=PROVIDER):
    """Returns a client of the account's root: on ministack the access key id is the account id."""
    return botocore.session.get_session().create_client(
        service,
        region_name=REGION,
        aws_access_key_id=account,
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}),
    )


def policy(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def from_service(service, action, resource, source):
    return policy(
        Principal={"Service": service},
        Action=action,
        Resource=resource,
        Condition={"ArnLike": {"aws:SourceArn": source}},
    )


def unless_exists(call, **arguments):
    """Makes the call; an answer that the resource exists already is a success."""
    try:
        call(**arguments)
    except call.__self__.exceptions.ClientError as error:
        if "Exist" not in error.response["Error"]["Code"] and "InUse" not in error.response["Error"]["Code"]:
            raise


def role(account, name, trusted, external_id, **allowed):
    iam = client("iam", account)
    condition = {"Condition": {"StringEquals": {"sts:ExternalId": external_id}}} if external_id else {}
    trust = policy(Principal={"AWS": trusted}, Action="sts:AssumeRole", **condition)
    unless_exists(iam.create_role, RoleName=name, AssumeRolePolicyDocument=trust)
    iam.put_role_policy(RoleName=name, PolicyName="logferry", PolicyDocument=policy(**allowed))
    return f"arn:aws:iam::{account}:role/{name}"


def queue(name, days, **attributes):
    sqs = client("sqs")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    retention = {"MessageRetentionPeriod": str(days * 86400)}
    sqs.set_queue_attributes(QueueUrl=url, Attributes=retention | attributes)


def table(name, *keys):
    unless_exists(
        client("dynamodb").create_table,
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"))],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
    )


def create():
    queue_arn, letters_arn = (f"arn:aws:sqs:{REGION}:{PROVIDER}:{name}" for name in (QUEUE, DEAD_LETTERS))
    s3, sns = client("s3"), client("sns")
    topic = sns.create_topic(Name=TOPIC)["TopicArn"]
    publish = from_service("s3.amazonaws.com", "sns:Publish", topic, f"arn:aws:s3:::{BUCKET}")
    sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=publish)
    # A message keeps its sending time when SQS moves it, so dead letters are kept for longer.
    queue(DEAD_LETTERS, 14)
    queue(
        QUEUE,
        7,
        RedrivePolicy=json.dumps({"deadLetterTargetArn": letters_arn, "maxReceiveCount": 100}),
        Policy=from_service("sns.amazonaws.com", "sqs:SendMessage", queue_arn, topic),
    )
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn)
    # Only us-east-1 takes no LocationConstraint.
    place = {} if REGION == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
    unless_exists(s3.create_bucket, Bucket=BUCKET, **place)
    # The collector also writes objects without a tenant, below unroutable/. The worker does not read them.
    rules = [{"Name": "prefix", "Value": "logs/"}, {"Name": "suffix", "Value": ".gz"}]
    notification = {"TopicArn": topic, "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": rules}}}
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"TopicConfigurations": [notification]}
    )
    table("logferry-tenants", "tenant_id", "type")
    table("logferry-ledger", "object", "delivery")
    client("dynamodb").update_time_to_live(
        TableName="logferry-ledger", TimeToLiveSpecification={"AttributeName": "expires_at", "Enabled": True}
    )

    customer_role = f"arn:aws:iam::{CUSTOMER}:role/{CUSTOMER_ROLE}"
    central_role = role(
        PROVIDER, CENTRAL_ROLE, f"arn:aws:iam::{PROVIDER}:root", None, Action="sts:AssumeRole", Resource=customer_role
    )
    # AWS names a group's streams `NAME:*`; ministack checks the group's ARN without `:*`.
    role(
        CUSTOMER,
        CUSTOMER_ROLE,
        central_role,
        EXTERNAL_ID,
        Action=["logs:CreateLogStream", "logs:PutLogEvents"],
        Resource=f"arn:aws:logs:{REGION}:{CUSTOMER}:log-group:{LOG_GROUP}*",
    )
    unless_exists(client("logs", CUSTOMER).create_log_group, logGroupName=LOG_GROUP)
    row = {
        "tenant_id": TENANT,
        "type": "cloudwatch",
        "log_distribution_role_arn": customer_role,
        "external_id": EXTERNAL_ID,
        "log_group_name": LOG_GROUP,
        "target_region": REGION,
    }
    item = {name: {"S": text} for name, text in row.items()} | {"enabled": {"BOOL": True}}
    client("dynamodb").put_item(TableName="logferry-tenants", Item=item)


def put():
    now = datetime.datetime.now(datetime.timezone.utc)
    records = [
        {
            "message": f"request {number} of {now:%H:%M:%S} took {number % 17} ms",
            "timestamp": (now + datetime.timedelta(milliseconds=number)).isoformat(),
        }
        for number in range(100)
    ]
    key = f"logs/{TENANT}/local/web/web-0/{int(now.timestamp())}-{uuid.uuid4()}.json.gz"
    client("s3").put_object(Bucket=BUCKET, Key=key, Body=gzip.compress(json.dumps(records).encode()))
    print(f"s3://{BUCKET}/{key}")


def delivered():
    events = client("logs", CUSTOMER).get_paginator("filter_log_events").paginate(logGroupName=LOG_GROUP)
    lines = [event for page in events for event in page["events"]]
    for line in lines:
        print(line["logStreamName"], line["timestamp"], line["message"])
    sys.exit(not lines)


for step in sys.argv[1:]:
    {"create": create, "put": put, "delivered": delivered}[step]()
