//! From the path of a request to the first route that takes it.
//!
//! Every route's path is a key of a trie: prefixes and exact paths as they are, a regular expression under the literal
//! it begins with, or, where many begin alike, under another literal that it must have ([`Screen`]). One pass over the path meets all the keys that could match. Each key holds its routes in order, and
//! the lists met are merged by route number, so that the first route of the configuration that matches is found
//! without looking at those that cannot.
//!
//! A key with many routes that differ by the value of one header keeps them by that value.

mod build;
mod screen;

use std::collections::HashMap;

use nuncio_filter_api::RequestHead;
use smallvec::SmallVec;

use super::trie::{Fold, Trie};
use crate::matcher::Field;

pub(super) use build::PathsBuilder;
use screen::Screen;

/// The path index of one virtual host.
#[derive(Debug, Default)]
pub(super) struct Paths {
    tries: Vec<Keys>,
    /// Regular expressions of which many begin alike.
    screen: Option<Screen>,
    /// Routes that match CONNECT requests, whatever their path.
    connect: Vec<Candidate>,
}

/// The keys that are compared in one way.
#[derive(Debug)]
struct Keys {
    fold: Fold,
    trie: Trie,
    /// The routes of each key.
    lists: Vec<Lists>,
    candidates: Vec<Candidate>,
    by_header: Vec<ByHeader>,
}

/// Where the routes of a key lie.
#[derive(Clone, Copy, Debug)]
struct Lists {
    plain: Span,
    by_header: Span,
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// Routes that need a header to have one value, by that value.
#[derive(Debug)]
struct ByHeader {
    field: Field,
    values: HashMap<Box<[u8]>, Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    route: u32,
    place: Place,
    certain: bool,
}

/// Where in the path the key of a route may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Anywhere,
    /// At the end of the path.
    End,
    /// At the end of the path, or before a slash.
    Segment,
}

/// A list being merged, all of a key that ends at `ends`.
struct Cursor<'a> {
    next: Candidate,
    rest: &'a [Candidate],
    ends: Place,
}

/// Lists merged without allocation: more keys than that, one within the other and each with conditions, are rare.
type Cursors<'a> = SmallVec<[Cursor<'a>; 12]>;

impl Paths {
    /// The lowest route that `path` matches and `accept` takes. `accept` is asked in ascending order, and only about
    /// routes that have conditions beyond their path.
    pub(super) fn find(
        &self,
        path: &[u8],
        head: &RequestHead,
        connect: bool,
        mut accept: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut search = Search { best: u32::MAX, cursors: Cursors::new() };
        if connect {
            search.add(&self.connect, Place::End);
        }
        // A request without path matches connect_matcher alone.
        if !path.is_empty() {
            for keys in &self.tries {
                keys.trie.walk(path, keys.fold, |len, key| {
                    let ends = match path.get(len) {
                        None => Place::End,
                        Some(b'/') => Place::Segment,
                        Some(_) => Place::Anywhere,
                    };
                    keys.add(keys.lists[key as usize], ends, head, &mut search);
                });
            }
            if let Some(screen) = &self.screen {
                screen.walk(path, |list| search.add(list, Place::End));
            }
        }
        search.run(&mut accept)
    }
}

impl Keys {
    fn add<'a>(&'a self, lists: Lists, ends: Place, head: &RequestHead, search: &mut Search<'a>) {
        search.add(lists.plain.of(&self.candidates), ends);
        for by_header in lists.by_header.of(&self.by_header) {
            by_header.field.any_in_request(&head.view(), |value| {
                if let Some(span) = by_header.values.get(value) {
                    search.add(span.of(&self.candidates), ends);
                }
                false
            });
        }
    }
}

impl Span {
    fn of<T>(self, all: &[T]) -> &[T] {
        &all[self.start as usize..self.end as usize]
    }
}

struct Search<'a> {
    /// The lowest route found that needs no asking.
    best: u32,
    /// A heap whose top is the list with the lowest route.
    cursors: Cursors<'a>,
}

impl<'a> Search<'a> {
    fn add(&mut self, list: &'a [Candidate], ends: Place) {
        let Some(cursor) = Cursor::new(list, ends) else { return };
        if cursor.next.route >= self.best {
            return;
        }
        if cursor.next.certain {
            self.best = cursor.next.route;
            return;
        }
        let mut at = self.cursors.len();
        self.cursors.push(cursor);
        while at > 0 && self.route(at) < self.route((at - 1) / 2) {
            self.cursors.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn run(mut self, accept: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        while let Some(cursor) = self.cursors.first_mut() {
            let Candidate { route, certain, .. } = cursor.next;
            if route >= self.best {
                break;
            }
            if certain || accept(route) {
                return Some(route);
            }
            match Cursor::new(cursor.rest, cursor.ends) {
                Some(next) => *cursor = next,
                None => drop(self.cursors.swap_remove(0)),
            }
            self.sink();
        }
        (self.best != u32::MAX).then_some(self.best)
    }

    /// Puts the top of the heap where it belongs.
    fn sink(&mut self) {
        let mut at = 0;
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.cursors.len());
            let Some(least) = children.min_by_key(|child| self.route(*child)) else { return };
            if self.route(at) <= self.route(least) {
                return;
            }
            self.cursors.swap(at, least);
            at = least;
        }
    }

    fn route(&self, at: usize) -> u32 {
        self.cursors[at].next.route
    }
}

impl<'a> Cursor<'a> {
    /// At the first of `list` whose key may end where it does, if there is one.
    fn new(list: &'a [Candidate], ends: Place) -> Option<Self> {
        let fits = |candidate: &Candidate| match candidate.place {
            Place::Anywhere => true,
            Place::End => ends == Place::End,
            Place::Segment => ends != Place::Anywhere,
        };
        let at = list.iter().position(fits)?;
        Some(Self { next: list[at], rest: &list[at + 1..], ends })
    }
}
