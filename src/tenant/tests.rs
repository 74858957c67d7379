//! Tests of good and bad rows, field by field.

use super::*;
use crate::name::ObjectKeyTemplate;

const NOW: &str = "2026-11-27T12:00:00Z";

fn text(value: &str) -> Attribute {
    Attribute::Text(value.to_owned())
}

/// A row that is on, with these texts.
pub(crate) fn row_of(texts: &[(&str, &str)]) -> Row {
    let texts = texts.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
    texts.chain([("enabled".to_owned(), Attribute::Bool(true))]).collect()
}

/// A delivery of the tenant `acme`, from a row with these texts.
pub(crate) fn delivery_of(name: &str, texts: &[(&str, &str)]) -> Delivery {
    parse_row("acme", name, &row_of(texts), None).expect("the row is right")
}

/// A row with the fields that both kinds need, and one more field.
fn row_with(field: &str, value: &str) -> Row {
    let role = "arn:aws:iam::222222222222:role/path/customer-logs";
    row_of(&[("target_region", "us-east-1"), ("log_distribution_role_arn", role), (field, value)])
}

fn good() -> Row {
    row_with("log_group_name", "/rosa/acme")
}

fn bucket() -> Row {
    row_with("bucket_name", "acme-logs")
}

fn changed(mut row: Row, field: &str, value: Option<Attribute>) -> Row {
    match value {
        Some(value) => row.insert(field.to_owned(), value),
        None => row.remove(field),
    };
    row
}

fn parse(field: &str, value: Option<Attribute>) -> Result<Delivery, BadRow> {
    parse_row("acme-corp", "cloudwatch", &changed(good(), field, value), None)
}

fn parse_s3(field: &str, value: Option<Attribute>) -> Result<Delivery, BadRow> {
    parse_row("acme-corp", "s3", &changed(bucket(), field, value), None)
}

fn tenant_of(rows: Vec<(String, Row)>) -> Option<Tenant> {
    Tenant::from_rows("acme-corp", rows, None, NOW.parse().expect("a time"))
}

fn as_bucket(delivery: Delivery) -> Bucket {
    let Destination::S3(bucket) = delivery.destination else { panic!("the destination is not a bucket") };
    bucket
}

#[test]
fn a_minimal_row_is_read() {
    let delivery = parse("", None).expect("the row is valid");
    assert!(delivery.enabled && delivery.desired_logs.is_none());
    let Destination::CloudWatch(cloudwatch) = delivery.destination else {
        panic!("the destination is not CloudWatch")
    };
    assert_eq!(cloudwatch.role.account(), "222222222222");
    assert_eq!(cloudwatch.log_stream_name, StreamTemplate::default());
    assert_eq!((cloudwatch.oversize, cloudwatch.external_id), (Oversize::Split, None));
    assert!(!parse("enabled", None).expect("absent means false").enabled);
}

