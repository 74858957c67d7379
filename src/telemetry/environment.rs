//! Reads the standard variables that switch traces on. Pure.
//!
//! Source: OpenTelemetry specification 1.50, "Environment Variable Specification" and "OpenTelemetry Protocol Exporter". An empty
//! variable counts as unset. A variable for traces alone (`OTEL_EXPORTER_OTLP_TRACES_...`) has priority over the one for all
//! signals.

use std::{fmt::Display, str::FromStr, time::Duration};

use axum::http::{HeaderName, HeaderValue, Uri, header};

use crate::config::Problem;

/// Everything that the variables say about traces.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    /// Address of the collector; for HTTP, with the path.
    pub(super) endpoint: Uri,
    pub(super) protocol: Protocol,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Longest time for one export, with its retries.
    pub(super) timeout: Duration,
    /// File with the certificates to trust, instead of the system's.
    pub(super) certificates: Option<String>,
    pub(super) sampler: Sampler,
    pub(super) batches: Batches,
    /// Attributes of the service: `service.name` and others.
    pub(super) resource: Vec<(String, String)>,
}

/// Protocol of exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// Which traces are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// Whether a trace that comes from elsewhere keeps the decision of its sender.
    pub(super) parent_based: bool,
    /// Share of the other traces, 0 to 1.
    pub(super) ratio: f64,
}

/// How finished spans wait for their export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batches {
    /// Most spans that wait.
    pub(super) max_queue: usize,
    /// Most spans of one export.
    pub(super) max_batch: usize,
    /// Longest wait for an export.
    pub(super) delay: Duration,
    /// Longest time for one export.
    pub(super) timeout: Duration,
}

/// Reads the variables. `None`: traces are off.
///
/// # Errors
/// These variables have values that mean nothing, or that logferry does not support. While traces are off, only
/// `OTEL_TRACES_EXPORTER` is checked.
pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, Vec<Problem>> {
    let mut reader = Reader { variable, problems: Vec::new() };
    if !reader.is_on() {
        return if reader.problems.is_empty() { Ok(None) } else { Err(reader.problems) };
    }
    let settings = reader.settings();
    if reader.problems.is_empty() { Ok(settings) } else { Err(reader.problems) }
}

/// Headers that the HTTP client sets.
const OF_THE_PROTOCOL: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
];

/// Whether the URL has a host, and its port, if there is one, is a port. `http::Uri` accepts any number.
fn has_good_port(uri: &Uri) -> bool {
    let Some((authority, host)) = uri.authority().zip(uri.host()) else { return false };
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    match place.strip_prefix(host) {
        Some("") => true,
        Some(port) => uri.port_u16().is_some_and(|number| number > 0) && port.starts_with(':'),
        None => false,
    }
}

struct Reader<V> {
    variable: V,
    problems: Vec<Problem>,
}

