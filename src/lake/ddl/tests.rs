use super::*;
use crate::{
    name::LakeLayout,
    tenant::{Contents, Destination, tests::delivery_of},
};

fn wishes(values: &[(&str, &str)]) -> Wishes {
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    Wishes {
        database: "d".to_owned(),
        table: "t".to_owned(),
        since: 2025,
        values: values.iter().map(|(name, values)| ((*name).to_owned(), list(values))).collect(),
    }
}

fn tables(fields: &[(&str, &str)], values: &[(&str, &str)]) -> Result<Tables, DdlError> {
    let common = [("bucket_name", "b-1"), ("bucket_prefix", "p/"), ("target_region", "us-east-1")];
    let delivery = delivery_of("s3", &[&common[..], fields].concat());
    let Destination::S3(bucket) = &delivery.destination else { panic!("{delivery:?}") };
    let Contents::Lake(lake) = &bucket.contents else { panic!("{bucket:?}") };
    Tables::new(&delivery.tenant_id, bucket, lake, &wishes(values))
}

#[test]
fn statements_of_a_layout() {
    let tables = tables(
        &[
            ("format", "parquet"),
            ("layout", "x/tenant={tenant}/dt=YYYY-MM-DD/hour=hHH/app={cluster}-{application}/{file}"),
        ],
        &[],
    );
    let [database, files, manifests, view]: [String; 4] =
        tables.expect("the row is a lake").statements().try_into().expect("four statements");
    assert_eq!(database, "CREATE DATABASE IF NOT EXISTS `d`");
    assert_eq!(
        files,
        "CREATE EXTERNAL TABLE IF NOT EXISTS `d`.`t_files` (
  `timestamp` timestamp,
  `message` string,
  `cluster` string,
  `application` string,
  `pod` string,
  `stream` string,
  `namespace` string,
  `container` string,
  `node` string,
  `level` string,
  `rest` string
)
PARTITIONED BY (
  `tenant` string,
  `dt` string,
  `hour` int,
  `app` string
)
STORED AS PARQUET
LOCATION 's3://b-1/p/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.tenant.type' = 'enum',
  'projection.tenant.values' = 'acme',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'projection.hour.type' = 'integer',
  'projection.hour.range' = '0,23',
  'projection.hour.digits' = '2',
  'projection.app.type' = 'injected',
  'storage.location.template' = 's3://b-1/p/x/tenant=${tenant}/dt=${dt}/hour=h${hour}/app=${app}/'
)"
    );
    assert_eq!(
        manifests,
        "CREATE EXTERNAL TABLE IF NOT EXISTS `d`.`t_manifests` (
  `file` string,
  `state` string,
  `by` string
)
PARTITIONED BY (
  `dt` string,
  `hour` int
)
ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'
STORED AS TEXTFILE
LOCATION 's3://b-1/p/manifests/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'projection.hour.type' = 'integer',
  'projection.hour.range' = '0,23',
  'projection.hour.digits' = '2',
  'storage.location.template' = 's3://b-1/p/manifests/dt=${dt}/hour=h${hour}/'
)"
    );
    assert_eq!(
        view,
        "CREATE OR REPLACE VIEW \"d\".\"t\" AS
SELECT
  f.\"timestamp\",
  f.\"message\",
  f.\"tenant\",
  f.\"cluster\",
  f.\"application\",
  f.\"pod\",
  f.\"stream\",
  f.\"namespace\",
  f.\"container\",
  f.\"node\",
  f.\"level\",
  f.\"rest\",
  f.\"dt\",
  f.\"hour\",
  f.\"app\"
FROM \"d\".\"t_files\" f
LEFT JOIN (
  SELECT l.\"file\", l.\"dt\", l.\"hour\", bool_or(b.\"file\" IS NULL) AS counts
  FROM \"d\".\"t_manifests\" l
  LEFT JOIN \"d\".\"t_manifests\" b
    ON b.\"file\" = l.\"by\" AND b.\"state\" = 'merged'
    AND b.\"dt\" = l.\"dt\"
    AND b.\"hour\" = l.\"hour\"
  WHERE l.\"state\" IN ('replaced', 'merged')
  GROUP BY l.\"file\", l.\"dt\", l.\"hour\"
) m
  ON m.\"file\" = f.\"$path\"
  AND m.\"dt\" = f.\"dt\"
  AND m.\"hour\" = f.\"hour\"
WHERE coalesce(m.counts, NOT regexp_like(f.\"$path\", '/compacted-[^/]*$'))"
    );
}

#[test]
fn partitions_are_projected_by_what_they_are() {
    let time = "year=YYYY/month=MM/day=DD/hour=HH";
    let check = |layout: &str, values: &[(&str, &str)], name: &str, expected: &[(&str, &str)]| {
        let layout = LakeLayout::parse(layout).expect("the layout is valid");
        let partitions = partitions::of(&layout, "ac:me", &wishes(values)).expect("the wishes fit");
        let partition = partitions.iter().find(|found| found.name == name).expect("the layout has it");
        let found = partition.projection.properties();
        let found: Vec<_> = found.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(found, expected, "{name} of {layout:?}");
    };
    let plain = format!("source={{application}}/env=prod/{time}/{{file}}");
    check(&plain, &[], "source", &[("type", "injected")]);
    check(&plain, &[("source", "web,api")], "source", &[("type", "enum"), ("values", "web,api")]);
    check(&plain, &[], "env", &[("type", "enum"), ("values", "prod")]);
    check(&plain, &[], "year", &[("type", "integer"), ("range", "2025,2044"), ("digits", "4")]);
    check(&plain, &[], "day", &[("type", "integer"), ("range", "1,31"), ("digits", "2")]);
    let tenant = format!("t=of-{{tenant}}/{time}/{{file}}");
    check(&tenant, &[], "t", &[("type", "enum"), ("values", "of-ac%3Ame")]);
    let date = |format, range, unit| {
        [("type", "date"), ("format", format), ("range", range), ("interval", "1"), ("interval.unit", unit)]
    };
    check("at=YYYYMMDDTHH/{file}", &[], "at", &date("yyyyMMdd'T'HH", "20250101T00,NOW+1DAYS", "HOURS"));
    check("m=YYYY-MM/day=DD/hour=HH/{file}", &[], "m", &date("yyyy-MM", "2025-01,NOW+1MONTHS", "MONTHS"));
    // A date without a year is none.
    check("year=YYYY/md=MM-DD/hour=HH/{file}", &[], "md", &[("type", "injected")]);
}

#[test]
fn the_view_finds_columns_in_members() {
    let shown = |fields: &str, layout: &str| {
        let tables = tables(&[("format", "ndjson"), ("fields", fields), ("layout", layout)], &[]);
        let shown = tables.expect("the row is a lake").shown.into_iter();
        shown.map(|column| format!("{} {}", column.name, column.value)).collect::<Vec<_>>()
    };
    let layout = "a={application}/dt=YYYY-MM-DD/hour=HH/{file}";
    let time = "CAST(TRY(from_iso8601_timestamp(f.\"timestamp\")) AT TIME ZONE 'UTC' AS timestamp(3))";
    assert_eq!(
        shown("all", layout),
        [
            &format!("timestamp {time}"),
            "message f.\"message\"",
            "tenant f.\"customer_id\"",
            "cluster f.\"cluster_id\"",
            "application f.\"a\"",
            "pod coalesce(f.\"pod_name\", f.\"kubernetes\".\"pod_name\")",
            "stream f.\"stream\"",
            "namespace coalesce(f.\"kubernetes\".\"pod_namespace\", f.\"kubernetes\".\"namespace_name\", f.\"namespace\")",
            "container coalesce(f.\"kubernetes\".\"container_name\", f.\"container_name\", f.\"container\")",
            "node coalesce(f.\"kubernetes\".\"pod_node_name\", f.\"kubernetes\".\"host\", f.\"node\", f.\"host\")",
            "level lower(coalesce(f.\"level\", f.\"severity\"))",
            "a f.\"a\"",
            "dt f.\"dt\"",
            "hour f.\"hour\"",
        ]
    );
    assert_eq!(
        shown("message,traceId,log.level,log_level,1st", layout),
        [
            "message f.\"message\"",
            "application f.\"a\"",
            "traceid f.\"traceid\"",
            "log_level_2 f.\"log_level_2\"",
            "log_level f.\"log_level\"",
            "m1st f.\"m1st\"",
            "a f.\"a\"",
            "dt f.\"dt\"",
            "hour f.\"hour\"",
        ]
    );
}

#[test]
fn names_of_members_become_names_of_columns() {
    let check = |names: &[&str], expected: &[(&str, Option<&str>)]| {
        let fields = names.join(",");
        let tables = tables(&[("format", "ndjson"), ("fields", &fields)], &[]).expect("the row is a lake");
        let found = tables.files.columns.iter();
        let found: Vec<_> = found.map(|column| (column.name.as_str(), column.member.as_deref())).collect();
        assert_eq!(found, expected, "{names:?}");
    };
    check(&["message", "traceId"], &[("message", None), ("traceid", None)]);
    check(
        &["log.level", "log-level"],
        &[("log_level", Some("log.level")), ("log_level_2", Some("log-level"))],
    );
    check(&["a.b", "a_b"], &[("a_b_2", Some("a.b")), ("a_b", None)]);
    check(&["@timestamp", "é"], &[("m_timestamp", Some("@timestamp")), ("m_", Some("é"))]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let time = "dt=YYYY-MM-DD/hour=HH/{file}";
    let check = |fields: &[(&str, &str)], values: &[(&str, &str)], part: &str| {
        let error = tables(fields, values).expect_err("it does not fit").to_string();
        assert!(error.contains(part), "{error}");
    };
    let parquet = |layout: &str| {
        [("format".to_owned(), "parquet".to_owned()), ("layout".to_owned(), layout.to_owned())]
    };
    for layout in [
        &format!("message={{pod}}/{time}"),
        &format!("application={{cluster}}/{time}"),
        "state=YYYY-MM-DD/hour=HH/{file}",
        "by=YYYY-MM-DD/hour=HH/{file}",
    ] {
        let fields = parquet(layout);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        check(&fields, &[], "has the name of a column");
    }
    let default = [("format", "parquet")];
    check(
        &default,
        &[("hour", "1,2")],
        "--values hour: the layout has no such partition whose values are unknown; it has source",
    );
    check(&default, &[("app", "web")], "it has source");
    check(&[("format", "parquet"), ("layout", time)], &[("app", "web")], "it has none");
    check(&[("format", "parquet"), ("bucket_prefix", "a${b}")], &[], "bucket_prefix");
    let fields = [("format", "ndjson"), ("fields", "message,hour")];
    check(&fields, &[], "\"hour\" has the name of a column");
}

#[test]
fn texts_are_quoted() {
    let tables = tables(&[("format", "parquet"), ("bucket_prefix", "it's \\ \"x\"; --/")], &[]);
    let statements = tables.expect("the row is a lake").statements();
    assert!(statements[1].contains("LOCATION 's3://b-1/it\\'s \\\\ \"x\"; --/'"), "{}", statements[1]);
}

#[cfg(feature = "parquet")]
#[test]
fn the_columns_are_those_of_the_files() {
    let names: Vec<_> = columns::PARQUET.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, crate::lake::parquet::columns().collect::<Vec<_>>());
}