/// Customers' existing rows have these two forms, without newer attributes.
#[test]
fn customers_existing_rows_are_read() {
    let wanted = Attribute::TextList(vec!["kube-apiserver".into(), "payment-*".into()]);
    let both = [
        ("tenant_id".to_owned(), text("acme-corp")),
        ("created_at".to_owned(), text("2025-02-03T04:05:06Z")),
        ("updated_at".to_owned(), Attribute::Number("1764244800".into())),
        ("groups".to_owned(), Attribute::TextList(vec!["sre".into()])),
        (TTL.to_owned(), Attribute::Number("4102444800".into())),
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("target_region".to_owned(), text("eu-west-1")),
        ("desired_logs".to_owned(), wanted),
    ];
    let mut cloudwatch = Row::from(both.clone());
    cloudwatch.insert("type".to_owned(), text("cloudwatch"));
    let role = "arn:aws:iam::222222222222:role/CustomerLogDistribution";
    cloudwatch.insert("log_distribution_role_arn".to_owned(), text(role));
    cloudwatch.insert("log_group_name".to_owned(), text("/ROSA/cluster-logs/acme"));
    let mut s3 = Row::from(both);
    s3.insert("type".to_owned(), text("s3"));
    s3.insert("bucket_name".to_owned(), text("acme-corp-logs"));
    s3.insert("bucket_prefix".to_owned(), text("ROSA/cluster-logs/"));

    let rows = vec![("cloudwatch".to_owned(), cloudwatch), ("s3".to_owned(), s3)];
    let tenant = tenant_of(rows).expect("there are rows");
    let destinations = [
        Destination::CloudWatch(CloudWatch {
            role: role.parse().expect("a role"),
            external_id: None,
            session_tags: false,
            source_identity: false,
            log_group_name: "/ROSA/cluster-logs/acme".to_owned(),
            log_stream_name: StreamTemplate::default(),
            retention_days: None,
            oversize: Oversize::Split,
        }),
        Destination::S3(Bucket {
            role: None,
            external_id: None,
            session_tags: false,
            source_identity: false,
            bucket_name: "acme-corp-logs".to_owned(),
            bucket_owner: None,
            bucket_prefix: "ROSA/cluster-logs/".to_owned(),
            contents: Contents::Copies(ObjectKeyTemplate::default()),
        }),
    ];
    for ((delivery, destination), name) in
        tenant.deliveries.into_iter().zip(destinations).zip(["cloudwatch", "s3"])
    {
        let delivery = delivery.expect("the row is valid");
        let expected = Delivery {
            tenant_id: "acme-corp".to_owned(),
            name: name.to_owned(),
            enabled: true,
            desired_logs: Some(vec!["kube-apiserver".to_owned(), "payment-*".to_owned()]),
            mode: Mode::Live,
            target_region: "eu-west-1".to_owned(),
            destination,
        };
        assert_eq!(*delivery, expected);
        assert!(delivery.wants("payment-app") && !delivery.wants("web"));
    }
}

#[test]
fn prefixes_end_with_a_slash() {
    for (given, expected) in [
        (None, "ROSA/cluster-logs/"),
        (Some(""), ""),
        (Some("logs"), "logs/"),
        (Some("logs/"), "logs/"),
        (Some("a b/c..d/..."), "a b/c..d/.../"),
    ] {
        let delivery = parse_s3("bucket_prefix", given.map(text)).expect("the row is valid");
        assert_eq!(as_bucket(delivery).bucket_prefix, expected, "{given:?}");
    }
}

#[test]
fn the_owner_of_a_bucket_is_bucket_owner_or_the_role_s_account() {
    let owner = |row: Row| {
        let delivery = parse_row("acme-corp", "s3", &row, None).expect("the row is valid");
        as_bucket(delivery).bucket_owner
    };
    let said = |row| changed(row, "bucket_owner", Some(text("333333333333")));
    let no_role = || changed(bucket(), "log_distribution_role_arn", None);
    assert_eq!(owner(bucket()).as_deref(), Some("222222222222"));
    assert_eq!(owner(said(bucket())).as_deref(), Some("333333333333"), "the role may be in another account");
    assert_eq!(owner(said(no_role())).as_deref(), Some("333333333333"));
    assert_eq!(owner(no_role()), None);
}

#[test]
fn session_tags_need_a_tenant_id_that_can_be_a_tag() {
    let tagged = changed(good(), "session_tags", Some(Attribute::Bool(true)));
    for (tenant_id, right) in
        [("acme-corp", true), ("a b_c.d:e=f+g@h", true), ("日本", true), ("a*b", false), ("a,b", false)]
    {
        let told = parse_row(tenant_id, "cloudwatch", &tagged, None).map(drop).map_err(|bad| bad.to_string());
        assert_eq!(told.is_ok(), right, "{told:?}");
        assert!(told.err().is_none_or(|told| told.contains("session_tags: true needs")));
        assert!(parse_row(tenant_id, "cloudwatch", &good(), None).is_ok());
    }
    assert!(
        parse_row(&"x".repeat(257), "s3", &changed(tagged, "bucket_name", Some(text("acme"))), None).is_err()
    );
}

