//! The table against a naive matcher that looks at every route in turn.

use super::*;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;
use nuncio_proto::google::protobuf::BoolValue;
use proto::header_matcher::HeaderMatchSpecifier;
use proto::route_match::PathSpecifier;

/// How many tables, unless `NUNCIO_ROUTE_TABLES` says otherwise.
const TABLES: u64 = 1000;
const REQUESTS: usize = 100;

fn tables() -> u64 {
    std::env::var("NUNCIO_ROUTE_TABLES").map_or(TABLES, |tables| tables.parse().expect("a number of tables"))
}

struct Random(fastrand::Rng);

impl Random {
    /// Short paths over few letters, so that they collide.
    fn path(&mut self) -> String {
        let length = self.0.usize(0..7);
        std::iter::once('/').chain((0..length).map(|_| *self.0.choice(&['a', 'b', 'A', '/']).unwrap())).collect()
    }

    fn word(&mut self) -> &'static str {
        self.0.choice(["1", "2", "3", "4", "5", "6", "7", "8", "9"]).unwrap()
    }

    /// A route; in a table of regular expressions mostly one of these, many of which begin alike.
    fn route(&mut self, number: usize, regexes: bool) -> proto::Route {
        let kind = if regexes && self.0.u8(0..4) > 0 { 7 } else { self.0.u8(0..8) };
        let path = match kind {
            0..3 => PathSpecifier::Prefix(self.path()),
            3 => PathSpecifier::Path(self.path()),
            4 => PathSpecifier::PathSeparatedPrefix(self.path()),
            5 => PathSpecifier::Prefix("/".into()),
            6 => PathSpecifier::ConnectMatcher(Default::default()),
            _ => {
                let begin = ["", "", "/?", "[a/]*", "(/A)+"][self.0.usize(0..5)].to_owned();
                let regex = begin + &self.path() + ["", ".*", "[ab]?", "(/|$)"][self.0.usize(0..4)];
                PathSpecifier::SafeRegex(matcher::RegexMatcher { regex, engine_type: None })
            }
        };
        let headers = (0..[0, 0, 1, 1, 2][self.0.usize(0..5)]).map(|_| self.header()).collect();
        let matched = proto::RouteMatch {
            path_specifier: Some(path),
            case_sensitive: self.0.bool().then(|| BoolValue { value: self.0.bool() }),
            headers,
            ..Default::default()
        };
        let direct = proto::DirectResponseAction { status: 200, ..Default::default() };
        proto::Route {
            name: number.to_string(),
            r#match: Some(matched),
            action: Some(proto::route::Action::DirectResponse(direct)),
            ..Default::default()
        }
    }

    fn header(&mut self) -> proto::HeaderMatcher {
        let exact = matcher::string_matcher::MatchPattern::Exact(self.word().into());
        let specifier = match self.0.u8(0..6) {
            0 => HeaderMatchSpecifier::PresentMatch(self.0.bool()),
            _ => HeaderMatchSpecifier::StringMatch(matcher::StringMatcher {
                match_pattern: Some(exact),
                ignore_case: false,
            }),
        };
        proto::HeaderMatcher {
            name: self.0.choice(["x-a", "x-b"]).unwrap().to_string(),
            invert_match: self.0.u8(0..8) == 0,
            header_match_specifier: Some(specifier),
            ..Default::default()
        }
    }

    fn request(&mut self) -> RequestHead {
        let mut head = get(&format!("h{}{}", self.path(), ["", "?q", "?/a"][self.0.usize(0..3)]));
        if self.0.u8(0..10) == 0 {
            head.method = Method::CONNECT;
        }
        for name in ["x-a", "x-b"] {
            for _ in 0..[0, 1, 1, 1, 2][self.0.usize(0..5)] {
                head = with(head, name, self.word());
            }
        }
        head
    }
}

/// The route that an explanation ends with.
fn winner(explained: &Explanation) -> String {
    let last = explained.routes.last().filter(|route| route.reasons.is_empty());
    last.map_or("-".to_owned(), |route| route.name.clone())
}

/// The first route that matches, found in the most obvious way.
fn linear(routes: &[proto::Route], regexes: &Regexes, head: &RequestHead) -> Option<String> {
    let path = head.path.split('?').next().unwrap();
    let found = routes.iter().find(|route| {
        let matched = route.r#match.as_ref().unwrap();
        path_matches(matched, regexes, path, head) && matched.headers.iter().all(|h| header_matches(h, head))
    });
    found.map(|route| route.name.clone())
}

/// Compiled, by their text.
type Regexes = std::collections::HashMap<String, ::regex::Regex>;

fn compile(routes: &[proto::Route]) -> Regexes {
    let patterns = routes.iter().filter_map(|r| match &r.r#match.as_ref()?.path_specifier {
        Some(PathSpecifier::SafeRegex(r)) => Some(r.regex.clone()),
        _ => None,
    });
    patterns.map(|p| (p.clone(), ::regex::Regex::new(&format!("^(?:{p})$")).unwrap())).collect()
}

fn path_matches(matched: &proto::RouteMatch, regexes: &Regexes, path: &str, head: &RequestHead) -> bool {
    let fold = |s: &str| match &matched.case_sensitive {
        Some(BoolValue { value: false }) => s.to_lowercase(),
        _ => s.to_owned(),
    };
    match matched.path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(p) => fold(path).starts_with(&fold(p)),
        PathSpecifier::Path(p) => fold(path) == fold(p),
        PathSpecifier::PathSeparatedPrefix(p) => {
            fold(path) == fold(p) || fold(path).starts_with(&format!("{}/", fold(p)))
        }
        PathSpecifier::SafeRegex(r) => regexes[&r.regex].is_match(path),
        _ => head.method == Method::CONNECT,
    }
}

fn header_matches(matcher: &proto::HeaderMatcher, head: &RequestHead) -> bool {
    let values: Vec<_> = head.headers.get_all(&matcher.name).iter().map(|v| v.to_str().unwrap()).collect();
    let matches = match matcher.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::PresentMatch(present) => values.is_empty() != *present,
        HeaderMatchSpecifier::StringMatch(m) => {
            if values.is_empty() {
                return false;
            }
            let expected = |value: &&str| matcher::string_matcher::MatchPattern::Exact(value.to_string());
            values.iter().any(|value| m.match_pattern == Some(expected(value)))
        }
        _ => unreachable!(),
    };
    matches != matcher.invert_match
}

#[test]
fn the_table_and_its_explanation_find_what_a_linear_search_finds() {
    let env = env();
    for seed in 0..tables() {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let count = random.0.usize(1..80);
        let many_regexes = random.0.bool();
        let routes: Vec<_> = (0..count).map(|i| random.route(i, many_regexes)).collect();
        let host = proto::VirtualHost {
            name: "h".into(),
            domains: vec!["*".into()],
            routes: routes.clone(),
            ..Default::default()
        };
        let message = proto::RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
        let table = lower_in(message.clone(), &env).unwrap();
        let regexes = compile(&routes);
        for request in 0..REQUESTS {
            let head = random.request();
            let expected = linear(&routes, &regexes, &head).unwrap_or("-".into());
            assert_eq!(name(&table, &head), expected, "seed {seed}: {head:?}\n{routes:#?}");
            // It lowers each route anew, which takes a while.
            if request == 0 && seed % 3 == 0 {
                let explained = table.explain(&message, &head, &info(), 0, &env);
                assert_eq!(winner(&explained), expected, "seed {seed}: {head:?}\n{explained:#?}");
            }
        }
    }
}
