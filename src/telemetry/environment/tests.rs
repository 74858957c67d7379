use super::*;

fn settings(variables: &[(&str, &str)]) -> Result<Option<Settings>, Vec<Problem>> {
    read(|asked| variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned()))
}

const ON: (&str, &str) = ("OTEL_TRACES_EXPORTER", "otlp");

fn with(variables: &[(&str, &str)]) -> Settings {
    let found = settings(&[&[ON], variables].concat());
    found.expect("every value is good").expect("traces are on")
}

#[test]
fn only_an_exporter_or_an_endpoint_switches_traces_on() {
    for (variables, expected) in [
        (&[][..], false),
        (&[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "nonsense")], false),
        (&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318")], false),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false),
        (&[ON], true),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], true),
        (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/x")], true),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_TRACES_EXPORTER", "none")], false),
        (&[ON, ("OTEL_SDK_DISABLED", "True")], false),
        (&[ON, ("OTEL_SDK_DISABLED", "1")], true),
    ] {
        let found = settings(variables).expect("every value is good");
        assert_eq!(found.is_some(), expected, "{variables:?}");
    }
}

#[test]
fn the_endpoint_depends_on_protocol_and_variable() {
    let check = |variables: &[(&str, &str)], protocol: Protocol, endpoint: &str| {
        let found = with(variables);
        assert_eq!(
            (found.protocol, found.endpoint.to_string().as_str()),
            (protocol, endpoint),
            "{variables:?}"
        );
    };
    let (general, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    check(&[], Protocol::HttpProtobuf, "http://localhost:4318/v1/traces");
    check(&[grpc], Protocol::Grpc, "http://localhost:4317/");
    check(&[(general, "http://c:1/base/")], Protocol::HttpProtobuf, "http://c:1/base/v1/traces");
    check(&[(general, "http://c:1"), (traces, "https://t:2/own")], Protocol::HttpProtobuf, "https://t:2/own");
    check(&[grpc, (general, "https://c:4317")], Protocol::Grpc, "https://c:4317/");
    check(&[grpc, (general, "c:4317")], Protocol::Grpc, "https://c:4317/");
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
    check(&[grpc, insecure, (general, "c:4317")], Protocol::Grpc, "http://c:4317/");
    let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf");
    check(&[grpc, of_traces], Protocol::HttpProtobuf, "http://localhost:4318/v1/traces");
}

#[test]
fn every_variable_is_read() {
    let found = with(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20dXNlcg==, x-scope = a ,"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "300"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,k8s.pod.name=p%2C1"),
        ("OTEL_SERVICE_NAME", "ferry"),
    ]);
    let headers: Vec<_> = found
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("it is text")))
        .collect();
    assert_eq!(headers, [("authorization", "Basic dXNlcg=="), ("x-scope", "a")]);
    assert_eq!(found.timeout.as_millis(), 2500);
    assert_eq!(found.certificates.as_deref(), Some("/ca.pem"));
    assert_eq!(found.sampler, Sampler { parent_based: true, ratio: 0.01 });
    let Batches { max_queue, max_batch, delay, timeout } = found.batches;
    assert_eq!((max_queue, max_batch, delay.as_millis(), timeout.as_millis()), (100, 100, 200, 300));
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(found.resource, [text("k8s.pod.name", "p,1"), text("service.name", "ferry")]);

    let default = with(&[]);
    assert_eq!(default.sampler, Sampler { parent_based: true, ratio: 1.0 });
    assert_eq!((default.timeout.as_secs(), default.batches.max_batch), (10, 512));
    for (value, parent_based, ratio) in [
        ("always_on", false, 1.0),
        ("always_off", false, 0.0),
        ("traceidratio", false, 1.0),
        ("parentbased_always_off", true, 0.0),
    ] {
        assert_eq!(
            with(&[("OTEL_TRACES_SAMPLER", value)]).sampler,
            Sampler { parent_based, ratio },
            "{value}"
        );
    }
}

#[test]
fn a_bad_value_is_a_problem_that_names_its_variable_and_shows_no_secret() {
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://user:secret@c"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@[::1]:0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,Host=secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "content-length=5"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "x"),
        ("OTEL_RESOURCE_ATTRIBUTES", "name"),
    ] {
        // The value replaces that of `ON` if it is for the same variable.
        let problems = settings(&[(name, value), ON]).expect_err(value);
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, [name], "{value}");
        assert!(!problems[0].to_string().contains("secret"), "{}", problems[0]);
    }
    let ratio = [ON, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
    assert_eq!(settings(&ratio).expect_err("the ratio is above 1")[0].field, "OTEL_TRACES_SAMPLER_ARG");
}
