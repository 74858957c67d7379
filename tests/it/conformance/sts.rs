//! STS: both hops, their refusals, and the limits of a session with a session policy.

use aws_sdk_sts::{
    Client, config::Region, operation::assume_role::AssumeRoleOutput,
    operation::assume_role::builders::AssumeRoleFluentBuilder, types::Tag,
};
use logferry_testbed::provision::{Account, CustomerSpec, TrustAction};
use serde_json::json;

use super::{Answers, nothing};
use crate::setup::{REGION, Setup};

fn client(account: &Account) -> Client {
    let region = Region::new(REGION);
    Client::from_conf(aws_sdk_sts::config::Builder::from(&account.sdk_config()).region(region).build())
}

fn session(output: AssumeRoleOutput) -> String {
    let user = output.assumed_role_user.expect("AWS always names it");
    let resource = user.arn.splitn(6, ':').nth(5).unwrap_or_default().to_owned();
    let credentials = output.credentials.expect("AWS always gives them");
    let now = jiff::Timestamp::now().as_second();
    let minutes = (credentials.expiration.secs() - now + 30) / 60;
    let prefix = &credentials.access_key_id[..4];
    let identity = output.source_identity;
    format!("{resource}, {minutes} min, key {prefix}, source identity {identity:?}")
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build().expect("both members are set")
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let customer = setup
        .customer_without_row(CustomerSpec { role_name: "plain".into(), ..CustomerSpec::new("sts") })
        .await;
    let liberal = CustomerSpec {
        role_name: "team/liberal".into(),
        allow: vec![TrustAction::AssumeRole, TrustAction::TagSession, TrustAction::SetSourceIdentity],
        ..CustomerSpec::new("liberal")
    };
    let liberal = setup.customer_without_row(liberal).await;
    let hop = setup.provider.first_hop(&setup.aws).await;
    let (worker, central) = hop.expect("the worker may take the first hop");
    let sts = client(&central);
    let ask = |role: &str| sts.assume_role().role_arn(role).role_session_name("logferry-acme");
    let hop = || ask(&customer.role_arn).external_id(&customer.external_id);
    let tagged =
        |call: AssumeRoleFluentBuilder| call.tags(tag("tenant_id", "a")).tags(tag("cluster_id", "c"));

    answers.answer("sts: hop 2", hop().send().await, session);
    answers.answer("sts: hop 2 for 15 minutes", hop().duration_seconds(900).send().await, session);
    answers.answer("sts: no external id", ask(&customer.role_arn).send().await, session);
    let wrong = ask(&customer.role_arn).external_id("wrong");
    answers.answer("sts: wrong external id", wrong.send().await, session);
    let missing = ask(&format!("{}-missing", customer.role_arn)).external_id(&customer.external_id);
    answers.answer("sts: no such role", missing.send().await, session);
    let skipping = client(&worker).assume_role().role_arn(&customer.role_arn).role_session_name("logferry");
    let skipping = skipping.external_id(&customer.external_id);
    answers.answer("sts: hop 2 without hop 1", skipping.send().await, session);
    answers.answer("sts: more than an hour", hop().duration_seconds(3601).send().await, session);
    answers.answer("sts: less than 15 minutes", hop().duration_seconds(899).send().await, session);
    answers.answer("sts: tags not allowed", tagged(hop()).send().await, session);
    answers.answer("sts: source identity not allowed", hop().source_identity("me").send().await, session);
    let free = || ask(&liberal.role_arn).external_id(&liberal.external_id);
    answers.answer("sts: tags allowed", tagged(free()).send().await, session);
    answers.answer("sts: source identity allowed", free().source_identity("me").send().await, session);
    let twice = free().tags(tag("a", "1")).tags(tag("a", "2"));
    answers.answer("sts: a tag twice", twice.send().await, session);
    answers.answer("sts: a short session name", hop().role_session_name("x").send().await, session);
    answers.answer("sts: an illegal session name", hop().role_session_name("a b").send().await, session);
    answers.answer("sts: an invalid policy", hop().policy("{").send().await, session);
    let long = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "logs:*", "Resource": vec!["x".repeat(100); 30],
    }] });
    answers.answer("sts: a policy that is too long", hop().policy(long.to_string()).send().await, session);
    answers.answer("sts: caller identity", client(&central).get_caller_identity().send().await, |who| {
        let arn = who.arn.unwrap_or_default();
        let resource =
            arn.splitn(6, ':').nth(5).unwrap_or_default().replace(|c: char| c.is_ascii_digit(), "");
        format!("{resource}, own account {}", who.account == Some(setup.provider.account.clone()))
    });

    // A session policy denies everything that it does not allow, whatever the role may do.
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Action": "logs:CreateLogStream",
        "Resource": [
            format!("arn:aws:logs:{REGION}:{}:log-group:{}", customer.account, customer.log_group),
            format!("arn:aws:logs:{REGION}:{}:log-group:{}:*", customer.account, customer.log_group),
        ],
    }] });
    let id = [("ExternalId", customer.external_id.as_str()), ("Policy", &policy.to_string())];
    let narrowed = central.assume_role(&customer.role_arn, "narrow", &id).await;
    let logs = narrowed.expect("the central role may take the second hop").logs();
    let stream = |group: &str| logs.create_log_stream().log_group_name(group).log_stream_name("s");
    answers.answer("sts: narrowed, the group", stream(&customer.log_group).send().await, nothing);
    let other = format!("{}-other", customer.log_group);
    answers.answer("sts: narrowed, another group", stream(&other).send().await, nothing);
    let create = logs.create_log_group().log_group_name(&other);
    answers.answer("sts: narrowed, another action", create.send().await, nothing);
}
