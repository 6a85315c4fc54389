use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What a host reported of its load since it was last asked for.
///
/// The lock is taken for a response that brings a report, where the cluster passes on what reports say; workers meet at
/// it only over the same host.
#[derive(Debug, Default)]
pub struct HostMetrics(OnceLock<Box<Mutex<BTreeMap<String, MetricSum>>>>);

/// Of one metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricSum {
    /// Responses that had it.
    pub count: u64,
    /// Sum of its values.
    pub total: f64,
}

impl HostMetrics {
    /// Adds what `each` tells: names and values.
    pub(crate) fn add(&self, each: impl FnOnce(&mut dyn FnMut(&str, f64))) {
        // A poisoned lock means that a name could not be allocated: the sums are whole.
        let mut sums = self.0.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner);
        each(&mut |name, value| {
            let sum = match sums.get_mut(name) {
                Some(sum) => sum,
                None => sums.entry(name.to_owned()).or_default(),
            };
            sum.count += 1;
            sum.total += value;
        });
    }

    /// What came since the last call, by name.
    pub fn take(&self) -> BTreeMap<String, MetricSum> {
        let Some(sums) = self.0.get() else { return BTreeMap::new() };
        std::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MetricSum {
    /// Adds another one to it.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.total += other.total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_begins_anew() {
        let metrics = HostMetrics::default();
        assert!(metrics.take().is_empty());
        metrics.add(|add| {
            add("a", 1.5);
            add("b", 1.0);
        });
        metrics.add(|add| add("a", 2.0));
        let sum = |count, total| MetricSum { count, total };
        assert_eq!(metrics.take(), [("a".to_owned(), sum(2, 3.5)), ("b".to_owned(), sum(1, 1.0))].into());
        assert!(metrics.take().is_empty());
    }
}
