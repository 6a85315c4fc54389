//! Regular expressions that begin alike, by a literal that each must have somewhere.

use std::collections::{BTreeMap, HashMap};

use aho_corasick::AhoCorasick;
use smallvec::SmallVec;

use super::build::{Unready, number};
use super::{Candidate, Span};
use crate::matcher::Regex;

/// One pass over a path finds the routes whose literal is in it; only their expressions are run.
#[derive(Debug)]
pub(super) struct Screen {
    literals: AhoCorasick,
    /// The routes of each literal.
    lists: Vec<Span>,
    candidates: Vec<Candidate>,
}

/// Literals met on one path, each to be reported once: more are rare.
type Met = SmallVec<[u32; 16]>;

impl Screen {
    /// A screen for these routes in their order, and those that have no literal; `None` if none has.
    pub(super) fn new<'a>(
        routes: Vec<(Candidate, &'a Regex)>,
        unready: &Unready<'_>,
    ) -> (Option<Self>, Vec<Candidate>) {
        let mut counts: HashMap<&[u8], usize> = HashMap::new();
        for literal in routes.iter().flat_map(|(_, regex)| regex.literals()) {
            *counts.entry(literal).or_default() += 1;
        }
        let mut lists: BTreeMap<&'a [u8], Vec<Candidate>> = BTreeMap::new();
        let mut others = Vec::new();
        for (candidate, regex) in routes {
            // The literal that the fewest routes have tells most, and of these the longest.
            match regex.literals().min_by_key(|literal| (counts[literal], usize::MAX - literal.len())) {
                Some(literal) => lists.entry(literal).or_default().push(candidate),
                None => others.push(candidate),
            }
        }
        // An automaton of nothing takes longer to make than a virtual host of one route.
        if lists.is_empty() {
            return (None, others);
        }
        // It fails only for more literals than memory holds.
        let Ok(literals) = AhoCorasick::new(lists.keys()) else {
            others.extend(lists.into_values().flatten());
            others.sort();
            return (None, others);
        };
        let mut screen = Self { literals, lists: Vec::new(), candidates: Vec::new() };
        for list in lists.into_values() {
            unready.prepare(&list);
            let start = number(screen.candidates.len());
            screen.candidates.extend(list);
            screen.lists.push(Span { start, end: number(screen.candidates.len()) });
        }
        (Some(screen), others)
    }

    /// The lists of routes whose literals `path` has.
    pub(super) fn walk<'a>(&'a self, path: &[u8], mut met: impl FnMut(&'a [Candidate])) {
        let mut seen = Met::new();
        for found in self.literals.find_overlapping_iter(path) {
            let literal = found.pattern().as_u32();
            if !seen.contains(&literal) {
                seen.push(literal);
                met(self.lists[literal as usize].of(&self.candidates));
            }
        }
    }
}
