//! A table that grows without moving: readers and its one growing writer never wait for each other.

use std::sync::OnceLock;

/// Elements in the first bucket; each further bucket is as large as all before it and one first bucket more.
const FIRST: u32 = 512;
/// Low bits of an address: the offset in its bucket.
const OFFSET_BITS: u32 = 27;
/// As many buckets as have offsets of that many bits: room for 268 million elements.
const BUCKETS: usize = 19;

/// Where an element is: its bucket and its offset there, packed.
///
/// An index would have to be split by its highest bit, which is slow on the processors that compilers target by
/// default, and would cost a third of an increment. Consecutive addresses are neighbours within one bucket.
pub(super) type Address = u32;

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
    pub(super) fn existing(&self, address: Address) -> Option<&T> {
        let (bucket, offset) = split(address);
        self.buckets[bucket].get()?.get(offset)
    }

    /// The element, after `fill` has made its bucket from a length where there was none.
    #[inline]
    pub(super) fn element(&self, address: Address, fill: fn(usize) -> Box<[T]>) -> &T {
        let (bucket, offset) = split(address);
        match self.buckets[bucket].get() {
            Some(elements) => &elements[offset],
            None => &self.grow(bucket, fill)[offset],
        }
    }

    /// The elements from this on that are in its bucket, as [`Bucketed::element`].
    #[inline]
    pub(super) fn elements(&self, address: Address, fill: fn(usize) -> Box<[T]>) -> &[T] {
        let (bucket, offset) = split(address);
        match self.buckets[bucket].get() {
            Some(elements) => &elements[offset..],
            None => &self.grow(bucket, fill)[offset..],
        }
    }

    #[cold]
    fn grow(&self, bucket: usize, fill: fn(usize) -> Box<[T]>) -> &[T] {
        self.buckets[bucket].get_or_init(|| fill(size(bucket)))
    }
}

/// The first address at or after `from` with `length` more in its bucket.
pub(super) fn fit(from: Address, length: u32) -> Address {
    let (mut bucket, offset) = split(from);
    if offset + length as usize <= size(bucket) {
        return from;
    }
    bucket += 1;
    while length as usize > size(bucket) {
        bucket += 1;
    }
    assert!(bucket < BUCKETS, "268 million metrics do not fit");
    (bucket as Address) << OFFSET_BITS
}

#[inline]
fn split(address: Address) -> (usize, usize) {
    ((address >> OFFSET_BITS) as usize, (address & ((1 << OFFSET_BITS) - 1)) as usize)
}

const fn size(bucket: usize) -> usize {
    (FIRST as usize) << bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Address = 1 << OFFSET_BITS;

    fn zeros(length: usize) -> Box<[u32]> {
        vec![0; length].into()
    }

    #[test]
    fn a_range_never_crosses_into_another_bucket() {
        assert_eq!(fit(0, 512), 0);
        assert_eq!(fit(500, 12), 500);
        assert_eq!(fit(500, 13), SECOND);
        assert_eq!(fit(512, 1), SECOND);
        assert_eq!(fit(0, 1025), 2 * SECOND);
    }

    #[test]
    fn the_last_bucket_is_as_large_as_its_offsets() {
        assert_eq!(size(BUCKETS - 1), 1 << OFFSET_BITS);
    }

    #[test]
    fn a_bucket_exists_only_after_it_was_asked_for() {
        let table = Bucketed::new();
        assert!(table.existing(SECOND).is_none());
        assert_eq!(*table.element(SECOND, zeros), 0);
        assert!(table.existing(SECOND + 1023).is_some());
        assert!(table.existing(SECOND + 1024).is_none());
        assert!(table.existing(0).is_none());
    }
}
