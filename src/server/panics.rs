//! Panics: each is counted and logged with its place. What it takes down is decided where it is caught: a connection
//! by its task, a worker by its thread.

use nuncio_telemetry::stats::catalogue::ServerStats;
use std::backtrace::Backtrace;
use tracing::error;

/// Counts panics in `server.panics` and logs each in one line, from now on and on every thread.
pub(crate) fn install(stats: ServerStats) {
    // Makes its slot now: the first panic may hold the lock that making it would take.
    stats.panics().add(0);
    stats.envoy_bug_failures().add(0);
    std::panic::set_hook(Box::new(move |info| {
        stats.panics().inc();
        stats.envoy_bug_failures().inc();
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or("a panic without message");
        // Symbols of the frames are looked up only with RUST_BACKTRACE=1.
        let backtrace = Backtrace::capture();
        error!(thread = thread.name(), place, message, %backtrace, "panic");
    }));
}
