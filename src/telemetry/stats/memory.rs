//! The shards of one store, and which of their slots are taken.

use super::bucketed::{self, Address};
use super::histogram::Bins;
use super::shard::{Shard, WorkerShard};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Where the values of all metrics of a store are.
pub(super) struct Memory {
    /// What threads without a shard of their own wrote.
    pub(super) shared: Arc<Shard>,
    /// All shards, the shared one first.
    shards: Mutex<Vec<Arc<Shard>>>,
    /// Held when a block gets its slots or gives them back; never for a write to a metric.
    slots: Mutex<[Slots; 2]>,
}

/// The two kinds of slots.
#[derive(Clone, Copy)]
pub(super) enum Class {
    /// One word each, for counters and gauges.
    Values,
    Histograms,
}

/// All shards of a store at one time: what a reader sums over.
pub(super) struct Shards(Vec<Arc<Shard>>);

#[derive(Default)]
struct Slots {
    next: Address,
    /// Ranges given back, by length: schemas are few, so a range is soon taken again whole.
    free: BTreeMap<u32, Vec<u32>>,
}

// === impl Memory ===

impl Memory {
    pub(super) fn new() -> Arc<Self> {
        Arc::new_cyclic(|memory: &Weak<Self>| {
            let shared = Arc::new(Shard::new(memory.as_ptr().addr(), u32::MAX));
            Self { shards: Mutex::new(vec![shared.clone()]), shared, slots: Mutex::default() }
        })
    }

    pub(super) fn register_worker(self: &Arc<Self>, index: u32) -> WorkerShard {
        let mut shards = lock(&self.shards);
        if let Some(shard) = shards.iter().find(|shard| shard.claim(index)) {
            return WorkerShard::enter(shard.clone());
        }
        let shard = Arc::new(Shard::new(Arc::as_ptr(self).addr(), index));
        shard.claim(index);
        shards.push(shard.clone());
        WorkerShard::enter(shard)
    }

    pub(super) fn shards(&self) -> Shards {
        Shards(lock(&self.shards).clone())
    }

    /// Under the lock of the slots: what `base` answers, or the first of `length` new slots after it was `published`.
    pub(super) fn allocate(
        &self,
        class: Class,
        length: u32,
        base: impl FnOnce() -> Option<u32>,
        publish: impl FnOnce(u32),
    ) -> u32 {
        let mut slots = lock(&self.slots);
        base().unwrap_or_else(|| {
            let base = slots[class as usize].take(length);
            publish(base);
            base
        })
    }

    /// Zeroes slots that nobody writes any more, and lets others have them.
    pub(super) fn release(&self, class: Class, base: u32, length: u32) {
        for slot in base..base + length {
            for shard in &self.shards().0 {
                match class {
                    Class::Values => shard.existing_value(slot).into_iter().for_each(|word| word.store(0, Relaxed)),
                    Class::Histograms => shard.existing_bins(slot).into_iter().for_each(Bins::clear),
                }
            }
        }
        lock(&self.slots)[class as usize].give_back(base, length);
    }
}

/// A panic while one of these locks was held leaves tables that at worst miss an entry.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shards ===

impl Shards {
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn words(&self, slot: u32) -> impl Iterator<Item = u64> {
        self.0.iter().filter_map(move |shard| Some(shard.existing_value(slot)?.load(Relaxed)))
    }

    pub(super) fn bins(&self, slot: u32) -> impl Iterator<Item = &Bins> {
        self.0.iter().filter_map(move |shard| shard.existing_bins(slot))
    }
}

// === impl Slots ===

impl Slots {
    fn take(&mut self, length: u32) -> u32 {
        if let Some(base) = self.free.get_mut(&length).and_then(Vec::pop) {
            return base;
        }
        let base = bucketed::fit(self.next, length);
        self.next = base + length;
        base
    }

    fn give_back(&mut self, base: u32, length: u32) {
        self.free.entry(length).or_default().push(base);
    }
}
