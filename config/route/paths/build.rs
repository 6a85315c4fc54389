//! How the path index is made.

use std::collections::{BTreeMap, HashMap};

use super::{ByHeader, Candidate, Keys, Lists, Paths, Place, Screen, Span};
use crate::matcher::{Field, Regex};
use crate::route::trie::{Fold, Trie};

/// Collects the routes of a virtual host in their order.
#[derive(Default)]
pub(in crate::route) struct PathsBuilder<'a> {
    exact: BTreeMap<Vec<u8>, KeyRoutes<'a>>,
    lower: BTreeMap<Vec<u8>, KeyRoutes<'a>>,
    regexes: BTreeMap<&'a [u8], Vec<RegexRoute<'a>>>,
    connect: Vec<Candidate>,
    unready: Unready<'a>,
}

/// The routes of one key, and of them those that take every request of the key.
#[derive(Default)]
struct KeyRoutes<'a> {
    routes: Vec<Route<'a>>,
    /// No more than one for each [`Place`].
    certain: Vec<Candidate>,
}

struct Route<'a> {
    candidate: Candidate,
    /// Headers that must have one value for the route to match.
    headers: Vec<(&'a Field, &'a [u8])>,
}

/// A route whose path is a regular expression, and the values that its headers must have.
struct RegexRoute<'a> {
    route: u32,
    regex: Option<&'a Regex>,
    headers: Vec<(&'a Field, &'a [u8])>,
}

/// Routes of one key from which on it pays to keep them by a header's value, or by another literal.
const MANY: usize = 8;

impl<'a> PathsBuilder<'a> {
    /// Adds a route whose key is `key`. A `certain` one matches whenever its key does; `headers` are those of its
    /// conditions that leave but one value.
    pub(in crate::route) fn add(
        &mut self,
        route: u32,
        key: &[u8],
        (place, fold): (Place, Fold),
        certain: bool,
        headers: Vec<(&'a Field, &'a [u8])>,
    ) {
        let route = Route { candidate: Candidate { route, place, certain }, headers };
        let (keys, key) = match fold {
            Fold::Exact => (&mut self.exact, key.to_vec()),
            Fold::Lower => (&mut self.lower, key.to_ascii_lowercase()),
        };
        let list = keys.entry(key).or_default();
        // What comes after a route that takes every request of the key is never reached.
        if !list.certain.iter().any(|earlier| earlier.covers(place)) {
            list.certain.extend(certain.then_some(route.candidate));
            list.routes.push(route);
        }
    }

    /// Adds a route whose path is a regular expression; without one every path is tried.
    pub(in crate::route) fn add_regex(
        &mut self,
        route: u32,
        regex: Option<&'a Regex>,
        headers: Vec<(&'a Field, &'a [u8])>,
    ) {
        let prefix = regex.map_or(&[][..], Regex::prefix);
        self.unready.0.extend(regex.map(|regex| (route, regex)));
        self.regexes.entry(prefix).or_default().push(RegexRoute { route, regex, headers });
    }

    /// Adds a route with `connect_matcher`.
    pub(in crate::route) fn add_connect(&mut self, route: u32, certain: bool) {
        self.connect.push(Candidate { route, place: Place::Anywhere, certain });
    }

    pub(in crate::route) fn build(mut self) -> Paths {
        let screen = self.screen();
        let tries = [(Fold::Exact, self.exact), (Fold::Lower, self.lower)];
        let tries = tries.into_iter().filter(|(_, keys)| !keys.is_empty());
        let tries = tries.map(|(fold, keys)| Keys::new(fold, keys, &self.unready)).collect();
        Paths { tries, screen, connect: self.connect }
    }

    /// Puts the regular expressions under what they begin with, and of those of which many begin alike, and that no
    /// header tells apart, makes a screen.
    fn screen(&mut self) -> Option<Screen> {
        let mut screened = Vec::new();
        for (prefix, routes) in std::mem::take(&mut self.regexes) {
            let many = routes.iter().filter(|r| r.headers.is_empty()).count() >= MANY;
            for RegexRoute { route, regex, headers } in routes {
                let candidate = Candidate { route, place: Place::Anywhere, certain: false };
                match regex.filter(|_| many && headers.is_empty()) {
                    Some(regex) => screened.push((candidate, regex)),
                    None => self.insert(prefix, Route { candidate, headers }),
                }
            }
        }
        screened.sort_by_key(|(candidate, _)| *candidate);
        let (screen, others) = Screen::new(screened, &self.unready);
        for candidate in others {
            self.insert(&[], Route { candidate, headers: Vec::new() });
        }
        screen
    }