#[test]
fn a_bucket_needs_no_role() {
    let delivery = parse_s3("log_distribution_role_arn", None).expect("the row is valid");
    assert_eq!(as_bucket(delivery).role, None);
    for (field, value) in [
        ("external_id", text("acme-id")),
        ("session_tags", Attribute::Bool(true)),
        ("source_identity", Attribute::Bool(true)),
    ] {
        let with_role = as_bucket(parse_s3(field, Some(value.clone())).expect("the row is valid"));
        assert!(with_role.role.is_some());
        let row = changed(changed(bucket(), "log_distribution_role_arn", None), field, Some(value));
        let error = parse_row("acme-corp", "s3", &row, None).expect_err("the row has no role");
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.problems[0].field == field, "{error}");
        assert!(error.problems[0].problem.contains("needs a log_distribution_role_arn"), "{error}");
    }
}

#[test]
fn role_and_region_must_be_in_the_same_partition() {
    for (region, partition, right) in [
        ("us-east-1", "aws", true),
        ("ap-southeast-5", "aws", true),
        ("mx-central-1", "aws", true),
        ("cn-northwest-1", "aws-cn", true),
        ("us-gov-west-1", "aws-us-gov", true),
        ("us-iso-west-1", "aws-iso", true),
        ("us-isob-east-1", "aws-iso-b", true),
        ("eu-isoe-west-1", "aws-iso-e", true),
        ("us-isof-east-1", "aws-iso-f", true),
        ("eusc-de-east-1", "aws-eusc", true),
        ("eusc-de-east-1", "aws", false),
        ("us-east-1", "aws-cn", false),
        ("cn-north-1", "aws", false),
        ("us-gov-east-1", "aws", false),
        ("us-west-2", "aws-us-gov", false),
    ] {
        let role = format!("arn:{partition}:iam::222222222222:role/customer");
        for (kind, row) in [("cloudwatch", good()), ("s3", bucket())] {
            let row = changed(row, "target_region", Some(text(region)));
            let row = changed(row, "log_distribution_role_arn", Some(text(&role)));
            let told = parse_row("acme-corp", kind, &row, None).map(drop).map_err(|error| error.to_string());
            assert_eq!(told.is_ok(), right, "{region} {partition}: {told:?}");
            if let Err(told) = told {
                for part in [region, partition, "target_region", "is in partition"] {
                    assert!(told.contains(part), "{part} in {told}");
                }
            }
        }
    }
}

