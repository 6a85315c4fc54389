//! Which tags are looked for: the default ones, those of the user's, and those that all metrics have.

use super::{ANYWHERE, OF_SUFFIX, Prefix, Suffix};
use fancy_regex::Regex;
use std::collections::HashSet;
use std::ops::Range;
use thiserror::Error;

/// `stats_tags` and `use_all_default_tags` of `envoy.config.metrics.v3.StatsConfig`.
#[derive(Debug)]
pub struct TagRules {
    wanted: HashSet<&'static str>,
    /// For names of any beginning, and for those that begin with a certain token.
    own: [Vec<OwnTag>; 2],
}

/// Why a tag cannot be looked for.
#[derive(Debug, Error)]
pub enum TagError {
    #[error("no regex is given, and no default tag has the name {0:?}")]
    NoDefault(String),
    #[error("is required")]
    NoName,
    #[error("invalid regex: {0}")]
    Regex(Box<fancy_regex::Error>),
}

/// A tag of the user's.
#[derive(Debug)]
struct OwnTag {
    name: Box<str>,
    source: Source,
    /// What names begin with that have it.
    token: Option<Box<str>>,
}

/// Where a tag has its value from.
#[derive(Debug)]
enum Source {
    Fixed(Box<str>),
    /// The first group is cut out of names; the second, or else the first, is the value.
    Regex(Regex),
}

/// A tag of the user's that a name has.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::stats) struct Found<'r> {
    tag: &'r str,
    value: FoundValue<'r>,
    removed: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
enum FoundValue<'r> {
    Fixed(&'r str),
    Part(Range<usize>),
}

/// The user's tags that a name has, where at least one was found in it: those of any name, and the others.
pub(in crate::stats) type AllFound<'r> = Option<Box<[Vec<Found<'r>>; 2]>>;

/// Names of all tags that Envoy looks for by default, of features that nuncio lacks too: they find nothing there.
const DEFAULTS: [&str; 48] = [
    "cipher_suite",
    "envoy.clientssl_prefix",
    "envoy.cluster_name",
    "envoy.connection_limit_prefix",
    "envoy.dns_filter_prefix",
    "envoy.dynamo_operation",
    "envoy.dynamo_partition_id",
    "envoy.dynamo_table",
    "envoy.ext_authz_prefix",
    "envoy.fault_downstream_cluster",
    "envoy.google_grpc_client_prefix",
    "envoy.grpc_bridge_method",
    "envoy.grpc_bridge_service",
    "envoy.health_check_name",
    "envoy.http_conn_manager_prefix",
    "envoy.http_user_agent",
    "envoy.listener_address",
    "envoy.local_http_ratelimit_prefix",
    "envoy.local_listener_ratelimit_prefix",
    "envoy.local_network_ratelimit_prefix",
    "envoy.mongo_callsite",
    "envoy.mongo_cmd",
    "envoy.mongo_collection",
    "envoy.mongo_prefix",
    "envoy.proxy_protocol_prefix",
    "envoy.proxy_protocol_version",
    "envoy.ratelimit_prefix",
    "envoy.rbac_http_prefix",
    "envoy.rbac_policy_name",
    "envoy.rbac_prefix",
    "envoy.rds_route_config",
    "envoy.redis_prefix",
    "envoy.response_code",
    "envoy.response_code_class",
    "envoy.route",
    "envoy.scoped_rds_config",
    "envoy.ssl_cipher",
    "envoy.ssl_curve",
    "envoy.ssl_sigalg",
    "envoy.ssl_version",
    "envoy.tcp_prefix",
    "envoy.thrift_prefix",
    "envoy.tls_certificate",
    "envoy.udp_prefix",
    "envoy.virtual_cluster",
    "envoy.virtual_host",
    "envoy.worker_id",
    "envoy.xds_resource_name",
];

// === impl TagRules ===

impl Default for TagRules {
    /// All default tags.
    fn default() -> Self {
        Self { wanted: DEFAULTS.into(), ..Self::empty() }
    }
}

impl TagRules {
    /// No tag at all.
    pub fn empty() -> Self {
        Self { wanted: HashSet::new(), own: [Vec::new(), Vec::new()] }
    }

    /// Looks for a default tag.
    pub fn want(&mut self, tag: &str) -> Result<(), TagError> {
        let known = DEFAULTS.iter().find(|known| **known == tag);
        self.wanted.insert(known.ok_or_else(|| TagError::NoDefault(tag.to_owned()))?);
        Ok(())
    }

    /// Looks no longer for a default tag, if it is one.
    pub fn unwant(&mut self, tag: &str) {
        self.wanted.remove(tag);
    }

    /// Gives a tag to all metrics; of two of one name, the earlier one stays.
    pub fn fix(&mut self, tag: String, value: String) -> Result<(), TagError> {
        self.own[0].push(OwnTag::fixed(tag, value)?);
        Ok(())
    }

    /// The same, before all others of the user's.
    pub fn fix_first(&mut self, tags: impl IntoIterator<Item = (String, String)>) -> Result<(), TagError> {
        let tags: Vec<_> = tags.into_iter().map(|(tag, value)| OwnTag::fixed(tag, value)).collect::<Result<_, _>>()?;
        self.own[0].splice(0..0, tags);
        Ok(())
    }

