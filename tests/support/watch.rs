//! Ends proxies that run for longer than a test may: a test that waits for ever fails, and by name, instead of holding
//! up all others.

use super::say;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a proxy may run for one test; the slowest take a minute on a busy machine.
const LONGEST: Duration = Duration::from_secs(240);

/// What asks for runs of another length.
const LONG_RUNS: [&str; 4] = ["NUNCIO_CHAOS_SECONDS", "NUNCIO_SEQUENCES", "NUNCIO_SOAK_SECONDS", "NUNCIO_FLOOD"];

struct Watched {
    test: String,
    until: Instant,
    child: Weak<Mutex<Child>>,
}

/// Ends the process when it has run longer than a test may.
pub(crate) fn watch(child: Child) -> Arc<Mutex<Child>> {
    static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
    static LOOKS: Once = Once::new();
    let child = Arc::new(Mutex::new(child));
    if LONG_RUNS.iter().any(|name| std::env::var_os(name).is_some()) {
        return child;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    lock(&WATCHED).push(Watched { test, until: Instant::now() + LONGEST, child: Arc::downgrade(&child) });
    LOOKS.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                lock(&WATCHED).retain(Watched::may_go_on);
            }
        });
    });
    child
}

impl Watched {
    /// Whether there is anything left to watch.
    fn may_go_on(&self) -> bool {
        let Some(child) = self.child.upgrade() else { return false };
        let is_over = self.until <= Instant::now();
        if is_over {
            say(&format!("{} hangs: its proxy has run for {LONGEST:?} and is ended", self.test));
            let _ = lock(&child).kill();
        }
        !is_over
    }
}

/// A lock that outlives a test which failed while it held it.
pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