impl<V: Fn(&str) -> Option<String>> Reader<V> {
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The name and value of `OTEL_EXPORTER_OTLP_TRACES_{what}` or, if that is not set, of `OTEL_EXPORTER_OTLP_{what}`.
    fn exporter(&self, what: &str) -> Option<(String, String)> {
        ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].iter().find_map(|prefix| {
            let name = format!("{prefix}{what}");
            self.get(&name).map(|value| (name, value))
        })
    }

    fn wrong(&mut self, field: &str, problem: impl Display) {
        self.problems.push(Problem { field: field.to_owned(), problem: problem.to_string() });
    }

    fn is_on(&mut self) -> bool {
        if self.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return false;
        }
        match self.get("OTEL_TRACES_EXPORTER").as_deref() {
            Some("none") => false,
            Some("otlp") => true,
            None => self.exporter("ENDPOINT").is_some(),
            Some(other) => {
                self.wrong("OTEL_TRACES_EXPORTER", format!("{other:?} is neither \"otlp\" nor \"none\""));
                false
            }
        }
    }

    fn settings(&mut self) -> Option<Settings> {
        let protocol = self.protocol();
        let (headers, timeout) = (self.headers(), self.timeout());
        let (sampler, batches) = (self.sampler(), self.batches());
        let certificates = self.exporter("CERTIFICATE").map(|(_, path)| path);
        for (what, default) in [("COMPRESSION", "none"), ("CLIENT_KEY", ""), ("CLIENT_CERTIFICATE", "")] {
            if let Some((name, value)) = self.exporter(what).filter(|(_, value)| value != default) {
                self.wrong(&name, format!("{value:?} is not supported; unset it"));
            }
        }
        let resource = self.resource();
        let endpoint = self.endpoint(protocol)?;
        Some(Settings { endpoint, protocol, headers, timeout, certificates, sampler, batches, resource })
    }

    fn protocol(&mut self) -> Protocol {
        match self.exporter("PROTOCOL") {
            None => Protocol::HttpProtobuf,
            Some((name, value)) => match value.as_str() {
                "grpc" => Protocol::Grpc,
                "http/protobuf" => Protocol::HttpProtobuf,
                _ => {
                    self.wrong(&name, format!("{value:?} is neither \"grpc\" nor \"http/protobuf\""));
                    Protocol::HttpProtobuf
                }
            },
        }
    }

    fn endpoint(&mut self, protocol: Protocol) -> Option<Uri> {
        let (name, mut value) = self.exporter("ENDPOINT").unwrap_or_else(|| {
            let port = if protocol == Protocol::Grpc { 4317 } else { 4318 };
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://localhost:{port}"))
        });
        if protocol == Protocol::Grpc && !value.contains("://") {
            let insecure =
                self.exporter("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
            value = format!("{}://{value}", if insecure { "http" } else { "https" });
        }
        let mut address = value.clone();
        if protocol == Protocol::HttpProtobuf && name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            address = format!("{}/v1/traces", address.trim_end_matches('/'));
        }
        let uri = address
            .parse()
            .ok()
            .filter(|uri: &Uri| has_good_port(uri) && matches!(uri.scheme_str(), Some("http" | "https")));
        if uri.is_none() {
            // The value may contain a password.
            self.wrong(&name, "is not a URL such as http://collector:4318; correct or unset it");
        }
        uri
    }

    /// `KEY=VALUE,KEY=VALUE`, with values as in W3C's baggage. The problem does not quote the value, which may be a token.
    fn headers(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        let Some((name, text)) = self.exporter("HEADERS") else { return Vec::new() };
        let headers = pairs(&text).map(|pair| {
            let (key, value) = pair?;
            let key = HeaderName::from_str(&key.to_ascii_lowercase())
                .ok()
                .filter(|key| !OF_THE_PROTOCOL.contains(key))?;
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((key, value))
        });
        headers.collect::<Option<Vec<_>>>().unwrap_or_else(|| {
            self.wrong(&name, "is not a list of HTTP headers, NAME=VALUE,NAME=VALUE, without those that HTTP itself needs, such as host");
            Vec::new()
        })
    }

    fn timeout(&mut self) -> Duration {
        let default = Duration::from_secs(10);
        match self.exporter("TIMEOUT") {
            None => default,
            Some((name, value)) => self.milliseconds(&name, &value).unwrap_or(default),
        }
    }

    fn milliseconds(&mut self, name: &str, value: &str) -> Option<Duration> {
        let millis = value.parse().ok().filter(|millis| (1..=3_600_000).contains(millis));
        if millis.is_none() {
            self.wrong(name, format!("{value:?} is not a number of milliseconds, 1 to 3,600,000"));
        }
        millis.map(Duration::from_millis)
    }

    fn sampler(&mut self) -> Sampler {
        let name = "OTEL_TRACES_SAMPLER";
        let value = self.get(name).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let root = value.strip_prefix("parentbased_");
        let ratio = match root.unwrap_or(&value) {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                self.wrong(
                    name,
                    format!(
                        "{value:?} is none of always_on, always_off, traceidratio, parentbased_always_on, \
                         parentbased_always_off, parentbased_traceidratio"
                    ),
                );
                1.0
            }
        };
        Sampler { parent_based: root.is_some(), ratio }
    }

    fn ratio(&mut self) -> f64 {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(name) else { return 1.0 };
        let ratio = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        if ratio.is_none() {
            self.wrong(name, format!("{value:?} is not a number from 0 to 1"));
        }
        ratio.unwrap_or(1.0)
    }

    fn batches(&mut self) -> Batches {
        let mut batches = Batches {
            max_queue: 2048,
            max_batch: 512,
            delay: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        };
        for (name, most) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", &mut batches.max_queue),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &mut batches.max_batch),
        ] {
            let Some(value) = self.get(name) else { continue };
            // A span takes about 2 KiB.
            match value.parse().ok().filter(|spans| (1..=100_000).contains(spans)) {
                Some(spans) => *most = spans,
                None => self.wrong(name, format!("{value:?} is not a number of spans, 1 to 100,000")),
            }
        }
        for (name, time) in [
            ("OTEL_BSP_SCHEDULE_DELAY", &mut batches.delay),
            ("OTEL_BSP_EXPORT_TIMEOUT", &mut batches.timeout),
        ] {
            let Some(value) = self.get(name) else { continue };
            if let Some(read) = self.milliseconds(name, &value) {
                *time = read;
            }
        }
        if batches.max_batch > batches.max_queue {
            match self.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") {
                Some(_) => {
                    let problem = format!("must be at most OTEL_BSP_MAX_QUEUE_SIZE, {}", batches.max_queue);
                    self.wrong("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", problem);
                }
                None => batches.max_batch = batches.max_queue,
            }
        }
        batches
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let text = self.get(name).unwrap_or_default();
        let attributes = pairs(&text).collect::<Option<Vec<_>>>();
        let mut attributes = attributes.unwrap_or_else(|| {
            self.wrong(name, format!("{text:?} is not a list KEY=VALUE,KEY=VALUE"));
            Vec::new()
        });
        if let Some(service) = self.get("OTEL_SERVICE_NAME") {
            attributes.retain(|(key, _)| key != crate::trace::semconv::SERVICE_NAME);
            attributes.push((crate::trace::semconv::SERVICE_NAME.to_owned(), service));
        }
        attributes
    }
}

/// Reads `KEY=VALUE,KEY=VALUE` with percent-encoded values. A pair that cannot be read is `None`.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        if key.is_empty() { None } else { Some((key.to_owned(), decoded(value.trim())?)) }
    })
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
