//! A block of metrics under one prefix, and the handles that write to it.

use super::histogram::Merged;
use super::memory::{Class, Memory, Shards};
use super::schema::{Kind, Schema};
use super::shard::Shard;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The metrics of one schema under one prefix; they share its life.
pub struct Block {
    memory: Arc<Memory>,
    pub(super) prefix: Arc<str>,
    pub(super) schema: &'static Schema,
    values: Base,
    histograms: Base,
}

/// First slot of a block, once it has slots.
struct Base(AtomicU32);

/// A number that only grows.
#[derive(Clone, Copy)]
pub struct Counter<'a> {
    block: &'a Block,
    position: u32,
}

/// A number that goes up and down.
///
/// Either all its users add and subtract, or all set it.
#[derive(Clone, Copy)]
pub struct Gauge<'a> {
    block: &'a Block,
    position: u32,
}

/// What one holder has in a gauge that sums up those of many.
///
/// Whoever drops it sets it to zero first: it does not know its gauge, so as to be small.
#[derive(Debug, Default)]
pub struct GaugePart(u32);

/// A distribution of whole numbers.
#[derive(Clone, Copy)]
pub struct Histogram<'a> {
    block: &'a Block,
    position: u32,
}

// === impl Block ===

impl Block {
    pub(super) fn new(memory: Arc<Memory>, prefix: Arc<str>, schema: &'static Schema) -> Self {
        Self { memory, prefix, schema, values: Base::unset(), histograms: Base::unset() }
    }

    pub(super) fn is(&self, prefix: &str, schema: &'static Schema) -> bool {
        std::ptr::eq(self.schema, schema) && *self.prefix == *prefix
    }

    /// The slots of the counters and gauges; none before the first write.
    pub(super) fn value_slots(&self) -> Range<u32> {
        self.values.get().map_or(0..0, |base| base..base + self.schema.values)
    }

    /// The slots of the histograms; none before the first record.
    pub(super) fn histogram_slots(&self) -> Range<u32> {
        self.histograms.get().map_or(0..0, |base| base..base + self.schema.histograms)
    }

    /// Gives the slots back; `&mut` shows that no handle can write them.
    pub(super) fn release_slots(&mut self) {
        if let Some(base) = self.values.get() {
            self.memory.release(Class::Values, base, self.schema.values);
        }
        if let Some(base) = self.histograms.get() {
            self.memory.release(Class::Histograms, base, self.schema.histograms);
        }
        (self.values, self.histograms) = (Base::unset(), Base::unset());
    }

    pub(super) fn reset_counters(&self) {
        for (metric, position) in self.schema.metrics() {
            if metric.kind == Kind::Counter {
                Counter::new(self, position).reset();
            }
        }
    }

    #[inline]
    fn value_slot(&self, position: u32) -> u32 {
        let base = self.values.get();
        position + base.unwrap_or_else(|| self.allocate(&self.values, Class::Values, self.schema.values))
    }

