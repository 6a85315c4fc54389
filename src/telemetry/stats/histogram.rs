//! Distributions in the bins of Envoy's histograms: two significant decimal digits.
//!
//! The crate `hdrhistogram` needs `&mut` to record and so a lock between the worker and the reader; these bins are
//! atomics that the worker adds to without one. Being Envoy's own bins, they also give its quantiles to the last digit.

mod merged;

pub use merged::Merged;

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Below this every whole number has its own bin.
const LINEAR: usize = 100;
/// Bins of each further decade: 10 to 99 times a power of ten.
const PER_DECADE: usize = 90;
/// Decades from 100 up to the largest u64.
const DECADES: usize = 18;

/// What one thread recorded in one histogram.
pub(super) struct Bins {
    count: AtomicU64,
    linear: [AtomicU64; LINEAR],
    decades: [OnceLock<Box<[AtomicU64; PER_DECADE]>>; DECADES],
}

impl Default for Bins {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            linear: [const { AtomicU64::new(0) }; LINEAR],
            decades: [const { OnceLock::new() }; DECADES],
        }
    }
}

impl Bins {
    /// Adds a value; only the one thread that owns the bins may call this.
    #[inline]
    pub(super) fn record_alone(&self, value: u64) {
        for counter in [self.bin(value), &self.count] {
            counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Adds a value to bins that other threads may be adding to.
    pub(super) fn record_shared(&self, value: u64) {
        self.bin(value).fetch_add(1, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// Number of values recorded.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(super) fn clear(&self) {
        self.count.store(0, Relaxed);
        self.linear.iter().for_each(|bin| bin.store(0, Relaxed));
        self.decades.iter().filter_map(OnceLock::get).for_each(|decade| {
            decade.iter().for_each(|bin| bin.store(0, Relaxed));
        });
    }

    #[inline]
    fn bin(&self, value: u64) -> &AtomicU64 {
        if value < LINEAR as u64 {
            return &self.linear[value as usize];
        }
        let (decade, offset) = locate(value);
        &self.decades[decade].get_or_init(|| Box::new([const { AtomicU64::new(0) }; PER_DECADE]))[offset]
    }
}

/// Decade and bin in it of a value of at least 100.
#[inline]
fn locate(value: u64) -> (usize, usize) {
    let digits = value.ilog10();
    (digits as usize - 2, (value / 10_u64.pow(digits - 1)) as usize - 10)
}
