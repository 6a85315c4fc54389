//! `weighted_clusters`: the random bits of a request choose one of several clusters.

use std::sync::Arc;

use http::HeaderName;
use nuncio_filter_api::{ByteStr, LowerCx, Refused, RequestHead, RuntimeKey};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::StreamInfo;
use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier;
use proto::weighted_cluster::{ClusterWeight, RandomValueSpecifier};

use super::condition::Asked;
use super::forward::Cluster;
use super::hash_policy::HashPolicies;
use super::level::{Level, LevelFields};
use crate::metadata::MetadataMatch;

/// How the clusters share the requests.
#[derive(Debug)]
pub(super) struct Split {
    /// For each cluster the sum of its weight and those before it; the last is the total, which is not 0.
    ends: Box<[u32]>,
    /// What takes the place of the random bits, where the request has it.
    source: Option<Source>,
    /// Of `runtime_key_prefix`: for each cluster under which key the runtime may have another weight.
    keys: Box<[RuntimeKey]>,
}

/// `random_value_specifier`
#[derive(Debug)]
enum Source {
    /// A header with a number.
    Header(HeaderName),
    /// The hash by the route's policies.
    Hash(Arc<HashPolicies>),
}

/// One of the clusters.
pub(super) struct Weighted {
    pub(super) cluster: Cluster,
    pub(super) level: Level,
    pub(super) host_rewrite: Option<ByteStr>,
    pub(super) metadata_match: Option<Arc<MetadataMatch>>,
}

impl Split {
    pub(super) fn lower(
        message: proto::WeightedCluster,
        hash: Option<&Arc<HashPolicies>>,
        cx: &mut LowerCx<'_>,
    ) -> Result<(Self, Vec<Weighted>), Refused> {
        // Envoy takes the sum of the weights whatever the deprecated total says.
        let proto::WeightedCluster { clusters, total_weight: _, runtime_key_prefix, random_value_specifier } = message;
        let source = match random_value_specifier {
            None => Ok(None),
            Some(RandomValueSpecifier::HeaderName(name)) if name.is_empty() => Ok(None),
            Some(RandomValueSpecifier::HeaderName(name)) => {
                cx.at("header_name", |cx| crate::value::header_name(&name, cx)).map(|name| Some(Source::Header(name)))
            }
            Some(RandomValueSpecifier::UseHashPolicy(used)) => {
                Ok(hash.filter(|_| used.value).map(|hash| Source::Hash(hash.clone())))
            }
        };
        let mut sum = 0u32;
        let mut ends = Vec::with_capacity(clusters.len());
        let mut keys = Vec::new();
        let clusters = cx.each("clusters", clusters, |cluster, cx| {
            if !runtime_key_prefix.is_empty() {
                keys.push(cx.runtime(&format!("{runtime_key_prefix}.{}", cluster.name)));
            }
            let (weight, weighted) = Weighted::lower(cluster, cx)?;
            let Some(end) = sum.checked_add(weight) else {
                return Err(cx.invalid(format!("the sum of weights exceeds {}", u32::MAX)));
            };
            sum = end;
            ends.push(end);
            Ok(weighted)
        })?;
        if sum == 0 {
            return Err(cx.invalid("the sum of weights must be greater than 0"));
        }
        Ok((Self { ends: ends.into(), source: source?, keys: keys.into() }, clusters))
    }

    /// The number of clusters.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The number of the cluster for this request, if any has a weight.
    pub(super) fn pick(&self, asked: Asked<'_>) -> Option<usize> {
        let Asked { head, info, random, .. } = asked;
        let value = self.value(head, info, random);
        if !self.keys.is_empty() {
            return self.pick_by_runtime(value);
        }
        let total = self.ends.last().copied().unwrap_or(1);
        let selected = value % u64::from(total);
        Some(self.ends.partition_point(|end| u64::from(*end) <= selected))
    }

    /// By the weights that the runtime has.
    fn pick_by_runtime(&self, value: u64) -> Option<usize> {
        let total: u64 = self.weights().sum();
        let mut selected = value.checked_rem(total)?;
        self.weights().position(|weight| match selected.checked_sub(weight) {
            Some(rest) => {
                selected = rest;
                false
            }
            None => true,
        })
    }

    /// The weights in force. Envoy has them in 32 bits.
    fn weights(&self) -> impl Iterator<Item = u64> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let own = begins.zip(&self.ends).map(|(begin, end)| u64::from(end - begin));
        own.enumerate().map(|(at, own)| {
            let set = self.keys.get(at).and_then(RuntimeKey::set_integer);
            set.map_or(own, |weight| u64::from(weight as u32))
        })
    }

    /// The number of another cluster than those that were tried; once all were, any may be tried again. `None` where
    /// those that are left have no weight.
    pub(super) fn pick_untried(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        random: u64,
        tried: &mut Vec<usize>,
    ) -> Option<usize> {
        if tried.len() >= self.len() {
            tried.clear();
        }
        let weights = || {
            let weights = self.weights().enumerate();
            weights.filter(|(number, _)| !tried.contains(number))
        };
        let total: u64 = weights().map(|(_, weight)| weight).sum();
        let mut left = self.value(head, info, random).checked_rem(total)?;
        let (number, _) = weights().find(|(_, weight)| {
            let is_here = left < *weight;
            left = left.saturating_sub(*weight);
            is_here
        })?;
        tried.push(number);
        Some(number)
    }

    /// What the clusters are chosen by.
    fn value(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> u64 {
        let value = match &self.source {
            None => None,
            Some(Source::Header(name)) => header_number(head, name),
            // A cookie is generated for the host that is chosen, not for its cluster.
            Some(Source::Hash(policies)) => policies.hash(head, info, None),
        };
        value.unwrap_or(random)
    }
}

/// The number in a header that occurs once.
fn header_number(head: &RequestHead, name: &HeaderName) -> Option<u64> {
    let mut values = head.headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    std::str::from_utf8(value.as_bytes().trim_ascii()).ok()?.parse().ok()
}

impl Weighted {
    /// Lowers a cluster and its weight.
    fn lower(message: ClusterWeight, cx: &mut LowerCx<'_>) -> Result<(u32, Self), Refused> {
        let ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = message;
        let cluster = match (name.is_empty(), cluster_header.is_empty()) {
            (false, true) => cx.at("name", |cx| Cluster::named(&name, cx)),
            (true, false) => cx.at("cluster_header", |cx| Cluster::header(&cluster_header, cx)),
            _ => Err(cx.invalid("exactly one of name and cluster_header must be specified")),
        };
        let level = LevelFields {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
        };
        let level = Level::lower(level, cx);
        let host_rewrite = match host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => (!host.is_empty()).then(|| host.into()),
            None => None,
        };
        let weight = weight.ok_or_else(|| cx.at("weight", |cx| cx.invalid("is required")));
        let metadata_match = metadata_match.and_then(MetadataMatch::lower).map(Arc::new);
        Ok((weight?.value, Self { cluster: cluster?, level: level?, host_rewrite, metadata_match }))
    }
}