    /// Adds a route to a key that has later ones already.
    fn insert(&mut self, key: &[u8], route: Route<'a>) {
        let list = &mut self.exact.entry(key.to_vec()).or_default().routes;
        let at = list.partition_point(|other| other.candidate.route < route.candidate.route);
        list.insert(at, route);
    }
}

/// Regular expressions that are compiled when first needed, by their routes.
#[derive(Default)]
pub(super) struct Unready<'a>(Vec<(u32, &'a Regex)>);

impl Unready<'_> {
    /// Compiles those of a list that one request may need all at once, and would wait for.
    pub(super) fn prepare(&self, list: &[Candidate]) {
        if list.len() < MANY || self.0.is_empty() {
            return;
        }
        for candidate in list {
            if let Ok(at) = self.0.binary_search_by_key(&candidate.route, |(route, _)| *route) {
                self.0[at].1.make_ready();
            }
        }
    }
}

impl Candidate {
    /// Whether no later route of the same key that ends at `place` can be the first to match.
    fn covers(self, place: Place) -> bool {
        self.certain
            && match self.place {
                Place::Anywhere => true,
                Place::Segment => place != Place::Anywhere,
                Place::End => place == Place::End,
            }
    }
}

impl Keys {
    fn new(fold: Fold, routes: BTreeMap<Vec<u8>, KeyRoutes<'_>>, unready: &Unready<'_>) -> Self {
        let (keys, routes): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
        let trie = Trie::new(&keys);
        let mut new = Self { fold, trie, lists: Vec::new(), candidates: Vec::new(), by_header: Vec::new() };
        for list in routes {
            let lists = new.lists_of(list.routes, unready);
            new.lists.push(lists);
        }
        new
    }

    /// Stores the routes of one key.
    fn lists_of(&mut self, routes: Vec<Route<'_>>, unready: &Unready<'_>) -> Lists {
        let (plain, headers) = by_header(routes);
        let plain = self.store(plain, unready);
        let start = number(self.by_header.len());
        for (field, values) in headers {
            let values = values.into_iter().map(|(value, list)| (value.into(), self.store(list, unready))).collect();
            self.by_header.push(ByHeader { field: field.clone(), values });
        }
        Lists { plain, by_header: Span { start, end: number(self.by_header.len()) } }
    }

    fn store(&mut self, list: Vec<Candidate>, unready: &Unready<'_>) -> Span {
        unready.prepare(&list);
        let start = number(self.candidates.len());
        self.candidates.extend(list);
        Span { start, end: number(self.candidates.len()) }
    }
}

type ByValue<'a> = HashMap<&'a [u8], Vec<Candidate>>;

/// Takes apart the routes that are kept by a header's value and the others. A route goes to that of its headers that
/// has the most values among the routes, as this tells them apart best.
fn by_header(routes: Vec<Route<'_>>) -> (Vec<Candidate>, Vec<(&Field, ByValue<'_>)>) {
    let mut values: HashMap<&Field, HashMap<&[u8], usize>> = HashMap::new();
    if routes.len() >= MANY {
        for (field, value) in routes.iter().flat_map(|r| &r.headers) {
            *values.entry(field).or_default().entry(value).or_default() += 1;
        }
    }
    let weight = |field: &Field| values.get(field).map_or(0, HashMap::len);
    let mut plain = Vec::new();
    let mut kept: Vec<(&Field, ByValue<'_>)> = Vec::new();
    for route in routes {
        let best = route.headers.iter().max_by_key(|(field, _)| weight(field));
        match best.filter(|(field, _)| weight(field) >= MANY) {
            None => plain.push(route.candidate),
            Some((field, value)) => {
                let at = kept.iter().position(|(f, _)| f == field).unwrap_or_else(|| {
                    kept.push((field, HashMap::new()));
                    kept.len() - 1
                });
                kept[at].1.entry(value).or_default().push(route.candidate);
            }
        }
    }
    (plain, kept)
}

pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a route configuration is smaller than 4 GB")
}
