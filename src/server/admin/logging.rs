//! `/logging`: levels of the application log.

use std::fmt::Write;

use nuncio_telemetry::logging::{AppLog, LogLevel};

use super::{Admin, Params, Reply};

const USAGE: &str = "usage: /logging?level=LEVEL (all loggers), /logging?NAME=LEVEL (one), \
    /logging?paths=NAME:LEVEL,... (several)\n\
    levels: trace debug info warning error critical off\n";

/// `/logging`: without parameters lists the levels, with one changes some first.
pub(super) fn logging(admin: &Admin, params: &Params) -> Reply {
    match change(&admin.log, params) {
        Ok(()) => Reply::text(list(&admin.log)),
        Err(error) => Reply::bad_request(format!("error: {error}\n\n{USAGE}{}", list(&admin.log))),
    }
}

/// All changes are checked before the first is made.
fn change(log: &AppLog, params: &Params) -> Result<(), String> {
    let mut params = params.iter();
    let Some((key, value)) = params.next() else { return Ok(()) };
    if params.next().is_some() {
        return Err("invalid number of parameters".to_owned());
    }
    match key {
        "level" => log.set_all(level(value)?),
        "paths" => set_several(log, value)?,
        "group" => return Err("groups of loggers are not implemented yet".to_owned()),
        logger => set(log, logger, level(value)?)?,
    }
    Ok(())
}

fn set_several(log: &AppLog, paths: &str) -> Result<(), String> {
    let mut changes = Vec::new();
    for part in paths.split(',').filter(|part| !part.is_empty()) {
        let (logger, text) = part.split_once(':').ok_or_else(|| format!("{part:?} is not name:level"))?;
        if !log.levels().any(|(name, _)| name == logger) {
            return Err("unknown logger name".to_owned());
        }
        changes.push((logger, level(text)?));
    }
    changes.into_iter().try_for_each(|(logger, level)| set(log, logger, level))
}

fn level(text: &str) -> Result<LogLevel, String> {
    text.parse().map_err(|e: nuncio_telemetry::logging::UnknownLevel| e.to_string())
}

fn set(log: &AppLog, logger: &str, level: LogLevel) -> Result<(), String> {
    log.set(logger, level).map_err(|e| e.to_string())
}

fn list(log: &AppLog) -> String {
    let mut text = "active loggers:\n".to_owned();
    for (name, level) in log.levels() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name}: {}", level.as_str());
    }
    text.push('\n');
    text
}
