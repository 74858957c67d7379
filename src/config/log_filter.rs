//! The syntax of `log.filter`.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Reads a filter: a level, or levels per target.
///
/// # Errors
/// The text is not a filter. The error says what is wrong with it.
pub fn parse(filter: &str) -> Result<Targets, String> {
    if filter.trim().is_empty() {
        return Err("it is empty; a level such as info is needed".to_owned());
    }
    let targets = filter.parse::<Targets>().map_err(|error| error.to_string())?;
    for part in filter.split(',') {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, part.trim()),
        };
        // `Targets` takes every word for a target. A misspelt level such as "debgu" would silence all targets.
        if !is_level(level) {
            return Err(format!("{level:?} is not a level (error, warn, info, debug, trace, off)"));
        }
        if let Some(target) = target.filter(|target| !is_target(target)) {
            return Err(format!(
                "{target:?} is not the name of a module; a filter is a level, or LEVEL,MODULE=LEVEL,MODULE=LEVEL"
            ));
        }
    }
    Ok(targets)
}

fn is_level(word: &str) -> bool {
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

/// Whether this can be a module's path. The name of a level cannot: `info=debug` is a mistake.
fn is_target(word: &str) -> bool {
    let of_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
    !word.is_empty() && word.chars().all(of_path) && !is_level(word)
}
