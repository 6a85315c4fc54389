//! The table against a naive matcher that looks at every route in turn.

use super::*;
use matcher::string_matcher::MatchPattern;
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;
use nuncio_proto::google::protobuf::BoolValue;
use prost::{Message, Name};
use proto::header_matcher::HeaderMatchSpecifier;
use proto::query_parameter_matcher::QueryParameterMatchSpecifier;
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
        self.0.choice(["1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "A"]).unwrap()
    }

    /// Virtual hosts with few domains of few letters, none of them twice, and these routes dealt out among them.
    fn hosts(&mut self, routes: Vec<proto::Route>) -> Vec<proto::VirtualHost> {
        let count = *self.0.choice(&[1, 1, 2, 4]).unwrap();
        let mut hosts: Vec<_> = (0..count)
            .map(|i| proto::VirtualHost {
                name: i.to_string(),
                domains: vec![format!("own-{i}")],
                ..Default::default()
            })
            .collect();
        let mut domains = vec!["*".to_owned()];
        for _ in 1..count * 2 {
            let name: String = (0..self.0.usize(1..4)).map(|_| *self.0.choice(&['h', 'i', '.']).unwrap()).collect();
            domains.push(match self.0.u8(0..3) {
                0 => name,
                1 => format!("*{name}"),
                _ => format!("{name}*"),
            });
        }
        domains.sort();
        domains.dedup();
        for domain in domains.into_iter().skip(self.0.usize(0..8) / 7) {
            hosts[self.0.usize(0..count)].domains.push(domain);
        }
        for route in routes {
            hosts[self.0.usize(0..count)].routes.push(route);
        }
        hosts
    }

    fn template(&mut self) -> PathSpecifier {
        let segment = |r: &mut Self| *r.0.choice(&["a", "b", "A", "*", "{x}", "{x=*}", "a{x}b", "ab"]).unwrap();
        let mut path_template: String = (0..self.0.usize(0..3)).map(|_| format!("/{}", segment(self))).collect();
        // A name may be given to one variable only.
        if let Some((first, rest)) = path_template.split_once('}') {
            path_template = format!("{first}}}{}", rest.replace("{x", "{y"));
        }
        path_template += self.0.choice(&["/a", "/**", "/*", "/*b"]).unwrap();
        let message = UriTemplateMatchConfig { path_template };
        let any = nuncio_proto::google::protobuf::Any {
            type_url: UriTemplateMatchConfig::type_url(),
            value: message.encode_to_vec(),
        };
        PathSpecifier::PathMatchPolicy(TypedExtensionConfig { name: "t".into(), typed_config: Some(any) })
    }

    fn query(&mut self) -> proto::QueryParameterMatcher {
        let specifier = match self.0.u8(0..3) {
            0 => QueryParameterMatchSpecifier::PresentMatch(self.0.bool()),
            _ => QueryParameterMatchSpecifier::StringMatch(self.exact()),
        };
        let name = self.0.choice(["q", "r"]).unwrap().to_owned();
        proto::QueryParameterMatcher { name, query_parameter_match_specifier: Some(specifier) }
    }

    fn exact(&mut self) -> matcher::StringMatcher {
        let match_pattern = Some(MatchPattern::Exact(self.word().into()));
        matcher::StringMatcher { match_pattern, ignore_case: self.0.u8(0..6) == 0 }
    }

    /// A route; in a table of regular expressions mostly one of these, many of which begin alike.
    fn route(&mut self, number: usize, regexes: bool) -> proto::Route {
        let kind = if regexes && self.0.u8(0..4) > 0 { 8 } else { self.0.u8(0..9) };
        let path = match kind {
            0..3 => PathSpecifier::Prefix(self.path()),
            3 => PathSpecifier::Path(self.path()),
            4 => PathSpecifier::PathSeparatedPrefix(self.path()),
            5 => PathSpecifier::Prefix("/".into()),
            6 => PathSpecifier::ConnectMatcher(Default::default()),
            7 => self.template(),
            _ => {
                let begin = ["", "", "/?", "[a/]*", "(/A)+"][self.0.usize(0..5)].to_owned();
                let regex = begin + &self.path() + ["", ".*", "[ab]?", "(/|$)"][self.0.usize(0..4)];
                PathSpecifier::SafeRegex(matcher::RegexMatcher { regex, engine_type: None })
            }
        };
        let headers = (0..[0, 0, 1, 1, 2][self.0.usize(0..5)]).map(|_| self.header()).collect();
        let query_parameters = (0..[0, 0, 0, 0, 1][self.0.usize(0..5)]).map(|_| self.query()).collect();
        let matched = proto::RouteMatch {
            path_specifier: Some(path),
            query_parameters,
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
        let specifier = match self.0.u8(0..6) {
            0 => HeaderMatchSpecifier::PresentMatch(self.0.bool()),
            _ => HeaderMatchSpecifier::StringMatch(self.exact()),
        };
        proto::HeaderMatcher {
            name: self.0.choice(["x-a", "x-b"]).unwrap().to_string(),
            invert_match: self.0.u8(0..8) == 0,
            header_match_specifier: Some(specifier),
            ..Default::default()
        }
    }

    fn request(&mut self) -> RequestHead {
        let host = self.0.choice(["h", "H", "hi", "ih", "h.i", "i.h", ".h", "hii", "own-1", "x"]).unwrap();
        let query = self.0.choice(["", "?q", "?/a", "?q=1&r=a", "?r=A&q=2", "?q=3&q=1&r", "?q=&r=1"]).unwrap();
        let mut head = get(&format!("{host}{}{query}", self.path()));
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
fn linear(hosts: &[proto::VirtualHost], regexes: &Regexes, head: &RequestHead) -> Option<String> {
    let (path, query) = head.path.split_once('?').unwrap_or((&head.path, ""));
    let authority = head.authority.to_lowercase();
    let host = hosts.iter().max_by_key(|host| host.domains.iter().map(|domain| rank(domain, &authority)).max())?;
    host.domains.iter().find(|domain| rank(domain, &authority) > (0, 0))?;
    let found = host.routes.iter().find(|route| {
        let matched = route.r#match.as_ref().unwrap();
        path_matches(matched, regexes, path, head)
            && matched.headers.iter().all(|h| header_matches(h, head))
            && matched.query_parameters.iter().all(|q| query_matches(q, query))
    });
    found.map(|route| route.name.clone())
}

/// How well a domain fits: exact ones, suffixes, prefixes, `*`; the longer the better. Zero: it does not.
fn rank(domain: &str, authority: &str) -> (u8, usize) {
    let kind = match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        (Some(""), _) => 1,
        (Some(suffix), _) if authority.ends_with(suffix) && authority != suffix => 3,
        (None, Some(prefix)) if authority.starts_with(prefix) && authority != prefix => 2,
        (None, None) if domain == authority => 4,
        _ => return (0, 0),
    };
    (kind, domain.len())
}

/// Whether the path matches a template, in which each variable is what it stands for: `*` or `**`.
fn template_matches(template: &[u8], path: &[u8]) -> bool {
    match template {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|n| template_matches(rest, &path[n..])),
        [b'*', rest @ ..] => {
            let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
            (1..=end).any(|n| template_matches(rest, &path[n..]))
        }
        [byte, rest @ ..] => path.first() == Some(byte) && template_matches(rest, &path[1..]),
    }
}

fn query_matches(matcher: &proto::QueryParameterMatcher, query: &str) -> bool {
    let value = query.split('&').filter(|_| !query.is_empty()).find_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name == matcher.name).then_some(value)
    });
    match matcher.query_parameter_match_specifier.as_ref().unwrap() {
        QueryParameterMatchSpecifier::PresentMatch(present) => value.is_some() == *present,
        QueryParameterMatchSpecifier::StringMatch(m) => value.is_some_and(|value| is_exactly(m, value)),
    }
}

