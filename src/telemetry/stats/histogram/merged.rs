//! A histogram put together from all threads, and what can be asked of it.

use super::{Bins, LINEAR, PER_DECADE};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

/// All values of a histogram up to some time, or of one interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// Count by bin, without the empty decades at the end.
    bins: Vec<u64>,
    /// Values were recorded in millionths.
    is_share: bool,
}

/// A bin that holds something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bin {
    pub(crate) lower: f64,
    pub(crate) width: f64,
    pub(crate) count: u64,
}

// === impl Merged ===

impl Merged {
    pub(in crate::stats) fn of<'a>(threads: impl Iterator<Item = &'a Bins>) -> Self {
        let mut merged = Self::default();
        threads.for_each(|bins| merged.add(bins));
        merged
    }

    /// What came after `earlier`.
    pub(in crate::stats) fn since(&self, earlier: &Self) -> Self {
        let earlier = earlier.bins.iter().copied().chain(std::iter::repeat(0));
        let bins = self.bins.iter().zip(earlier).map(|(now, then)| now.wrapping_sub(then)).collect();
        Self { bins, is_share: self.is_share }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.bins.iter().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bins.iter().all(|count| *count == 0)
    }

    /// Sum of the values as far as their bins tell: each counts as the harmonic middle of its bin, as in Envoy.
    pub fn sum(&self) -> f64 {
        self.used().map(|bin| bin.middle() * bin.count as f64).sum()
    }

    /// For each of the ascending `bounds`, the number of values in bins that do not begin above it.
    pub fn cumulative(&self, bounds: &[f64]) -> Vec<u64> {
        let mut bins = self.used().peekable();
        let mut sum = 0;
        let counts = bounds.iter().map(|bound| {
            while let Some(bin) = bins.next_if(|bin| bin.lower <= *bound) {
                sum += bin.count;
            }
            sum
        });
        counts.collect()
    }

    /// For each of the ascending `bounds`, the number of values that the bound before it does not count.
    pub fn disjoint(&self, bounds: &[f64]) -> Vec<u64> {
        let mut before = 0;
        let cumulative = self.cumulative(bounds);
        cumulative.into_iter().map(|count| count - std::mem::replace(&mut before, count)).collect()
    }

    /// The values at `quantiles`, which ascend from 0 to 1; nothing recorded gives none.
    ///
    /// The values of a bin are taken to lie in it at equal distances, the same as Envoy does.
    pub fn quantiles(&self, quantiles: &[f64]) -> Option<Vec<f64>> {
        let count = self.count();
        let mut bins = self.used();
        let mut bin = bins.next()?;
        let mut below = 0;
        let at = quantiles.iter().map(|quantile| {
            let rank = ((quantile * count as f64).ceil() as u64).clamp(1, count);
            while rank > below + bin.count {
                let Some(next) = bins.next() else { break };
                below += bin.count;
                bin = next;
            }
            bin.lower + bin.width * (rank - below) as f64 / (bin.count + 1) as f64
        });
        Some(at.collect())
    }

    /// The bins that hold something, ascending.
    pub(crate) fn used(&self) -> impl Iterator<Item = Bin> {
        let used = self.bins.iter().enumerate().filter(|(_, count)| **count != 0);
        let scale = if self.is_share { 1e-6 } else { 1.0 };
        used.map(move |(index, count)| Bin::new(index, *count).scaled(scale))
    }

    /// The same, where values were recorded in millionths.
    pub(in crate::stats) fn in_millionths(self) -> Self {
        Self { is_share: true, ..self }
    }

    fn add(&mut self, bins: &Bins) {
        let decades = bins.decades.iter().rposition(|decade| decade.get().is_some()).map_or(0, |last| last + 1);
        self.bins.resize(self.bins.len().max(LINEAR + decades * PER_DECADE), 0);
        let (linear, rest) = self.bins.split_at_mut(LINEAR);
        linear.iter_mut().zip(&bins.linear).for_each(|(sum, bin)| *sum += bin.load(Relaxed));
        for (sums, decade) in rest.chunks_mut(PER_DECADE).zip(bins.decades.iter().map(OnceLock::get)) {
            let Some(decade) = decade else { continue };
            sums.iter_mut().zip(decade.iter()).for_each(|(sum, bin)| *sum += bin.load(Relaxed));
        }
    }
}

// === impl Bin ===

impl Bin {
    fn new(index: usize, count: u64) -> Self {
        let (lower, width) = match index {
            0 => (0.0, 0.0),
            1..10 => (index as f64, 0.1),
            10..LINEAR => (index as f64, 1.0),
            _ => {
                let (decade, offset) = ((index - LINEAR) / PER_DECADE, (index - LINEAR) % PER_DECADE);
                let width = 10_f64.powi(decade as i32 + 1);
                ((offset + 10) as f64 * width, width)
            }
        };
        Self { lower, width, count }
    }

    fn scaled(self, scale: f64) -> Self {
        Self { lower: self.lower * scale, width: self.width * scale, ..self }
    }

    fn middle(self) -> f64 {
        let upper = self.lower + self.width;
        // In this order, for the last digit to be Envoy's.
        if upper == 0.0 { 0.0 } else { self.lower + self.width * (self.lower / (self.lower + upper)) }
    }
}
