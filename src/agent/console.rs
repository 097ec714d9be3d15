//! What a person on the serial console sees: few lines, each worth reading.

use std::str::FromStr;

use tracing::Level;

/// Sends the log to standard error, which for process 1 is the console.
///
/// `level` is `error`, `warn`, `info`, `debug` or `trace`; anything else means `info`, with a
/// line that says so.
pub fn start_log(level: Option<&str>) {
    let parsed = level.map(Level::from_str);
    let known = match parsed {
        Some(Ok(level)) => level,
        Some(Err(_)) | None => Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(known)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // They would go to the same console, by `eprintln!`: a panic, where that takes nothing.
        .log_internal_errors(false)
        .without_time()
        .init();
    if let (Some(Err(_)), Some(level)) = (parsed, level) {
        tracing::warn!("log level {level:?} is not known: use error, warn, info, debug or trace");
    }
}
