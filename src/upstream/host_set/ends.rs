//! How far two lists of hosts are the same.

use std::sync::Arc;

use crate::host::Host;

/// Two lists are the same up to `start`, and from `old_end` of the first and `new_end` of the second on. Mostly few hosts
/// are others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) start: usize,
    pub(crate) old_end: usize,
    pub(crate) new_end: usize,
}

/// So many are compared before it is looked at whether one differs: the processor takes several at once.
const CHUNK: usize = 64;

// === impl Ends ===

impl Ends {
    pub(crate) fn between(old: &[Arc<Host>], new: &[Arc<Host>]) -> Self {
        let start = same_from_start(old, new);
        let end = same_from_end(&old[start..], &new[start..]);
        Self { start, old_end: old.len() - end, new_end: new.len() - end }
    }
}

/// Whether both are the same.
pub(crate) fn are_same(these: &[Arc<Host>], others: &[Arc<Host>]) -> bool {
    these.len() == others.len() && same_from_start(these, others) == these.len()
}

fn same_from_start(these: &[Arc<Host>], others: &[Arc<Host>]) -> usize {
    let chunks = these.chunks_exact(CHUNK).zip(others.chunks_exact(CHUNK));
    let start = chunks.take_while(|(a, b)| is_same_chunk(a, b)).count() * CHUNK;
    let rest = these[start..].iter().zip(&others[start..]);
    start + rest.take_while(|(a, b)| Arc::ptr_eq(a, b)).count()
}

fn same_from_end(these: &[Arc<Host>], others: &[Arc<Host>]) -> usize {
    let chunks = these.rchunks_exact(CHUNK).zip(others.rchunks_exact(CHUNK));
    let end = chunks.take_while(|(a, b)| is_same_chunk(a, b)).count() * CHUNK;
    let (these, others) = (&these[..these.len() - end], &others[..others.len() - end]);
    end + these.iter().rev().zip(others.iter().rev()).take_while(|(a, b)| Arc::ptr_eq(a, b)).count()
}

fn is_same_chunk(these: &[Arc<Host>], others: &[Arc<Host>]) -> bool {
    these.iter().zip(others).fold(true, |same, (a, b)| same & Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixed;

    #[test]
    fn lists_are_the_same_up_to_what_differs_and_after_it() {
        let host = |port: u16| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            Arc::new(Host::new(&fixed(address), address.into()))
        };
        let all: Vec<_> = (1..=300).map(host).collect();
        let check = |old: &[Arc<Host>], new: &[Arc<Host>], expected: [usize; 3]| {
            let Ends { start, old_end, new_end } = Ends::between(old, new);
            assert_eq!([start, old_end, new_end], expected);
            assert_eq!(are_same(old, new), start == old.len() && old.len() == new.len());
        };
        check(&all, &all, [300, 300, 300]);
        check(&all, &all[..200], [200, 300, 200]);
        check(&all[..0], &all, [0, 0, 300]);
        for at in [0, 1, 63, 64, 65, 150, 299] {
            let without = [&all[..at], &all[at + 1..]].concat();
            check(&all, &without, [at, at + 1, at]);
            check(&without, &all, [at, at, at + 1]);
            let mut with_another = all.clone();
            with_another[at] = host(1000);
            check(&all, &with_another, [at, at + 1, at + 1]);
        }
    }
}
