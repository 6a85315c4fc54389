use std::fs;
use std::sync::atomic::AtomicUsize;

use tracing::{debug, error, info, trace, warn};

use super::*;
use crate::access_log::{Destination, FilesystemStats};
use crate::stats::Store;

/// What `events` logs at `level`, without the times and thread ids, whose form is checked.
fn logged(level: LogLevel, events: impl FnOnce(&AppLog)) -> Vec<String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("nuncio-app-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let stats = FilesystemStats::new(&Store::new().scope("filesystem"));
    let file = LogFile::open(Destination::from_path(&path), APPLICATION_LOG_POLICY, stats).unwrap();
    let log = AppLog::new(level, Arc::new(file));
    tracing::subscriber::with_default(log.clone(), || events(&log));
    assert!(log.flush(Duration::from_secs(20)));
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let form = regex::Regex::new(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\]\[\d+\](.*)$").unwrap();
    text.lines().map(|l| form.captures(l).unwrap_or_else(|| panic!("{l}"))[1].to_owned()).collect()
}

#[test]
fn events_have_envoys_prefix_and_their_fields() {
    let lines = logged(LogLevel::Info, |_| {
        info!(target: "admin", address = %"127.0.0.1:1", "admin listens");
        warn!(cluster = "c", attempts = 3, error = ?Some("x"), "upstream connect failed");
        debug!("not at this level");
    });
    assert_eq!(
        lines,
        [
            "[info][admin] admin listens address=127.0.0.1:1",
            "[warning][main] upstream connect failed cluster=c attempts=3 error=Some(\"x\")",
        ]
    );
}

#[test]
fn what_a_peer_sent_cannot_forge_lines() {
    let lines = logged(LogLevel::Info, |_| {
        warn!(target: "http", host = %"a\n[2026-11-21 00:00:00.000][1][info][main] all is well\r\t\u{1b}é", "bad host");
    });
    assert_eq!(
        lines,
        [r"[warning][http] bad host host=a\n[2026-11-21 00:00:00.000][1][info][main] all is well\r\t\u{1b}é"]
    );
}

#[test]
fn levels_are_thresholds_and_critical_is_above_error() {
    let all = |_: &AppLog| {
        trace!(target: "main", "t");
        debug!(target: "main", "d");
        info!(target: "main", "i");
        warn!(target: "main", "w");
        error!(target: "main", "e");
        error!(target: "main", critical = true, "c");
    };
    for (level, count) in
        [("trace", 6), ("debug", 5), ("info", 4), ("warn", 3), ("error", 2), ("critical", 1), ("off", 0)]
    {
        assert_eq!(logged(level.parse().unwrap(), all).len(), count, "{level}");
    }
    assert_eq!(logged(LogLevel::Critical, all), ["[critical][main] c"]);
}

#[test]
fn levels_change_while_the_process_runs() {
    let lines = logged(LogLevel::Warning, |log| {
        let both = || {
            debug!(target: "http", "http");
            debug!(target: "admin", "admin");
        };
        both();
        log.set("http", LogLevel::Debug).unwrap();
        both();
        log.set_all(LogLevel::Trace);
        both();
        log.set_all(LogLevel::Off);
        both();
        assert_eq!(log.set("no such", LogLevel::Info), Err(UnknownLogger));
        assert!(log.levels().all(|(_, level)| level == LogLevel::Off));
    });
    assert_eq!(lines, ["[debug][http] http", "[debug][http] http", "[debug][admin] admin"]);
}

#[test]
fn a_value_that_logs_while_it_is_printed_does_not_hang() {
    struct Chatty;
    impl std::fmt::Display for Chatty {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            info!(target: "main", "inner");
            f.write_str("value")
        }
    }
    let lines = logged(LogLevel::Info, |_| info!(target: "main", value = %Chatty, "outer"));
    // Inside a scoped subscriber, as here, tracing drops the inner event; in a process's global one it arrives.
    assert_eq!(lines.last().unwrap(), "[info][main] outer value=value");
}

#[test]
fn level_names_are_envoys() {
    for name in ["trace", "debug", "info", "warning", "error", "critical", "off"] {
        assert_eq!(name.parse::<LogLevel>().unwrap().as_str(), name);
    }
    assert_eq!("verbose".parse::<LogLevel>(), Err(UnknownLevel));
}
