//! What a table does with a request, in words: for tools, which look at one route after the other.

use nuncio_filter_api::{LowerCx, LowerEnv, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::StreamInfo;

use super::condition::{Asked, Match, Reason, path};
use super::hosts::without_port;
use super::{RouteTable, is_connect, plugin};

/// Why a request takes the route that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the virtual host was looked up by.
    pub host: String,
    /// The virtual host, if there is one.
    pub virtual_host: Option<HostMatch>,
    /// Its routes in order, up to the one that matches. Not those of a tree (`matcher`).
    pub routes: Vec<Considered>,
    /// Its tree of matchers chooses the route.
    pub is_tree: bool,
    /// `require_tls` asks for https before any route is looked at.
    pub wants_tls: bool,
}

/// A virtual host, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMatch {
    /// `name`
    pub name: String,
    /// Which of its domains it is.
    pub domain: String,
    /// `exact`, `suffix`, `prefix` or `catch-all`.
    pub kind: &'static str,
}

/// A route that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Place in `routes`.
    pub number: usize,
    /// `name`
    pub name: String,
    /// What its path must be.
    pub path: String,
    /// What does not hold; nothing for the route that matches.
    pub reasons: Vec<Reason>,
}

impl RouteTable {
    /// Explains what becomes of a request in this table, which was lowered from `message`.
    pub fn explain(
        &self,
        message: &proto::RouteConfiguration,
        head: &RequestHead,
        info: &StreamInfo,
        random: u64,
        env: &LowerEnv,
    ) -> Explanation {
        let host = self.config.host_field.as_ref().map_or(Some(&*head.authority), |f| f.first_in_request(head));
        let mut explanation = Explanation {
            host: host.unwrap_or_default().to_owned(),
            virtual_host: None,
            routes: Vec::new(),
            is_tree: false,
            wants_tls: false,
        };
        let Some(number) = host.and_then(|host| self.hosts.find(host)).map(|number| number as usize) else {
            return explanation;
        };
        let said = &message.virtual_hosts[number];
        let name =
            if message.ignore_port_in_host_matching { without_port(&explanation.host) } else { &explanation.host };
        explanation.virtual_host = HostMatch::of(said, name);
        explanation.is_tree = said.matcher.is_some();
        explanation.wants_tls = self.virtual_hosts[number].host.wants_tls(head);
        if explanation.wants_tls {
            return explanation;
        }
        let path = self.config.matched_path(&head.path).as_bytes();
        let asked = Asked { head, info, path, random };
        for (number, route) in said.routes.iter().enumerate() {
            let mut considered = Considered::of(number, route, asked, env);
            if plugin::is_unknown(route, &message.cluster_specifier_plugins, env) {
                considered.reasons.push(Reason::unknown_plugin());
            }
            let matches = considered.reasons.is_empty();
            explanation.routes.push(considered);
            if matches {
                break;
            }
        }
        explanation
    }
}

impl HostMatch {
    /// The best of the domains that take `name`.
    fn of(host: &proto::VirtualHost, name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let kind = |domain: &str| match domain {
            "*" => Some((0, "catch-all")),
            domain if domain == name => Some((3, "exact")),
            domain => match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
                (Some(suffix), _) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some((2, "suffix")),
                (_, Some(prefix)) => (name.len() > prefix.len() && name.starts_with(prefix)).then_some((1, "prefix")),
                _ => None,
            },
        };
        let found = host.domains.iter().filter_map(|domain| Some((kind(&domain.to_ascii_lowercase())?, domain)));
        let ((_, kind), domain) = found.max_by_key(|((rank, _), domain)| (*rank, domain.len()))?;
        Some(Self { name: host.name.clone(), domain: domain.clone(), kind })
    }
}

impl Considered {
    fn of(number: usize, route: &proto::Route, asked: Asked<'_>, env: &LowerEnv) -> Self {
        let said = route.r#match.clone().unwrap_or_default();
        // The table was made of it, so that it is not refused.
        let matched = Match::lower(Some(said.clone()), &mut LowerCx::new(env));
        let reasons = matched.map(|matched| matched.reasons(&said, asked, is_connect(asked.head))).unwrap_or_default();
        Self { number, name: route.name.clone(), path: path(&said), reasons }
    }
}
