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
    // A misspelt level such as "debgu" would be taken for a target, and would silence all others.
    let mut alone = filter.split(',').filter(|part| !part.contains('='));
    match alone.find(|word| word.trim().parse::<LevelFilter>().is_err()) {
        Some(word) => Err(format!("{word:?} is not a level (error, warn, info, debug, trace, off)")),
        None => Ok(targets),
    }
}
