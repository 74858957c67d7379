//! Names of DynamoDB tables and URLs of queues. Pure.

use crate::{
    credentials::{is_account, partition},
    tenant::region,
};

/// Reads a DynamoDB table's name or ARN. Returns the Region of an ARN. Source: DynamoDB API reference, `TableName` and
/// "Naming rules".
///
/// # Errors
/// The text is neither. The error says what it must be.
pub(super) fn table(text: &str) -> Result<Option<&str>, String> {
    let (name, place) = match text.split(':').collect::<Vec<_>>()[..] {
        ["arn", of, "dynamodb", place, account, resource]
            if partition::is_known(of) && region(place).is_ok() && is_account(account) =>
        {
            (resource.strip_prefix("table/").unwrap_or_default(), Some(place))
        }
        _ => (text, None),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if (3..=255).contains(&name.len()) && name.chars().all(legal) {
        Ok(place)
    } else {
        Err(format!(
            "{text:?} is neither the name of a table (3 to 255 of [A-Za-z0-9_.-]) nor the ARN of one"
        ))
    }
}

/// The domains of AWS's own hosts in all partitions, IPv4 and dual-stack. Source: botocore 1.44.5,
/// `partitions.json`.
const DOMAINS: [&str; 14] = [
    "amazonaws.com",
    "api.aws",
    "amazonaws.com.cn",
    "api.amazonwebservices.com.cn",
    "amazonaws.eu",
    "api.amazonwebservices.eu",
    "c2s.ic.gov",
    "api.aws.ic.gov",
    "sc2s.sgov.gov",
    "api.aws.scloud",
    "cloud.adc-e.uk",
    "api.cloud-aws.adc-e.uk",
    "csp.hci.ic.gov",
    "api.aws.hci.ic.gov",
];

/// A queue's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueUrl<'a> {
    /// Region of the queue, if the host is one of AWS's.
    pub(super) region: Option<&'a str>,
}

/// Reads a queue's URL: AWS's form, `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`, or any host and a path that ends in the
/// queue's name. Sources: SQS Developer Guide, "Queue and message identifiers"; AWS General Reference, "Amazon SQS
/// endpoints".
///
/// # Errors
/// The text is not such a URL. The error says what is wrong with it.
pub(super) fn queue_url(text: &str) -> Result<QueueUrl<'_>, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some((host, path)) = rest.and_then(|rest| rest.split_once('/')) else {
        return Err(format!(
            "{text:?} is not a queue's URL such as https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
        ));
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    if name.ends_with(".fifo") {
        return Err(format!(
            "{text:?} is a FIFO queue, to which S3 and standard SNS topics cannot send: use a standard queue"
        ));
    }
    let in_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    if host.is_empty() || !host.chars().all(in_host) {
        return Err(format!("{text:?} has no host, or one that no URL can have"));
    }
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !((1..=80).contains(&name.len()) && name.chars().all(in_name)) {
        return Err(format!("{text:?} does not end with the name of a queue, 1 to 80 of [A-Za-z0-9_-]"));
    }
    let Some(region) = region_of_host(host) else { return Ok(QueueUrl { region: None }) };
    match path.split('/').collect::<Vec<_>>()[..] {
        [account, _] if is_account(account) => Ok(QueueUrl { region: Some(region) }),
        _ => Err(format!("{text:?} is not https://HOST/ACCOUNT/NAME with the 12 digits of an account")),
    }
}

