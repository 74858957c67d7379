//! Rows, good and bad, field by field.

use super::*;

fn text(value: &str) -> Attribute {
    Attribute::Text(value.to_owned())
}

fn good() -> Row {
    Row::from([
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("target_region".to_owned(), text("us-east-1")),
        ("log_distribution_role_arn".to_owned(), text("arn:aws:iam::222222222222:role/path/customer-logs")),
        ("log_group_name".to_owned(), text("/rosa/acme")),
    ])
}

fn parse(field: &str, value: Option<Attribute>) -> Result<Delivery, BadRow> {
    let mut row = good();
    match value {
        Some(value) => row.insert(field.to_owned(), value),
        None => row.remove(field),
    };
    parse_row("acme-corp", "cloudwatch", &row)
}

#[test]
fn a_row_of_the_field_is_read() {
    let delivery = parse("", None).expect("the row is right");
    assert!(delivery.enabled && delivery.desired_logs.is_none());
    let Destination::CloudWatch(cloudwatch) = delivery.destination;
    assert_eq!(cloudwatch.role.account(), "222222222222");
    assert_eq!(cloudwatch.log_stream_name, StreamTemplate::default());
    assert_eq!((cloudwatch.oversize, cloudwatch.external_id), (Oversize::Split, None));
    assert!(!parse("enabled", None).expect("absent means false").enabled);
}

#[test]
fn every_bad_field_is_named() {
    let list = Attribute::TextList(vec!["a".into()]);
    for (field, value, part) in [
        ("target_region", None, "is missing"),
        ("target_region", Some(text("mars")), "no Region"),
        ("target_region", Some(text("us-east-1; x")), "no Region"),
        ("target_region", Some(Attribute::Number("1".into())), "must be a string"),
        ("log_distribution_role_arn", None, "is missing"),
        ("log_distribution_role_arn", Some(text("arn:aws:iam::22:role/x")), "12-digit"),
        ("log_distribution_role_arn", Some(text("arn:aws:iam::222222222222:user/x")), "role"),
        ("log_group_name", None, "is missing"),
        ("log_group_name", Some(text("a b")), "512"),
        ("log_group_name", Some(text("aws/x")), "reserved"),
        ("log_group_name", Some(text("")), "512"),
        ("log_group_name", Some(text("group:*")), "512"),
        ("enabled", Some(text("true")), "must be BOOL"),
        ("desired_logs", Some(text("web")), "must be SS or L"),
        ("external_id", Some(text("x")), "2 to 1224"),
        ("external_id", Some(list.clone()), "must be a string"),
        ("session_tags", Some(text("yes")), "must be BOOL"),
        ("source_identity", Some(list), "must be BOOL"),
        ("log_stream_name", Some(text("{namespace}")), "is unknown"),
        ("retention_days", Some(Attribute::Number("2".into())), "must be a number out of"),
        ("retention_days", Some(text("7")), "must be a number out of"),
        ("oversize", Some(text("drop")), "none of"),
    ] {
        let error = parse(field, value.clone()).expect_err("the row is bad");
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(
            error.problems[0].field == field && error.problems[0].problem.contains(part),
            "{field} {value:?}: {error}"
        );
    }
    let error = parse_row("acme-corp", "cloudwatch#2", &Row::new()).expect_err("an empty row");
    assert_eq!(error.problems.len(), 3);
    assert!(error.to_string().contains("acme-corp") && error.to_string().contains("cloudwatch#2"));
    let error = parse_row("acme-corp", "firehose", &good()).expect_err("an unknown kind");
    assert!(error.to_string().contains("firehose"), "{error}");
}

#[test]
fn every_attribute_that_is_read_is_known() {
    let elsewhere = ["tenant_id", "type", "bucket_name", "bucket_prefix", "paused"];
    for field in ATTRIBUTES.iter().filter(|field| !elsewhere.contains(field)) {
        let error = parse(field, Some(Attribute::Other("M"))).expect_err("no attribute is a map");
        assert_eq!(error.problems.len(), 1, "{error}");
        assert_eq!(error.problems[0].field, **field);
    }
}

#[test]
fn a_row_of_either_kind_is_checked() {
    assert!(matches!(check_row("acme", "cloudwatch", &good()), Ok(Content::Delivery(_))));
    let settings = |value| check_row("acme", SETTINGS, &Row::from([("paused".to_owned(), value)]));
    assert_eq!(settings(Attribute::Bool(true)), Ok(Content::Settings { paused: true }));
    assert_eq!(check_row("acme", SETTINGS, &Row::new()), Ok(Content::Settings { paused: false }));
    assert!(settings(text("true")).expect_err("a string is no flag").enabled);
}

#[test]
fn a_bad_row_is_nobody_else_s_error() {
    let rows = vec![
        ("cloudwatch".to_owned(), good()),
        ("cloudwatch#broken".to_owned(), Row::new()),
        ("settings".to_owned(), Row::from([("paused".to_owned(), Attribute::Bool(true))])),
    ];
    let tenant = Tenant::from_rows("acme-corp", rows).expect("there are rows");
    assert!(tenant.paused);
    assert_eq!(tenant.deliveries.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    assert!(Tenant::from_rows("nobody", Vec::new()).is_none());
    let doubtful = vec![("settings".to_owned(), Row::from([("paused".to_owned(), text("true"))]))];
    let tenant = Tenant::from_rows("acme-corp", doubtful).expect("there is a row");
    let error = tenant.deliveries[0].as_ref().expect_err("a string is no flag");
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
    let delivery = parse("desired_logs", Some(wanted)).expect("the row is right");
    assert!(delivery.wants("kube-apiserver") && delivery.wants("etcd") && !delivery.wants("web"));
    let nothing = parse("desired_logs", Some(Attribute::TextList(Vec::new()))).expect("the row is right");
    assert!(!nothing.wants("web"));
}
