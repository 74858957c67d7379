//! The filter of the log, which can be changed while the worker runs, and its ceiling.
//!
//! Other crates log at `info` at most, whatever the filter says: below it, the SDK and the HTTP client log requests with their
//! bodies, signatures and tokens.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tracing::Subscriber;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    reload,
};

use crate::{config::log_filter, trace::TARGET};

/// Start of the targets of logferry's own modules.
const OURS: &str = "logferry";
/// Most detailed level of other crates.
const CEILING: LevelFilter = LevelFilter::INFO;
/// Target of this module, whose lines tell of changes.
const CHANGES: &str = module_path!();

/// The filter of the running log.
pub struct LogFilter {
    configured: String,
    current: Mutex<String>,
    replace: Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").field("current", &self.current).finish_non_exhaustive()
    }
}

impl LogFilter {
    /// Creates the filter that the configuration asks for, and the layer's part of it.
    ///
    /// # Errors
    /// The text is not a filter. The error says what is wrong with it.
    pub fn new<S: Subscriber>(configured: &str) -> Result<(reload::Layer<Targets, S>, Self), String> {
        let (layer, handle) = reload::Layer::new(bounded(&log_filter::parse(configured)?));
        let replace = Box::new(move |targets| handle.reload(targets));
        let (configured, current) = (configured.to_owned(), Mutex::new(configured.to_owned()));
        Ok((layer, Self { configured, current, replace }))
    }

    /// The filter now, as it was written.
    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The filter of the configuration.
    pub fn configured(&self) -> &str {
        &self.configured
    }

    /// Replaces the filter, and logs it.
    ///
    /// # Errors
    /// The text is not a filter, and the filter stays as it was. The error says what is wrong with the text.
    pub fn change(&self, text: &str) -> Result<(), String> {
        let text = text.trim();
        let targets = log_filter::parse(text)?;
        // The text is valid after every statement, so the lock is usable after a panic.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.replace)(bounded(&targets)).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut *current, text.to_owned());
        drop(current);
        tracing::info!(log.filter = text, log.filter_before = before, "the filter of the log was changed");
        Ok(())
    }
}

/// Applies the ceiling to other crates' targets. Changes of the filter are always logged, and spans never.
fn bounded(asked: &Targets) -> Targets {
    let default = asked.default_level().unwrap_or(LevelFilter::OFF);
    let is_ours = |target: &str| {
        target.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let named = asked.iter().map(|(target, level)| match is_ours(target) {
        true => (target.to_owned(), level),
        false => (target.to_owned(), level.min(CEILING)),
    });
    let targets = Targets::new().with_default(default.min(CEILING)).with_target(OURS, default);
    targets.with_targets(named).with_target(CHANGES, LevelFilter::INFO).with_target(TARGET, LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn other_crates_log_at_info_at_most() {
        let check = |filter: &str, target: &str, expected: Option<Level>| {
            let bounded = bounded(&log_filter::parse(filter).expect("a filter"));
            let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
            let most = levels.into_iter().find(|level| bounded.would_enable(target, level));
            assert_eq!(most, expected, "{filter}: {target}");
        };
        for filter in ["trace", "debug,aws_sigv4=trace", "hyper=trace,logferry=debug,trace"] {
            for target in
                ["aws_sigv4::http_request", "hyper::proto::h1", "h2", "rustls::client", "logferries"]
            {
                check(filter, target, Some(Level::INFO));
            }
        }
        check("trace", "logferry", Some(Level::TRACE));
        check("trace", "logferry::pipeline::logs", Some(Level::TRACE));
        check("warn", "logferry::pipeline", Some(Level::WARN));
        check("warn,logferry=debug", "logferry::pipeline", Some(Level::DEBUG));
        check("debug,logferry::worker=warn", "logferry::worker::settle", Some(Level::WARN));
        check("warn,rustls=info", "rustls::client", Some(Level::INFO));
        check("warn,rustls=off", "rustls::client", None);
        check("logferry=debug", "hyper", None);
        check("off", "logferry::worker", None);
        check("off", "logferry::telemetry::level", Some(Level::INFO));
        // Targets match by their beginning.
        check("warn,log=trace,a=trace", "aws_sigv4", Some(Level::INFO));
    }

    #[test]
    fn a_filter_is_replaced_and_a_bad_one_refused() {
        let (layer, filter) = LogFilter::new::<tracing_subscriber::Registry>("info").expect("a filter");
        filter.change(" warn,logferry=debug\n").expect("a filter");
        assert_eq!((filter.current().as_str(), filter.configured()), ("warn,logferry=debug", "info"));
        let bad_targets =
            ["warn;logferry=debug", "info=debug", "warn logferry=debug", "=debug", "warn,a/b=info"];
        let bad_levels =
            ["", "debgu", "logferry=loud", "warn,logferry", "nonsense=", "warn,", "logferry=debug=info"];
        for bad in bad_targets.into_iter().chain(bad_levels) {
            assert!(!filter.change(bad).expect_err("no filter").is_empty(), "{bad:?}");
        }
        assert_eq!(filter.current(), "warn,logferry=debug");
        drop(layer);
        filter.change("info").expect_err("the log has ended");
    }
}