/// Each case has one bad field. The error names the field, its value and the rule.
#[test]
fn every_bad_field_is_named_with_its_value_and_the_rule() {
    let list = Attribute::TextList(vec!["a".into()]);
    let number = |digits: &str| Some(Attribute::Number(digits.into()));
    let string = |value: &str| Some(text(value));
    let patterns = |pattern: &str| Some(Attribute::TextList(vec!["web".into(), pattern.into(), "*".into()]));
    let long = "x".repeat(513);
    let arn = "log_distribution_role_arn";
    let both: Vec<(&str, Option<Attribute>, &str, &str)> = vec![
        ("target_region", None, "", "is missing"),
        ("target_region", string("mars"), "\"mars\"", "is not a Region"),
        ("target_region", string(""), "\"\"", "is not a Region"),
        ("target_region", string("us-east"), "\"us-east\"", "is not a Region"),
        ("target_region", string("us-east-1a"), "\"us-east-1a\"", "is not a Region"),
        ("target_region", string("US-EAST-1"), "\"US-EAST-1\"", "is not a Region"),
        ("target_region", string("us--1"), "\"us--1\"", "is not a Region"),
        ("target_region", string("us-east-1; x"), "\"us-east-1; x\"", "is not a Region"),
        ("target_region", number("1"), "the number 1", "must be a string"),
        ("deliver", string("shade"), "\"shade\"", "is neither \"live\" nor \"shadow\""),
        ("deliver", Some(Attribute::Bool(true)), "true", "must be a string"),
        (arn, string("arn:aws:iam::22:role/x"), "\"arn:aws:iam::22:role/x\"", "12-digit"),
        (arn, string("arn:aws:iam::222222222222:user/x"), ":user/x\"", "other than a role"),
        (arn, string("arn:aws:iam::222222222222:role/"), ":role/\"", "its name is not"),
        (arn, string("arn:aws:iam::222222222222:role/a b"), "/a b\"", "its name is not"),
        (arn, string("arn:aws-moon:iam::222222222222:role/x"), "aws-moon", "no such partition"),
        (arn, string("arn:aws:sts::222222222222:role/x"), ":sts:", "not have this form"),
        (arn, string(""), "\"\"", "not have this form"),
        (arn, Some(list.clone()), "a list", "must be a string"),
        ("enabled", string("true"), "the string \"true\"", "must be BOOL"),
        ("enabled", number("1"), "the number 1", "must be BOOL"),
        ("desired_logs", string("web"), "the string \"web\"", "must be SS or L"),
        ("desired_logs", Some(Attribute::Other("L of other than S")), "L of other than S", "must be SS or L"),
        ("desired_logs", patterns(""), "\"\"", "cannot match an application"),
        ("desired_logs", patterns("a/b"), "\"a/b\"", "cannot match an application"),
        ("desired_logs", patterns("a\nb"), "\"a\\nb\"", "cannot match an application"),
        ("external_id", string("x"), "it is not", "2 to 1224"),
        ("external_id", string("a b"), "it is not", "2 to 1224"),
        ("external_id", string("a\\b"), "it is not", "2 to 1224"),
        ("external_id", Some(list.clone()), "a list", "must be a string"),
        ("session_tags", string("yes"), "the string \"yes\"", "must be BOOL"),
        ("source_identity", Some(list), "a list", "must be BOOL"),
    ];
    let cloudwatch = vec![
        (arn, None, "", "is missing"),
        ("log_group_name", None, "", "is missing"),
        ("log_group_name", string("a b"), "\"a b\"", "1 to 512"),
        ("log_group_name", string("aws/x"), "\"aws/x\"", "reserved"),
        ("log_group_name", string(""), "\"\"", "1 to 512"),
        ("log_group_name", string("group:*"), "\"group:*\"", "1 to 512"),
        ("log_group_name", string(&long), &long, "1 to 512"),
        ("log_stream_name", string("{namespace}"), "{namespace}", "is unknown"),
        ("retention_days", number("2"), "the number 2", "must be one of the numbers"),
        ("retention_days", number("1.5"), "the number 1.5", "must be one of the numbers"),
        ("retention_days", string("7"), "the string \"7\"", "must be one of the numbers"),
        ("oversize", string("drop"), "\"drop\"", "none of"),
    ];
    let s3 = vec![
        ("bucket_name", None, "", "is missing"),
        ("bucket_owner", string("22222222222"), "\"22222222222\"", "12-digit"),
        ("bucket_owner", string("22222222222x"), "\"22222222222x\"", "12-digit"),
        ("bucket_owner", number("222222222222"), "the number 222222222222", "must be a string"),
        ("bucket_name", string("ab"), "\"ab\"", "3 to 63"),
        ("bucket_name", string(&long[..64]), &long[..64], "3 to 63"),
        ("bucket_name", string("Acme-Logs"), "\"Acme-Logs\"", "[a-z0-9.-]"),
        ("bucket_name", string("acme_logs"), "\"acme_logs\"", "[a-z0-9.-]"),
        ("bucket_name", string("acme/logs"), "\"acme/logs\"", "[a-z0-9.-]"),
        ("bucket_name", string("arn:aws:s3:::acme"), "\"arn:aws:s3:::acme\"", "[a-z0-9.-]"),
        ("bucket_name", string("xn--acme"), "\"xn--acme\"", "reserved"),
        ("bucket_name", number("7"), "the number 7", "must be a string"),
        ("bucket_key", string("{pod}/{file}"), "\"{pod}/{file}\"", "no segment {tenant}"),
        ("bucket_key", number("7"), "the number 7", "must be a string"),
        ("bucket_prefix", string("/logs/"), "\"/logs/\"", "begins with a slash"),
        ("bucket_prefix", string("/"), "\"/\"", "begins with a slash"),
        ("bucket_prefix", string("a/../b/"), "\"a/../b/\"", "segment"),
        ("bucket_prefix", string(".."), "\"..\"", "segment"),
        ("bucket_prefix", string("./a"), "\"./a\"", "segment"),
        ("bucket_prefix", string("a\tb"), "\"a\\tb\"", "control character"),
        ("bucket_prefix", string(&long[..512]), &long[..512], "longer than 512"),
        ("bucket_prefix", Some(Attribute::Bool(true)), "true", "must be a string"),
    ];
    let check = |kind: &str, good: &Row, cases: &[(&str, Option<Attribute>, &str, &str)]| {
        for (field, value, shown, rule) in cases {
            let row = changed(good.clone(), field, value.clone());
            let error = parse_row("acme-corp", kind, &row, None).expect_err("the row is bad");
            assert_eq!(error.problems.len(), 1, "{kind} {field} {value:?}: {error}");
            let FieldProblem { field: named, problem } = &error.problems[0];
            assert_eq!(named, field, "{error}");
            assert!(problem.contains(shown) && problem.contains(rule), "{field} {value:?}: {problem}");
            let told = error.to_string();
            assert!(told.contains("acme-corp") && told.contains(kind), "{told}");
        }
    };
    check("cloudwatch", &good(), &both);
    check("s3", &bucket(), &both);
    check("cloudwatch#2", &good(), &cloudwatch);
    check("s3#archive", &bucket(), &s3);
    let error = parse_row("acme-corp", "cloudwatch#2", &Row::new(), None).expect_err("an empty row");
    assert_eq!(error.problems.len(), 3);
    assert_eq!(parse_row("acme-corp", "s3", &Row::new(), None).expect_err("an empty row").problems.len(), 2);
    for kind in ["firehose", "", "S3", "s3-archive", "cloudwatch "] {
        let error = parse_row("acme-corp", kind, &good(), None).expect_err("an unknown kind");
        assert_eq!(error.problems[0].field, "type");
        assert!(error.problems[0].problem.contains(&format!("{kind:?} is neither")), "{error}");
    }
}

