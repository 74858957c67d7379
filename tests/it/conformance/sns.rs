//! SNS: what `logferry doctor` reads of topics and subscriptions.

use logferry_testbed::provision::QueryError;

use super::Answers;
use crate::setup::Setup;

/// The values of these keys in an answer's attributes, or the error.
fn values(answer: Result<String, QueryError>, keys: &[&str]) -> String {
    match answer {
        Ok(text) => {
            let value = |key: &&str| {
                let (_, rest) = text.split_once(&format!("<key>{key}</key>"))?;
                let (_, rest) = rest.split_once("<value>")?;
                rest.split('<').next().map(str::to_owned)
            };
            format!("ok {:?}", keys.iter().map(value).collect::<Vec<_>>())
        }
        Err(QueryError::Refused { status, code, .. }) => format!("{status} {code}"),
        Err(error) => format!("no answer: {error:?}"),
    }
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let account = setup.account();
    let topic = setup.provider.topic_arn.as_str();
    let missing = format!("{topic}-missing");
    let of_topic =
        async |arn: &str| account.sns_query(&[("Action", "GetTopicAttributes"), ("TopicArn", arn)]).await;
    let confirmed = ["SubscriptionsConfirmed", "KmsMasterKeyId"];
    answers.note("sns: attributes of a topic", values(of_topic(topic).await, &confirmed));
    answers.note("sns: attributes of a missing topic", values(of_topic(&missing).await, &confirmed));
    let list = [("Action", "ListSubscriptionsByTopic"), ("TopicArn", topic)];
    let listed = account.sns_query(&list).await.expect("the topic exists");
    let element = |name: &str| {
        let (_, rest) = listed.split_once(&format!("<{name}>"))?;
        rest.split('<').next().map(str::to_owned)
    };
    let queue = element("Endpoint") == Some(setup.provider.queue_arn.clone());
    answers.note("sns: the subscription", format!("{:?}, our queue {queue}", element("Protocol")));
    let arn = element("SubscriptionArn").expect("there is a subscription");
    let read = [("Action", "GetSubscriptionAttributes"), ("SubscriptionArn", arn.as_str())];
    let keys = ["PendingConfirmation", "RawMessageDelivery", "FilterPolicy", "RedrivePolicy"];
    answers.note("sns: attributes of the subscription", values(account.sns_query(&read).await, &keys));
}
