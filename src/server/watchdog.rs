//! Notices threads that do not come back to their event loops: each says twice within the limit that it is alive, and
//! a thread that does nothing else counts those that were silent for longer, once for each silence.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::WatchdogStats;
use tokio::time::MissedTickBehavior;

/// Envoy's defaults of `miss_timeout` and `megamiss_timeout`.
const MISS: Duration = Duration::from_millis(200);
const MEGA_MISS: Duration = Duration::from_secs(1);
/// How often a thread says that it is alive, and how often that is looked at.
const BEAT: Duration = Duration::from_millis(100);

/// Watches threads until it is dropped.
pub(crate) struct Watchdog {
    started: Instant,
    store: Store,
    watched: Mutex<Vec<Watched>>,
}

/// One thread: when it was last heard of, in milliseconds since the start.
struct Watched {
    beat: Weak<AtomicU64>,
    /// The beats after which a miss and a long one were counted.
    missed: Option<u64>,
    mega_missed: Option<u64>,
    /// `server.<thread>`, and `main_thread` or `workers`.
    stats: [WatchdogStats; 2],
}

/// Whose sign of life is waited for, as long as it lives.
pub(crate) struct Pulse {
    beat: Arc<AtomicU64>,
    started: Instant,
}

impl Watchdog {
    /// Starts the thread that watches.
    pub(crate) fn spawn(store: &Store) -> io::Result<Arc<Self>> {
        let watchdog = Self::new(store);
        let weak = Arc::downgrade(&watchdog);
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            while let Some(watchdog) = weak.upgrade() {
                watchdog.look(watchdog.started.elapsed());
                drop(watchdog);
                std::thread::sleep(BEAT);
            }
        })?;
        Ok(watchdog)
    }

    fn new(store: &Store) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), store: store.clone(), watched: Mutex::default() })
    }

    /// Watches the thread that Envoy calls `thread`, from now on.
    pub(crate) fn watch(&self, thread: &str, group: &str) -> Pulse {
        let stats = [format!("server.{thread}"), group.to_owned()];
        let stats = stats.map(|prefix| WatchdogStats::new(&self.store.scope(&prefix)));
        let pulse = Pulse { beat: Arc::default(), started: self.started };
        pulse.beat();
        let beat = Arc::downgrade(&pulse.beat);
        // Locked by whoever starts a thread and by the watching thread: never on the data path.
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push(Watched { beat, missed: None, mega_missed: None, stats });
        pulse
    }

    fn look(&self, now: Duration) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain_mut(|watched| {
            let Some(beat) = watched.beat.upgrade() else { return false };
            watched.look(beat.load(Ordering::Relaxed), now);
            true
        });
    }
}

impl Watched {
    fn look(&mut self, beat: u64, now: Duration) {
        let silence = now.saturating_sub(Duration::from_millis(beat));
        if silence > MISS && self.missed.replace(beat) != Some(beat) {
            self.stats.iter().for_each(|stats| stats.watchdog_miss().inc());
        }
        if silence > MEGA_MISS && self.mega_missed.replace(beat) != Some(beat) {
            self.stats.iter().for_each(|stats| stats.watchdog_mega_miss().inc());
        }
    }
}

impl Pulse {
    /// Says again and again, as a task of the watched thread, that it is alive.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat();
        }
    }

    fn beat(&self) {
        let now = self.started.elapsed().as_millis();
        self.beat.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(store: &Store, prefix: &str) -> (u64, u64) {
        let stats = WatchdogStats::new(&store.scope(prefix));
        (stats.watchdog_miss().value(), stats.watchdog_mega_miss().value())
    }

    #[test]
    fn each_silence_is_counted_once() {
        let store = Store::new();
        let watchdog = Watchdog::new(&store);
        let pulse = watchdog.watch("worker_0", "workers");
        let begin = Duration::from_millis(pulse.beat.load(Ordering::Relaxed));
        watchdog.look(begin + MISS);
        assert_eq!(counts(&store, "workers"), (0, 0));
        for silence in [MISS * 2, MISS * 3, MEGA_MISS * 2, MEGA_MISS * 3] {
            watchdog.look(begin + silence);
        }
        assert_eq!(counts(&store, "workers"), (1, 1));
        pulse.beat.fetch_add(5_000, Ordering::Relaxed);
        watchdog.look(begin + Duration::from_millis(5_000) + MISS * 2);
        assert_eq!(counts(&store, "server.worker_0"), (2, 1));
    }

    #[test]
    fn a_thread_that_ended_is_not_waited_for() {
        let store = Store::new();
        let watchdog = Watchdog::new(&store);
        drop(watchdog.watch("main_thread", "main_thread"));
        watchdog.look(MEGA_MISS * 100);
        assert_eq!(counts(&store, "main_thread"), (0, 0));
    }
}
