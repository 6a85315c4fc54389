use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::{DateCache, InternalListeners, ServerState, Upstreams};

/// What belongs to one worker thread and is handed down instead of globals: clock, randomness, upstreams.
pub struct Worker {
    /// 0 to concurrency - 1.
    pub index: usize,
    /// The worker's clocks.
    pub clock: Clock,
    /// The worker's randomness.
    pub rng: Rng,
    /// The Date header of this second.
    pub date: DateCache,
    /// State of the process.
    pub server: Arc<ServerState>,
    /// The listeners that connections of this worker reach without a socket.
    pub internal: InternalListeners,
    upstreams: OnceCell<Rc<dyn Upstreams>>,
}

impl Worker {
    /// A worker without upstreams; [`Worker::set_upstreams`] follows before it serves.
    pub fn new(index: usize, rng: Rng, server: Arc<ServerState>) -> Self {
        Self {
            index,
            clock: Clock::default(),
            rng,
            date: DateCache::default(),
            server,
            internal: InternalListeners::default(),
            upstreams: OnceCell::new(),
        }
    }

    /// Gives the worker its upstreams, once.
    pub fn set_upstreams(&self, upstreams: Rc<dyn Upstreams>) {
        assert!(self.upstreams.set(upstreams).is_ok(), "a worker gets its upstreams once");
    }

    /// The clusters, for filters that send requests of their own.
    pub fn upstreams(&self) -> &Rc<dyn Upstreams> {
        self.upstreams.get().expect("the server sets upstreams before the worker serves")
    }
}

/// Monotonic and wall clock. The wall clock is derived from the monotonic one and set right once a second, so that a
/// stream reads one clock, not two.
pub struct Clock {
    synced: Cell<(Instant, SystemTime)>,
    /// The wall clock at the time last asked for: within a turn that is mostly the same.
    wall: Cell<(Instant, SystemTime)>,
    turn: Cell<Turn>,
}

/// Whether the monotonic clock stands still.
#[derive(Clone, Copy)]
enum Turn {
    /// It does not: each reading is one.
    None,
    /// It will from its next reading on.
    Begun,
    /// It does.
    At(Instant),
}

/// How long the wall clock may run on the monotonic one alone.
const RESYNC: Duration = Duration::from_secs(1);

impl Default for Clock {
    fn default() -> Self {
        let now = (Instant::now(), SystemTime::now());
        Self { synced: Cell::new(now), wall: Cell::new(now), turn: Cell::new(Turn::None) }
    }
}

impl Clock {
    /// The monotonic clock (tokio's, so that tests can pause it).
    pub fn now(&self) -> Instant {
        match self.turn.get() {
            Turn::None => Instant::now(),
            Turn::Begun => {
                let now = Instant::now();
                self.turn.set(Turn::At(now));
                now
            }
            Turn::At(now) => now,
        }
    }

    /// Runs `poll`, one poll of a task, during which time stands still: a request asks for it ten times on its way
    /// through, and a reading costs as much as a look-up in a table. A poll waits for nothing, so that little is lost.
    pub fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        /// Sets time going again, also where `poll` panics.
        struct End<'a>(&'a Cell<Turn>);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.set(Turn::None);
            }
        }
        self.turn.set(Turn::Begun);
        let _end = End(&self.turn);
        poll()
    }

    /// The wall clock at the monotonic time `now`.
    pub fn wall(&self, now: Instant) -> SystemTime {
        let (at, wall) = self.wall.get();
        if at == now {
            return wall;
        }
        let (at, wall) = self.synced.get();
        let elapsed = now.saturating_duration_since(at);
        let wall = if elapsed < RESYNC {
            wall + elapsed
        } else {
            let wall = SystemTime::now();
            self.synced.set((now, wall));
            wall
        };
        self.wall.set((now, wall));
        wall
    }
}

/// A worker's randomness: fast, not for secrets.
pub struct Rng(Cell<fastrand::Rng>);

impl Rng {
    /// Seeded from the operating system.
    pub fn from_entropy() -> Self {
        Self(Cell::new(fastrand::Rng::new()))
    }

    /// The same sequence for the same seed: for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(fastrand::Rng::with_seed(seed)))
    }

    /// 64 random bits.
    pub fn u64(&self) -> u64 {
        self.with(|r| r.u64(..))
    }

    /// 128 random bits.
    pub fn u128(&self) -> u128 {
        self.with(|r| r.u128(..))
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.with(|r| r.u64(..bound))
    }

    fn with<R>(&self, f: impl FnOnce(&mut fastrand::Rng) -> R) -> R {
        let mut rng = self.0.replace(fastrand::Rng::with_seed(0));
        let result = f(&mut rng);
        self.0.set(rng);
        result
    }
}
