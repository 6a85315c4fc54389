//! A radix trie over byte strings that finds every key which is a prefix of an input, in one pass over the input.

use std::collections::VecDeque;
use std::ops::Range;

/// Immutable once built; values are numbers that the caller gives meaning to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    /// The children of a node lie side by side, sorted by the first byte of their labels.
    nodes: Vec<Node>,
    /// First byte of each node's label; the root has none and is given 0.
    first: Vec<u8>,
    labels: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Node {
    label: u32,
    label_len: u32,
    child: u32,
    children: u16,
    value: u32,
}

/// Stands for "no value".
const NONE: u32 = u32::MAX;
/// Children above which a binary search beats looking at each.
const FEW: usize = 16;

/// How bytes of the input are compared with those of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    Exact,
    /// ASCII letters of the input are taken as lower case, as the keys must be.
    Lower,
}

impl Trie {
    /// Builds from keys in ascending order, none twice. The value of a key is its place in `keys`.
    pub(crate) fn new<K: AsRef<[u8]>>(keys: &[K]) -> Self {
        let mut trie = Self::default();
        trie.push(&[]);
        // Breadth first, with the work in a queue: the depth of the keys is the depth of no stack.
        let mut work = VecDeque::from([(0usize, 0..keys.len(), 0usize)]);
        while let Some((node, range, depth)) = work.pop_front() {
            trie.fill(node, keys, range, depth, &mut work);
        }
        trie
    }

    /// Gives node `node`, whose keys are `keys[range]` and agree in `depth` bytes, its value and children.
    fn fill<K: AsRef<[u8]>>(
        &mut self,
        node: usize,
        keys: &[K],
        mut range: Range<usize>,
        depth: usize,
        work: &mut VecDeque<(usize, Range<usize>, usize)>,
    ) {
        let key = |i: usize| keys[i].as_ref();
        if !range.is_empty() && key(range.start).len() == depth {
            self.nodes[node].value = number(range.start);
            range.start += 1;
        }
        self.nodes[node].child = number(self.nodes.len());
        let mut start = range.start;
        while start < range.end {
            let byte = key(start)[depth];
            let end = start + keys[start..range.end].partition_point(|k| k.as_ref()[depth] == byte);
            let common = common_len(&key(start)[depth..], &key(end - 1)[depth..]);
            let child = self.push(&key(start)[depth..depth + common]);
            work.push_back((child, start..end, depth + common));
            self.nodes[node].children += 1;
            start = end;
        }
    }

    fn push(&mut self, label: &[u8]) -> usize {
        let node = Node {
            label: number(self.labels.len()),
            label_len: number(label.len()),
            child: 0,
            children: 0,
            value: NONE,
        };
        self.labels.extend_from_slice(label);
        self.first.push(label.first().copied().unwrap_or(0));
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Calls `each` with every key that begins `input`, shortest first: its length and its value.
    #[inline]
    pub(crate) fn walk(&self, input: &[u8], fold: Fold, mut each: impl FnMut(usize, u32)) {
        let Some(mut node) = self.nodes.first() else { return };
        let mut at = 0;
        loop {
            if node.value != NONE {
                each(at, node.value);
            }
            let Some(child) = input.get(at).and_then(|byte| self.child(node, *byte, fold)) else { return };
            let label = &self.labels[child.label as usize..][..child.label_len as usize];
            let Some(part) = input.get(at..at + label.len()) else { return };
            let same = match fold {
                Fold::Exact => part == label,
                Fold::Lower => part.eq_ignore_ascii_case(label),
            };
            if !same {
                return;
            }
            at += label.len();
            node = child;
        }
    }

    fn child(&self, node: &Node, byte: u8, fold: Fold) -> Option<&Node> {
        let byte = if fold == Fold::Lower { byte.to_ascii_lowercase() } else { byte };
        let start = node.child as usize;
        let first = &self.first[start..start + usize::from(node.children)];
        let found = match first.len() {
            0..=FEW => first.iter().position(|b| *b == byte),
            _ => first.binary_search(&byte).ok(),
        };
        found.map(|i| &self.nodes[start + i])
    }
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Places in the trie are 32 bits wide; a configuration of 4 GB is refused long before it comes here.
fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a route configuration is smaller than 4 GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(keys: &[&str], input: &str, fold: Fold) -> Vec<String> {
        let mut keys: Vec<_> = keys.to_vec();
        keys.sort_unstable();
        let trie = Trie::new(&keys);
        let mut found = Vec::new();
        trie.walk(input.as_bytes(), fold, |len, value| {
            assert_eq!(keys[value as usize].len(), len);
            found.push(keys[value as usize].to_owned());
        });
        found
    }

    #[test]
    fn every_key_that_begins_the_input_is_found_shortest_first() {
        let keys = ["", "/", "/a", "/ab", "/abc/d", "/b", "x"];
        assert_eq!(walk(&keys, "/abc/d/e", Fold::Exact), ["", "/", "/a", "/ab", "/abc/d"]);
        assert_eq!(walk(&keys, "/abc/", Fold::Exact), ["", "/", "/a", "/ab"]);
        assert_eq!(walk(&keys, "", Fold::Exact), [""]);
        assert_eq!(walk(&[], "/", Fold::Exact), [""; 0]);
        assert_eq!(walk(&["/abc", "/"], "/aBcD", Fold::Lower), ["/", "/abc"]);
    }

    #[test]
    fn it_finds_what_a_linear_search_finds() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            let mut word = |max| (0..rng.usize(0..max)).map(|_| rng.choice(b"ab/\xff\x00").unwrap()).copied().collect();
            let mut keys: Vec<Vec<u8>> = (0..60).map(|_| word(6)).collect();
            keys.sort_unstable();
            keys.dedup();
            let trie = Trie::new(&keys);
            for _ in 0..50 {
                let input: Vec<u8> = word(9);
                let mut found = Vec::new();
                trie.walk(&input, Fold::Exact, |_, value| found.push(value as usize));
                let expected: Vec<_> = (0..keys.len()).filter(|i| input.starts_with(&keys[*i])).collect();
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_node_may_have_256_children_and_a_key_may_be_deep() {
        let keys: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b, b]).collect();
        let trie = Trie::new(&keys);
        for b in 0..=255u8 {
            let mut found = None;
            trie.walk(&[b, b, 0], Fold::Exact, |_, value| found = Some(value));
            assert_eq!(found, Some(u32::from(b)));
        }
        let nested: Vec<String> = (0..5000).map(|n| "a".repeat(n)).collect();
        let mut count = 0;
        Trie::new(&nested).walk(&[b'a'; 6000], Fold::Exact, |_, _| count += 1);
        assert_eq!(count, 5000);
    }
}
