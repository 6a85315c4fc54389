//! A table that grows without moving: readers and its one growing writer never wait for each other.

use std::sync::OnceLock;

/// Elements in the first bucket; each further bucket doubles the table.
const FIRST: usize = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 9;
/// Enough buckets for every u32 index.
const BUCKETS: usize = 24;

/// A table of `T` in buckets of doubling size, each allocated when an element of it is first asked for.
pub(super) struct Bucketed<T> {
    buckets: [OnceLock<Box<[T]>>; BUCKETS],
}

impl<T> Bucketed<T> {
    pub(super) fn new() -> Self {
        Self { buckets: [const { OnceLock::new() }; BUCKETS] }
    }

    /// The element, if its bucket exists.
    #[inline]
    pub(super) fn existing(&self, index: u32) -> Option<&T> {
        let (bucket, offset) = locate(index);
        Some(&self.buckets[bucket].get()?[offset])
    }

    /// The element, after `fill` has made its bucket from a length where there was none.
    #[inline]
    pub(super) fn element(&self, index: u32, fill: fn(usize) -> Box<[T]>) -> &T {
        let (bucket, offset) = locate(index);
        match self.buckets[bucket].get() {
            Some(elements) => &elements[offset],
            None => &self.grow(bucket, fill)[offset],
        }
    }

    #[cold]
    fn grow(&self, bucket: usize, fill: fn(usize) -> Box<[T]>) -> &[T] {
        self.buckets[bucket].get_or_init(|| fill(FIRST << bucket))
    }
}

#[inline]
fn locate(index: u32) -> (usize, usize) {
    let shifted = index as usize + FIRST;
    let bucket = (shifted.ilog2() - FIRST_BITS) as usize;
    (bucket, shifted - (FIRST << bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(length: usize) -> Box<[u32]> {
        vec![0; length].into()
    }

    #[test]
    fn neighbours_across_a_bucket_border_are_distinct() {
        assert_eq!(locate(0), (0, 0));
        assert_eq!(locate(511), (0, 511));
        assert_eq!(locate(512), (1, 0));
        assert_eq!(locate(1535), (1, 1023));
        assert_eq!(locate(1536), (2, 0));
    }

    #[test]
    fn the_last_index_has_a_bucket() {
        let (bucket, offset) = locate(u32::MAX);
        assert!(bucket < BUCKETS && offset < FIRST << bucket);
    }

    #[test]
    fn a_bucket_exists_only_after_it_was_asked_for() {
        let table = Bucketed::new();
        assert!(table.existing(600).is_none());
        assert_eq!(*table.element(600, zeros), 0);
        assert!(table.existing(601).is_some());
        assert!(table.existing(0).is_none());
    }
}