#[test]
fn every_known_attribute_is_read() {
    let elsewhere = ["tenant_id", "type", "paused", TTL];
    for field in ATTRIBUTES.iter().filter(|field| !elsewhere.contains(field)) {
        let value = Some(Attribute::Other("M"));
        let lake = ["format", "layout", "fields", "compression", "object_lock_mode", "object_lock_days"];
        let parse = if field.starts_with("bucket_") || lake.contains(field) { parse_s3 } else { parse };
        let error = parse(field, value).expect_err("no attribute is a map");
        assert_eq!(error.problems.len(), 1, "{error}");
        assert_eq!(error.problems[0].field, **field);
    }
}

#[test]
fn a_row_of_either_kind_is_checked() {
    assert!(matches!(check_row("acme", "cloudwatch", &good(), None), Ok(Content::Delivery(_))));
    let settings = |value| check_row("acme", SETTINGS, &Row::from([("paused".to_owned(), value)]), None);
    assert_eq!(settings(Attribute::Bool(true)), Ok(Content::Settings { paused: true }));
    assert_eq!(check_row("acme", SETTINGS, &Row::new(), None), Ok(Content::Settings { paused: false }));
    assert!(settings(text("true")).expect_err("a string is no flag").enabled);
}

#[test]
fn a_bad_row_is_an_error_of_its_own_delivery_alone() {
    let rows = vec![
        ("cloudwatch".to_owned(), good()),
        ("cloudwatch#broken".to_owned(), Row::new()),
        ("settings".to_owned(), Row::from([("paused".to_owned(), Attribute::Bool(true))])),
    ];
    let tenant = tenant_of(rows).expect("there are rows");
    assert!(tenant.paused);
    assert_eq!(tenant.deliveries.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    assert!(tenant_of(Vec::new()).is_none());
    let doubtful = vec![("settings".to_owned(), Row::from([("paused".to_owned(), text("true"))]))];
    let tenant = tenant_of(doubtful).expect("there is a row");
    assert_eq!(tenant.deliveries, []);
    let error = tenant.bad_settings.expect("a string is no flag");
    assert!(error.to_string().contains("paused: must be BOOL"), "{error}");
}

#[test]
fn patterns_choose_applications() {
    for (pattern, application, expected) in [
        ("web", "web", true),
        ("web", "webapp", false),
        ("*", "anything", true),
        ("*", "", true),
        ("web-*", "web-1", true),
        ("web-*", "web", false),
        ("*-api", "kube-api", true),
        ("*-api", "kube-api-2", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("a*a", "a", false),
        ("**", "x", true),
    ] {
        assert_eq!(matches_pattern(pattern, application), expected, "{pattern} {application}");
    }
    let wanted = Attribute::TextList(vec!["etcd".into(), "kube-*".into()]);
    let delivery = parse("desired_logs", Some(wanted)).expect("the row is valid");
    assert!(delivery.wants("kube-apiserver") && delivery.wants("etcd") && !delivery.wants("web"));
    for all in [vec![], vec![String::new()]] {
        let all = parse("desired_logs", Some(Attribute::TextList(all))).expect("the row is valid");
        assert!(all.desired_logs.is_none() && all.wants("web"));
    }
}

#[test]
fn a_row_without_a_region_has_the_default_one() {
    for (kind, row) in [("cloudwatch", good()), ("s3", bucket())] {
        let region = |row: &Row, default| {
            parse_row("acme-corp", kind, row, default).map(|delivery| delivery.target_region)
        };
        assert_eq!(region(&row, Some("eu-west-1")).as_deref(), Ok("us-east-1"));
        let without = changed(row.clone(), "target_region", None);
        assert_eq!(region(&without, Some("eu-west-1")).as_deref(), Ok("eu-west-1"));
        let error = region(&without, None).expect_err("no Region is known");
        assert!(error.to_string().contains("target_region: is missing"), "{error}");
        assert!(error.to_string().contains("tenants.default_region"), "{error}");
        let error = region(&without, Some("cn-north-1")).expect_err("the role is in another partition");
        assert!(error.to_string().contains("is in partition aws-cn"), "{error}");
        let empty = changed(row, "target_region", Some(text("")));
        assert!(region(&empty, Some("eu-west-1")).is_err(), "the default does not replace an empty Region");
    }
}

#[test]
fn an_expired_row_is_ignored() {
    let now: Timestamp = NOW.parse().expect("a time");
    let number = |text: &str| Attribute::Number(text.to_owned());
    for (ttl, expired) in [
        (number(&now.as_second().to_string()), false),
        (number(&(now.as_second() - 1).to_string()), true),
        (number(&(now.as_second() + 1).to_string()), false),
        (number(&format!("{:e}", now.as_second() - 1)), true),
        (number(&(now.as_second() - 5 * 365 * 86_400).to_string()), true),
        // DynamoDB never deletes an item whose TTL is more than five years ago.
        (number(&(now.as_second() - 5 * 365 * 86_400 - 1).to_string()), false),
        (number("1"), false),
        (number("-7"), false),
        (number("0"), false),
        // Read as seconds, as DynamoDB does, a time in milliseconds is far in the future.
        (number("1600000000000"), false),
        (number("9e99"), false),
        (number("-9e99"), false),
        (text("1600000000"), false),
        (Attribute::Bool(true), false),
    ] {
        let row = changed(good(), TTL, Some(ttl.clone()));
        assert_eq!(expired_at(&row, now).is_some(), expired, "{ttl:?}");
        let found = tenant_of(vec![("cloudwatch".to_owned(), row)]);
        assert_eq!(found.map(|tenant| tenant.deliveries.len()), (!expired).then_some(1), "{ttl:?}");
    }
    let gone = || (TTL.to_owned(), number(&(now.as_second() - 1).to_string()));
    let paused = Row::from([("paused".to_owned(), Attribute::Bool(true)), gone()]);
    let broken = Row::from([gone(), ("enabled".to_owned(), text("true"))]);
    let rows = [("cloudwatch", good()), ("cloudwatch#broken", broken), (SETTINGS, paused)];
    let found = tenant_of(rows.map(|(name, row)| (name.to_owned(), row)).into()).expect("one row is left");
    assert!(!found.paused && found.bad_settings.is_none());
    assert_eq!(found.deliveries.iter().map(Result::is_ok).collect::<Vec<_>>(), [true]);
}