/// The Region in one of SQS's own host names: `sqs.REGION.amazonaws.com`, `sqs-fips.REGION.api.aws`, an endpoint in a VPC,
/// `VPCE.sqs.REGION.vpce.amazonaws.com`, or the form in use until 2012, `REGION.queue.amazonaws.com`.
fn region_of_host(host: &str) -> Option<&str> {
    let own = |domain: &&str| host.strip_suffix(*domain)?.strip_suffix('.');
    let labels: Vec<_> = DOMAINS.iter().find_map(own)?.split('.').collect();
    let found = match labels[..] {
        ["sqs" | "sqs-fips", region] | [_, "sqs" | "sqs-fips", region, "vpce"] | [region, "queue"] => region,
        _ => return None,
    };
    region(found).is_ok().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_follow_dynamodb_s_rules() {
        for (text, legal) in [
            ("logferry-tenants", true),
            ("a.B_c-9", true),
            ("abc", true),
            (&"t".repeat(255), true),
            ("arn:aws:dynamodb:eu-central-1:111111111111:table/tenants", true),
            ("arn:aws-eusc:dynamodb:eusc-de-east-1:111111111111:table/tenants", true),
            ("", false),
            ("ab", false),
            (&"t".repeat(256), false),
            ("tenants\n", false),
            (" tenants", false),
            ("ten/ants", false),
            ("arn:aws:dynamodb:eu-central-1:111111111111:tenants", false),
            ("arn:aws:dynamodb:eu-central-1:1111:table/tenants", false),
            ("arn:moon:dynamodb:eu-central-1:111111111111:table/tenants", false),
            ("arn:aws:dynamodb:eu-central-1:111111111111:table/tenants\n", false),
        ] {
            assert_eq!(table(text).is_ok(), legal, "{text:?}");
        }
    }

    #[test]
    fn the_host_of_a_queue_shows_its_region() {
        let there = |region| Ok(Some(region));
        for (text, expected) in [
            ("https://sqs.eu-central-1.amazonaws.com/111111111111/logs", there("eu-central-1")),
            ("https://sqs-fips.us-gov-west-1.amazonaws.com/111111111111/logs", there("us-gov-west-1")),
            ("https://sqs.cn-north-1.amazonaws.com.cn/111111111111/logs", there("cn-north-1")),
            ("https://sqs.eu-west-1.api.aws/111111111111/logs", there("eu-west-1")),
            ("https://eu-west-1.queue.amazonaws.com/111111111111/logs", there("eu-west-1")),
            ("https://vpce-1-2.sqs.eu-west-1.vpce.amazonaws.com/111111111111/logs", there("eu-west-1")),
            ("http://localhost:9324/queue/logs", Ok(None)),
            ("http://127.0.0.1:4566/000000000000/logs_1-a", Ok(None)),
            ("http://sqs.internal/logs", Ok(None)),
            ("http://sqs.my-app-1.internal/logs", Ok(None)),
            ("http://sqs.eu-west-1.amazonaws.com.internal/logs", Ok(None)),
            ("http://sqs.eu-west-1.notamazonaws.com/logs", Ok(None)),
            ("https://sqs.cn-north-1.api.amazonwebservices.com.cn/111111111111/logs", there("cn-north-1")),
            ("https://sqs.eusc-de-east-1.amazonaws.eu/111111111111/logs", there("eusc-de-east-1")),
            ("https://sqs.us-isob-east-1.sc2s.sgov.gov/111111111111/logs", there("us-isob-east-1")),
            ("https://sqs.eu-central-1.amazonaws.com/111111111111/logs\n", Err("1 to 80")),
            ("https://sqs.eu-central-1.amazonaws.com/111111111111/", Err("1 to 80")),
            ("https://sqs.eu-central-1.amazonaws.com/111111111111/lo gs", Err("1 to 80")),
            ("https://sqs.eu-central-1.amazonaws.com/1111/logs", Err("12 digits")),
            ("https://sqs.eu-central-1.amazonaws.com/logs", Err("12 digits")),
            ("https://sqs.eu-central-1.amazonaws.com/111111111111/logs.fifo", Err("standard queue")),
            ("http://localhost:9324/queue/logs.fifo", Err("standard queue")),
            ("https://exa mple/queue/logs", Err("no host")),
            ("https:///queue/logs", Err("no host")),
            ("arn:aws:sqs:eu-central-1:111111111111:logs", Err("not a queue's URL")),
            ("logs", Err("not a queue's URL")),
            ("https://sqs.eu-central-1.amazonaws.com", Err("not a queue's URL")),
            ("ftp://host/logs", Err("not a queue's URL")),
        ] {
            match (queue_url(text), expected) {
                (Ok(found), Ok(region)) => assert_eq!(found.region, region, "{text:?}"),
                (Err(problem), Err(words)) => assert!(problem.contains(words), "{problem}"),
                (found, expected) => panic!("{text:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
