use std::cell::OnceCell;

/// Values by place, each made when it is first asked for. A table of 100,000 is made and dropped in no time while few
/// of its values exist: their cells come in blocks.
#[derive(Debug)]
pub(crate) struct Blocks<T> {
    blocks: Box<[OnceCell<Box<[OnceCell<T>]>>]>,
    len: usize,
}

const BLOCK: usize = 256;

impl<T> Blocks<T> {
    pub(crate) fn new(len: usize) -> Self {
        Self { blocks: cells(len.div_ceil(BLOCK)), len }
    }

    /// The value at `at`, which `make` makes if there is none.
    #[inline]
    pub(crate) fn get_or_init(&self, at: usize, make: impl FnOnce() -> T) -> &T {
        let (block, place) = (at / BLOCK, at % BLOCK);
        let cells = self.blocks[block].get_or_init(|| cells(BLOCK.min(self.len - block * BLOCK)));
        cells[place].get_or_init(make)
    }
}

fn cells<T>(count: usize) -> Box<[OnceCell<T>]> {
    (0..count).map(|_| OnceCell::new()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_made_once_and_its_block_with_the_first() {
        let blocks = Blocks::new(300);
        assert_eq!(*blocks.get_or_init(299, || 1), 1);
        assert_eq!(*blocks.get_or_init(299, || 2), 1);
        assert!(blocks.blocks[0].get().is_none());
        assert_eq!(blocks.blocks[1].get().unwrap().len(), 44);
        assert_eq!(*blocks.get_or_init(255, || 3), 3);
        assert_eq!(blocks.blocks[0].get().unwrap().len(), 256);
    }
}
