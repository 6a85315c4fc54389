//! The owner of all metrics: which blocks there are.

use super::block::Block;
use super::histogram::Merged;
use super::memory::{Memory, Shards, lock};
use super::rules::StatsRules;
use super::schema::Schema;
use super::scope::{Scope, Text};
use super::shard::WorkerShard;
use hashbrown::HashTable;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// All metrics of a process.
#[derive(Clone)]
pub struct Store(Arc<Registry>);

pub(super) struct Registry {
    memory: Arc<Memory>,
    /// Held when a block is made or all are listed; never for a write to a metric.
    blocks: Mutex<Blocks>,
    texts: Mutex<HashMap<Box<str>, Weak<Text>>>,
    /// By histogram slot: totals at the last flush, and what the interval before it brought.
    flushed: Mutex<HashMap<u32, Flushed>>,
    rules: OnceLock<StatsRules>,
}

struct Blocks {
    table: HashTable<Arc<Block>>,
    hasher: RandomState,
    /// Size of the table at which dropped blocks are looked for again.
    sweep_at: usize,
}

#[derive(Default)]
struct Flushed {
    total: Merged,
    interval: Merged,
}

/// A store sweeps when it has grown to twice what it kept, and at least to this.
const SWEEP_MINIMUM: usize = 256;

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    pub fn new() -> Self {
        let blocks = Blocks { table: HashTable::new(), hasher: RandomState::new(), sweep_at: SWEEP_MINIMUM };
        Self(Arc::new(Registry {
            memory: Memory::new(),
            blocks: Mutex::new(blocks),
            texts: Mutex::default(),
            flushed: Mutex::default(),
            rules: OnceLock::new(),
        }))
    }

    /// The scope of this name, whose metrics are called `name.metric`; an empty name is the root.
    pub fn scope(&self, name: &str) -> Scope {
        Scope::new(self.0.clone(), name)
    }

    /// Has the metrics told by these rules, from the first rendering on: they are the bootstrap's, so there is no second
    /// time.
    pub fn set_rules(&self, rules: StatsRules) {
        debug_assert!(self.0.rules.get().is_none(), "rules are set before anybody reads");
        self.0.rules.get_or_init(|| rules);
    }

    pub(super) fn rules(&self) -> &StatsRules {
        self.0.rules.get_or_init(StatsRules::default)
    }

    /// Gives the calling thread its own shard, until the guard is dropped.
    ///
    /// A worker that is started again under the index of one that died goes on with its shard.
    pub fn register_worker(&self, index: u32) -> WorkerShard {
        self.0.memory.register_worker(index)
    }

    /// Ends an interval of the histograms: to be called every `stats_flush_interval`.
    pub fn flush(&self) {
        let shards = self.shards();
        for block in self.blocks() {
            for slot in block.histogram_slots() {
                self.0.flush_histogram(slot, &shards);
            }
        }
    }

    /// Sets all counters back to zero.
    pub fn reset_counters(&self) {
        self.blocks().iter().for_each(|block| block.reset_counters());
    }

    /// The blocks in use, after those whose handles are all gone have given back their slots.
    pub(super) fn blocks(&self) -> Vec<Arc<Block>> {
        let mut blocks = lock(&self.0.blocks);
        blocks.sweep(&self.0);
        blocks.table.iter().cloned().collect()
    }

    pub(super) fn shards(&self) -> Shards {
        self.0.memory.shards()
    }

    pub(super) fn texts(&self) -> Vec<Arc<Text>> {
        let mut texts = lock(&self.0.texts);
        texts.retain(|_, text| text.strong_count() != 0);
        texts.values().filter_map(Weak::upgrade).collect()
    }

    /// What the last whole interval brought to the histogram in `slot`.
    pub(super) fn interval(&self, slot: u32) -> Merged {
        lock(&self.0.flushed).get(&slot).map(|flushed| flushed.interval.clone()).unwrap_or_default()
    }
}

// === impl Registry ===

impl Registry {
    /// The living block of this prefix and schema, or a new one.
    pub(super) fn block(&self, prefix: &Arc<str>, schema: &'static Schema) -> Arc<Block> {
        let mut blocks = lock(&self.blocks);
        if blocks.table.len() >= blocks.sweep_at {
            blocks.sweep(self);
        }
        let Blocks { table, hasher, .. } = &mut *blocks;
        let hash = |prefix: &str, schema| hasher.hash_one((prefix, ptr::from_ref::<Schema>(schema)));
        table
            .entry(hash(prefix, schema), |block| block.is(prefix, schema), |block| hash(&block.prefix, block.schema))
            .or_insert_with(|| Arc::new(Block::new(self.memory.clone(), prefix.clone(), schema)))
            .get()
            .clone()
    }

    /// The living text readout of this name, or a new one.
    pub(super) fn text(&self, name: &str) -> Arc<Text> {
        let mut texts = lock(&self.texts);
        if let Some(text) = texts.get(name).and_then(Weak::upgrade) {
            return text;
        }
        let text = Arc::new(Text { name: name.into(), value: Mutex::default() });
        texts.insert(name.into(), Arc::downgrade(&text));
        text
    }

    fn flush_histogram(&self, slot: u32, shards: &Shards) {
        if shards.bins(slot).all(|bins| bins.count() == 0) {
            return;
        }
        let total = Merged::of(shards.bins(slot));
        let mut flushed = lock(&self.flushed);
        let flushed = flushed.entry(slot).or_default();
        flushed.interval = total.since(&flushed.total);
        flushed.total = total;
    }
}

// === impl Blocks ===

impl Blocks {
    /// Drops the blocks that only this table still holds.
    fn sweep(&mut self, registry: &Registry) {
        self.table.retain(|block| {
            // Handles come only from other handles or from this table, which is locked: a block with none stays so,
            // and nobody can be writing its slots. `get_mut` orders our zeroes after the last handle's writes.
            let Some(block) = Arc::get_mut(block) else { return true };
            let mut flushed = lock(&registry.flushed);
            block.histogram_slots().for_each(|slot| drop(flushed.remove(&slot)));
            block.release_slots();
            false
        });
        self.sweep_at = SWEEP_MINIMUM.max(2 * self.table.len());
    }
}