fn is_exactly(matcher: &matcher::StringMatcher, value: &str) -> bool {
    let Some(MatchPattern::Exact(exact)) = &matcher.match_pattern else { unreachable!() };
    if matcher.ignore_case { exact.eq_ignore_ascii_case(value) } else { exact == value }
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
        PathSpecifier::PathMatchPolicy(policy) => {
            let any = policy.typed_config.as_ref().unwrap();
            let template = UriTemplateMatchConfig::decode(&any.value[..]).unwrap().path_template;
            let template = template.replace("{x=*}", "*").replace("{y=*}", "*").replace("{x}", "*").replace("{y}", "*");
            template_matches(template.as_bytes(), path.as_bytes())
        }
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
            values.iter().any(|value| is_exactly(m, value))
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
        let regexes = compile(&routes);
        let virtual_hosts = random.hosts(routes);
        let message = proto::RouteConfiguration { virtual_hosts, ..Default::default() };
        let table = lower_in(message.clone(), &env).unwrap();
        for request in 0..REQUESTS {
            let head = random.request();
            let expected = linear(&message.virtual_hosts, &regexes, &head).unwrap_or("-".into());
            assert_eq!(name(&table, &head), expected, "seed {seed}: {head:?}\n{message:#?}");
            // It lowers each route anew, which takes a while.
            if request == 0 && seed % 3 == 0 {
                let explained = table.explain(&message, &head, &info(), 0, &env);
                assert_eq!(winner(&explained), expected, "seed {seed}: {head:?}\n{explained:#?}");
            }
        }
    }
}
