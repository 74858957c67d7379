//! The two text formats of `/metrics`, and the choice between them.

use std::fmt;

use prometheus_client::{encoding::text::encode, registry::Registry};

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus's text format 0.0.4, which every tool reads.
    Prometheus,
    /// OpenMetrics 1.0, which has exemplars too.
    OpenMetrics,
}

impl TextFormat {
    /// Chooses by the value of a request's `Accept` header. OpenMetrics must be named, in a version that we write, and
    /// must be wanted at least as much as plain text. Sources: RFC 9110, "Accept"; the OpenMetrics specification, "Protocol
    /// negotiation".
    pub fn accepted(accept: &str) -> Self {
        let ranges: Vec<_> = accept.split(',').map(Range::read).collect();
        let wanted = |media: &str| {
            let matching = ranges.iter().filter(|range| range.media.eq_ignore_ascii_case(media));
            matching.map(|range| range.quality).reduce(f64::max)
        };
        let open_metrics = wanted("application/openmetrics-text").unwrap_or_default();
        // The most specific range counts.
        let plain = ["text/plain", "text/*", "*/*"].into_iter().find_map(wanted).unwrap_or_default();
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes all metrics.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn render(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, registry)?;
        Ok(match self {
            Self::OpenMetrics => text,
            Self::Prometheus => prometheus(&text),
        })
    }
}

/// One range of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    /// 0 to 1. A range with a version that we do not write has 0.
    quality: f64,
}

impl<'a> Range<'a> {
    fn read(range: &'a str) -> Self {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut quality, mut known) = (1.0, true);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "q" => quality = value.parse().unwrap_or_default(),
                "version" => known = matches!(value, "0.0.1" | "0.0.4" | "1.0.0"),
                _ => {}
            }
        }
        Self { media, quality: if known { quality } else { 0.0 } }
    }
}

/// Converts prometheus-client's OpenMetrics text to Prometheus's text format 0.0.4. In that format, the name of a counter
/// includes `_total`, and units, exemplars and the end mark do not exist. A type that the format lacks becomes the nearest one.
/// Source: Prometheus's documentation, "Exposition formats".
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            // The name to write depends on the metric's type, which the next line gives.
            help = described.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" | "gaugehistogram" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([without_exemplar(line), "\n"]);
        }
    }
    text
}

/// Removes a sample's exemplar, which follows a `#`. The value of a label may have a `#` too, within quotation marks.
fn without_exemplar(sample: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    let exemplar = sample.bytes().position(|byte| {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            _ if was_escaped => {}
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'#' => return !quoted,
            _ => {}
        }
        false
    });
    exemplar.map_or(sample, |at| sample[..at].trim_end())
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::DescriptorEncoder,
        metrics::{
            MetricType, counter::Counter, exemplar::HistogramWithExemplars, family::Family, info::Info,
        },
        registry::Unit,
    };

    use super::*;

    #[test]
    fn open_metrics_is_chosen_only_if_it_is_asked_for() {
        use TextFormat::{OpenMetrics, Prometheus};
        for (accept, expected) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Prometheus),
            ("application/*", Prometheus),
            ("text/plain;version=0.0.4", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8", OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", OpenMetrics),
            // A future version, and a type whose name only begins alike.
            ("application/openmetrics-text;version=2.0.0", Prometheus),
            ("application/openmetrics-textile", Prometheus),
            // Prometheus 2 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            // Prometheus with `scrape_protocols: [PrometheusText0.0.4, OpenMetricsText1.0.0]`.
            (
                "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2",
                Prometheus,
            ),
            ("application/openmetrics-text;q=0", Prometheus),
            ("application/openmetrics-text;q=no", Prometheus),
            ("application/openmetrics-text;q=0.5, */*", Prometheus),
            ("application/openmetrics-text;q=0.5, text/plain;q=0.1, */*", OpenMetrics),
            ("application/openmetrics-text;q=0.5, text/*;q=0.6", Prometheus),
        ] {
            assert_eq!(TextFormat::accepted(accept), expected, "{accept}");
        }
    }

    /// A metric of a type that prometheus-client has no metric for.
    #[derive(Debug)]
    struct Unknown;

    impl prometheus_client::collector::Collector for Unknown {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let metric = encoder.encode_descriptor("odd", "Odd.", None, MetricType::Unknown)?;
            prometheus_client::encoding::EncodeMetric::encode(
                &prometheus_client::metrics::gauge::ConstGauge::new(1_i64),
                metric,
            )
        }
    }

    #[test]
    fn the_prometheus_text_has_only_what_its_format_allows() {
        let mut registry = Registry::with_prefix("x");
        let calls = Family::<Vec<(&str, String)>, Counter>::default();
        calls.get_or_create(&vec![("key", r#"a "b" # {c} \"#.to_owned())]).inc();
        registry.register("calls", "Calls", calls);
        let seconds = HistogramWithExemplars::<Vec<(&str, &str)>>::new([1.0].into_iter());
        seconds.observe(0.5, Some(vec![("trace_id", "4bf9")]), None);
        registry.register_with_unit("wait", "Waits", Unit::Seconds, seconds);
        registry.register("build", "Build", Info::new([("version", "1")]));
        registry.register_collector(Box::new(Unknown));
        let open_metrics = TextFormat::OpenMetrics.render(&registry).expect("memory takes every byte");
        for part in
            [" # {trace_id=\"4bf9\"} 0.5\n", "# UNIT x_wait_seconds seconds\n", "# TYPE x_build info\n"]
        {
            assert!(open_metrics.contains(part), "{part} in {open_metrics}");
        }
        assert!(open_metrics.ends_with("\n# EOF\n"));
        let expected = r##"# HELP x_calls_total Calls.
# TYPE x_calls_total counter
x_calls_total{key="a \"b\" # {c} \\"} 1
# HELP x_wait_seconds Waits.
# TYPE x_wait_seconds histogram
x_wait_seconds_sum 0.5
x_wait_seconds_count 1
x_wait_seconds_bucket{le="1.0"} 1
x_wait_seconds_bucket{le="+Inf"} 1
# HELP x_build_info Build.
# TYPE x_build_info gauge
x_build_info{version="1"} 1
# HELP x_odd Odd.
# TYPE x_odd untyped
x_odd 1
"##;
        assert_eq!(TextFormat::Prometheus.render(&registry).expect("memory takes every byte"), expected);
    }
}
