//! One thread's part of every metric.

use super::bucketed::Bucketed;
use super::histogram::Bins;
use super::memory::Memory;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

thread_local! {
    /// The shard of the worker that runs on this thread.
    ///
    /// This is the one global of the stats. A handle is shared by all workers, so it cannot carry the shard, and
    /// passing a context to each increment would put an argument through every function of the data path.
    static CURRENT: Cell<*const Shard> = const { Cell::new(ptr::null()) };
}

/// The values that one worker wrote, or, for the store's shared shard, those of all other threads.
pub(super) struct Shard {
    /// Address of the memory that this shard is part of: a process may hold several stores, as tests do.
    memory: usize,
    worker: u32,
    claimed: AtomicBool,
    values: Bucketed<AtomicU64>,
    histograms: Bucketed<OnceLock<Box<Bins>>>,
}

/// Ties the thread that made it to a shard of its own; dropping it keeps the values in the store.
pub struct WorkerShard {
    shard: Arc<Shard>,
    /// The guard stays on its thread, whose thread-local it owns.
    thread: PhantomData<*const ()>,
}

// === impl Shard ===

impl Shard {
    pub(super) fn new(memory: usize, worker: u32) -> Self {
        Self { memory, worker, claimed: AtomicBool::new(false), values: Bucketed::new(), histograms: Bucketed::new() }
    }

    /// This thread's shard of `memory`; none on a thread that is no worker of it.
    #[inline]
    pub(super) fn current(memory: &Memory) -> Option<&Shard> {
        let shard = CURRENT.get();
        if shard.is_null() {
            return None;
        }
        // SAFETY: CURRENT is set by a WorkerShard of this thread, which owns the shard and clears CURRENT when dropped.
        // The result may live as long as `memory`, which never drops a shard.
        let shard = unsafe { &*shard };
        (shard.memory == ptr::from_ref(memory).addr()).then_some(shard)
    }

    /// Takes the shard for a worker, unless one has it.
    pub(super) fn claim(&self, worker: u32) -> bool {
        self.worker == worker && !self.claimed.swap(true, Ordering::Acquire)
    }

    #[inline]
    pub(super) fn value(&self, slot: u32) -> &AtomicU64 {
        self.values.element(slot, zeroed)
    }

    /// Those of a block whose first is at `slot`, and whatever follows.
    #[inline]
    pub(super) fn values(&self, slot: u32) -> &[AtomicU64] {
        self.values.elements(slot, zeroed)
    }

    #[inline]
    pub(super) fn bins(&self, slot: u32) -> &Bins {
        self.histograms.element(slot, unset).get_or_init(Box::default)
    }

    pub(super) fn existing_value(&self, slot: u32) -> Option<&AtomicU64> {
        self.values.existing(slot)
    }

    pub(super) fn existing_bins(&self, slot: u32) -> Option<&Bins> {
        Some(self.histograms.existing(slot)?.get()?)
    }
}

fn unset<T>(length: usize) -> Box<[OnceLock<T>]> {
    (0..length).map(|_| OnceLock::new()).collect()
}

/// Zeroes straight from the allocator, so that the untouched pages of a large bucket cost nothing.
fn zeroed(length: usize) -> Box<[AtomicU64]> {
    let zeros = Box::into_raw(vec![0_u64; length].into_boxed_slice());
    // SAFETY: AtomicU64 has the size, alignment and bit validity of u64 where, as here, u64 is aligned to eight bytes.
    unsafe { Box::from_raw(zeros as *mut [AtomicU64]) }
}

const _: () = assert!(align_of::<u64>() == align_of::<AtomicU64>());

// === impl WorkerShard ===

impl WorkerShard {
    /// Makes `shard`, already claimed, the current one of this thread.
    pub(super) fn enter(shard: Arc<Shard>) -> Self {
        CURRENT.set(Arc::as_ptr(&shard));
        Self { shard, thread: PhantomData }
    }
}

impl Drop for WorkerShard {
    fn drop(&mut self) {
        if CURRENT.get() == Arc::as_ptr(&self.shard) {
            CURRENT.set(ptr::null());
        }
        self.shard.claimed.store(false, Ordering::Release);
    }
}