    /// Adds one to each of the counters at `positions`: where they are is looked up once.
    #[inline]
    pub(super) fn inc_each<const N: usize>(&self, positions: [u32; N]) {
        let base = self.value_slot(0);
        match Shard::current(&self.memory) {
            Some(shard) => {
                let words = shard.values(base);
                for position in positions {
                    let word = &words[position as usize];
                    word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
                }
            }
            None => {
                for position in positions {
                    self.memory.shared.value(base + position).fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    #[inline]
    fn histogram_slot(&self, position: u32) -> u32 {
        let base = self.histograms.get();
        position + base.unwrap_or_else(|| self.allocate(&self.histograms, Class::Histograms, self.schema.histograms))
    }

    #[cold]
    fn allocate(&self, base: &Base, class: Class, length: u32) -> u32 {
        self.memory.allocate(class, length, || base.get(), |first| base.0.store(first, Ordering::Release))
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

// === impl Base ===

impl Base {
    const NONE: u32 = u32::MAX;

    fn unset() -> Self {
        Self(AtomicU32::new(Self::NONE))
    }

    #[inline]
    fn get(&self) -> Option<u32> {
        // Acquire: slots that another block had before were zeroed before this base was published.
        Some(self.0.load(Ordering::Acquire)).filter(|base| *base != Self::NONE)
    }
}

// === impl Counter ===

impl<'a> Counter<'a> {
    #[doc(hidden)]
    #[inline]
    pub fn new(block: &'a Block, position: u32) -> Self {
        Self { block, position }
    }

    #[inline]
    pub fn inc(self) {
        self.add(1);
    }

    #[inline]
    pub fn add(self, amount: u64) {
        let slot = self.block.value_slot(self.position);
        match Shard::current(&self.block.memory) {
            Some(shard) => {
                let word = shard.value(slot);
                word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
            }
            None => {
                self.block.memory.shared.value(slot).fetch_add(amount, Ordering::Relaxed);
            }
        }
    }

    /// The sum of all shards.
    pub fn value(self) -> u64 {
        self.read(&self.block.memory.shards()).unwrap_or(0)
    }

    /// The value, if it was ever incremented.
    pub(super) fn read(self, shards: &Shards) -> Option<u64> {
        let slot = self.block.value_slots().nth(self.position as usize)?;
        let (mut sum, mut used) = (0_u64, false);
        for word in shards.words(slot) {
            sum = sum.wrapping_add(word);
            used |= word != 0;
        }
        used.then_some(sum)
    }

    /// Starts again from zero. Increments made meanwhile are kept.
    pub fn reset(self) {
        let value = self.value();
        if value != 0 {
            // The words of workers are theirs to write, so the shared one takes the difference.
            let slot = self.block.value_slot(self.position);
            self.block.memory.shared.value(slot).fetch_sub(value, Ordering::Relaxed);
        }
    }
}

// === impl Gauge ===

impl<'a> Gauge<'a> {
    #[doc(hidden)]
    #[inline]
    pub fn new(block: &'a Block, position: u32) -> Self {
        Self { block, position }
    }

    #[inline]
    pub fn inc(self) {
        self.add(1);
    }

    #[inline]
    pub fn dec(self) {
        self.sub(1);
    }

    #[inline]
    pub fn add(self, amount: u64) {
        let slot = self.block.value_slot(self.position);
        match Shard::current(&self.block.memory) {
            Some(shard) => {
                let word = shard.value(slot);
                word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
                shard.value(slot + 1).store(1, Ordering::Relaxed);
            }
            None => {
                let shared = &self.block.memory.shared;
                shared.value(slot).fetch_add(amount, Ordering::Relaxed);
                shared.value(slot + 1).store(1, Ordering::Relaxed);
            }
        }
    }

    #[inline]
    pub fn sub(self, amount: u64) {
        self.add(amount.wrapping_neg());
    }

    /// Replaces the value, on any thread; the last one wins.
    pub fn set(self, value: u64) {
        let slot = self.block.value_slot(self.position);
        self.block.memory.shared.value(slot).store(value, Ordering::Relaxed);
        self.block.memory.shared.value(slot + 1).store(1, Ordering::Relaxed);
    }

    /// The sum of all shards.
    pub fn value(self) -> u64 {
        self.read(&self.block.memory.shards()).unwrap_or(0)
    }

    /// The value, if it was ever written.
    pub(super) fn read(self, shards: &Shards) -> Option<u64> {
        let slot = self.block.value_slots().nth(self.position as usize)?;
        let sum = shards.words(slot).fold(0, u64::wrapping_add);
        // Between two shards a reader may see what one thread took before what another had added: that is zero.
        let below_zero = sum >= (u64::MAX << 32);
        shards.words(slot + 1).any(|used| used != 0).then_some(if below_zero { 0 } else { sum })
    }
}

// === impl GaugePart ===

impl GaugePart {
    /// Has `gauge` hold `value` of this holder. It is written only where that is another value than before.
    #[inline]
    pub fn set(&mut self, gauge: Gauge<'_>, value: usize) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        if value != self.0 {
            gauge.add(u64::from(value).wrapping_sub(self.0.into()));
            self.0 = value;
        }
    }
}

// === impl Histogram ===

impl<'a> Histogram<'a> {
    #[doc(hidden)]
    #[inline]
    pub fn new(block: &'a Block, position: u32) -> Self {
        Self { block, position }
    }

    #[inline]
    pub fn record(self, value: u64) {
        let slot = self.block.histogram_slot(self.position);
        match Shard::current(&self.block.memory) {
            Some(shard) => shard.bins(slot).record_alone(value),
            None => self.block.memory.shared.bins(slot).record_shared(value),
        }
    }

    /// All that was recorded so far.
    pub fn merged(self) -> Merged {
        self.read(&self.block.memory.shards())
    }

    pub(super) fn read(self, shards: &Shards) -> Merged {
        let slot = self.block.histogram_slots().nth(self.position as usize);
        slot.map_or_else(Merged::default, |slot| Merged::of(shards.bins(slot)))
    }
}