    /// Looks for what `regex` finds, anywhere in a name unless it says otherwise.
    pub fn extract(&mut self, tag: String, regex: &str) -> Result<(), TagError> {
        let token = first_token(regex).map(Box::from);
        let list = usize::from(token.is_some());
        // The name first: what it lacks is plainer than what is wrong with an expression.
        if tag.is_empty() {
            return Err(TagError::NoName);
        }
        let regex = Regex::new(regex).map_err(|error| TagError::Regex(Box::new(error)))?;
        self.own[list].push(OwnTag { name: tag.into(), source: Source::Regex(regex), token });
        Ok(())
    }

    pub(super) fn wants(&self, tag: &str) -> bool {
        // A tag of fixed value stands before those of names with a certain beginning, and only the first of a name
        // is told.
        self.wanted.contains(tag) && (is_anywhere(tag) || !self.fixed().any(|(fixed, _)| fixed == tag))
    }

    fn fixed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own[0].iter().filter_map(|tag| match &tag.source {
            Source::Fixed(value) => Some((&*tag.name, &**value)),
            Source::Regex(_) => None,
        })
    }

    fn has_regexes(&self) -> bool {
        self.own.iter().flatten().any(|tag| matches!(tag.source, Source::Regex(_)))
    }

    /// Which of the user's tags `name` has, whose default tags are known.
    pub(in crate::stats) fn find(&self, name: &str, prefix: &Prefix<'_>, suffix: &Suffix<'_>) -> AllFound<'_> {
        if !self.has_regexes() {
            return None;
        }
        let mut all = Box::new([const { Vec::new() }; 2]);
        let [anywhere, others] = prefix.tags();
        let mut known: Vec<&str> = suffix.tag.into_iter().chain(anywhere).map(|(tag, _)| tag).collect();
        for (found, tags) in all.iter_mut().zip(&self.own) {
            for tag in tags.iter().filter(|tag| tag.is_for(name)) {
                if !known.contains(&&*tag.name)
                    && let Some(one) = tag.find(name)
                {
                    known.push(one.tag);
                    found.push(one);
                }
            }
            known.extend(others.iter().map(|(tag, _)| *tag));
        }
        let is_found = |one: &Found<'_>| matches!(one.value, FoundValue::Part(_));
        all.iter().flatten().any(is_found).then_some(all)
    }

    /// Names and values of all tags of a metric, in Envoy's order.
    pub(in crate::stats) fn tags<'a>(
        &'a self,
        name: &'a str,
        prefix: &'a Prefix<'_>,
        suffix: &Suffix<'a>,
        found: &AllFound<'a>,
    ) -> Vec<(&'a str, &'a str)> {
        let [anywhere, others] = prefix.tags();
        let mut tags: Vec<_> = suffix.tag.into_iter().chain(anywhere).collect();
        match found {
            Some(found) => {
                let [of_any, of_others] = found.each_ref().map(|found| found.iter().map(|one| one.tag(name)));
                tags.extend(of_any.chain(others).chain(of_others));
            }
            None => {
                for (tag, value) in self.fixed() {
                    if !tags.iter().any(|(known, _)| *known == tag) {
                        tags.push((tag, value));
                    }
                }
                tags.extend(others);
            }
        }
        tags
    }
}

/// Whether a default tag is looked for in names of any beginning.
fn is_anywhere(tag: &str) -> bool {
    ANYWHERE.contains(&tag) || OF_SUFFIX.contains(&tag)
}

/// The token before the first dot of all names that `regex` matches, where it says so: then Envoy looks for the tag
/// after those of fixed value.
fn first_token(regex: &str) -> Option<&str> {
    let regex = regex.strip_prefix('^')?;
    let end = regex.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|end| *end > 0)?;
    let (token, rest) = regex.split_at(end);
    (rest.starts_with(r"\.") || rest.starts_with(r"(?=\.)") || rest == "$").then_some(token)
}

// === impl OwnTag ===

impl OwnTag {
    fn fixed(name: String, value: String) -> Result<Self, TagError> {
        let source = Source::Fixed(value.into());
        if name.is_empty() { Err(TagError::NoName) } else { Ok(Self { name: name.into(), source, token: None }) }
    }

    fn is_for(&self, name: &str) -> bool {
        let Some(token) = &self.token else { return true };
        name.strip_prefix(&**token).is_some_and(|rest| rest.starts_with('.'))
    }

    /// An expression that gives up, having tried too much, finds nothing.
    fn find(&self, name: &str) -> Option<Found<'_>> {
        let (value, removed) = match &self.source {
            Source::Fixed(value) => (FoundValue::Fixed(value), 0..0),
            Source::Regex(regex) => {
                let groups = regex.captures(name).ok()??;
                // A group that took no part is as good as one that matched nothing.
                let range = |group: usize| groups.get(group).map_or(0..0, |group| group.range());
                let value = groups.len().checked_sub(1).filter(|last| *last > 0)?.min(2);
                (FoundValue::Part(range(value)), range(1))
            }
        };
        Some(Found { tag: &self.name, value, removed })
    }
}

// === impl Found ===

impl<'r> Found<'r> {
    fn tag<'a>(&self, name: &'a str) -> (&'a str, &'a str)
    where
        'r: 'a,
    {
        let value = match &self.value {
            FoundValue::Fixed(value) => value,
            FoundValue::Part(range) => &name[range.clone()],
        };
        // Envoy's table of names keeps no dots at the end.
        (self.tag, value.trim_end_matches('.'))
    }

    pub(super) fn removed(&self) -> Range<usize> {
        self.removed.clone()
    }
}
