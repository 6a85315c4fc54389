use std::collections::BTreeMap;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster as pb;
use nuncio_proto::envoy::extensions::load_balancing_policies::common::v3 as common;
use nuncio_proto::envoy::extensions::load_balancing_policies::{maglev, ring_hash};
use nuncio_proto::google::protobuf::{UInt32Value, UInt64Value};

use super::{LocalityLb, LoweredLb};
use crate::cluster::{Endpoint, LbPolicy, LocalityWeight};
use crate::route::HashPolicies;

/// A policy that sends equal hashes of requests to the same host.
#[derive(Clone, Debug)]
pub struct HashingLb {
    /// How hosts are found by hash.
    pub table: HashTable,
    /// Whether hosts are hashed by their names rather than their addresses.
    pub use_hostname: bool,
    /// No host gets more than this percentage of its share of the active requests; 0: as much as comes.
    pub balance_factor: u32,
    /// What of a request is hashed, whatever its route says; `None`: as that says.
    pub policies: Option<Arc<HashPolicies>>,
}

/// How hosts are found by hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// Each host has places on a ring.
    Ring {
        /// That places them there.
        function: RingHashFunction,
        /// Places at least.
        min_size: u64,
        /// Places at most.
        max_size: u64,
    },
    /// Hosts take the places of a table in turn, each in an order of its own.
    Maglev {
        /// Places; a prime number.
        size: u64,
    },
}

/// What places hosts on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingHashFunction {
    /// XX_HASH
    Xx,
    /// MURMUR_HASH_2, which is that of libstdc++.
    Murmur2,
}

/// What both kinds have in common.
#[derive(Clone, Default)]
struct Consistent {
    use_hostname: bool,
    balance_factor: u32,
    policies: Option<Arc<HashPolicies>>,
}

/// Envoy's `minimum_ring_size`.
const DEFAULT_MIN_RING: u64 = 1024;
/// Envoy's `maximum_ring_size`: 8 Mi.
const DEFAULT_MAX_RING: u64 = 8 * 1024 * 1024;
/// Envoy's `table_size`.
const DEFAULT_MAGLEV: u64 = 65_537;

// === impl HashingLb ===

impl HashingLb {
    /// `lb_policy: RING_HASH`
    pub(super) fn lower_ring(
        config: Option<pb::LbConfig>,
        common: Option<&pb::CommonLbConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<LbPolicy, Refused> {
        use pb::ring_hash_lb_config::HashFunction;
        let config = match config {
            Some(pb::LbConfig::RingHashLbConfig(config)) => config,
            _ => pb::RingHashLbConfig::default(),
        };
        let pb::RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = config;
        let function = match HashFunction::try_from(hash_function) {
            Ok(HashFunction::XxHash) => RingHashFunction::Xx,
            Ok(HashFunction::MurmurHash2) => RingHashFunction::Murmur2,
            Err(_) => return Err(cx.invalid("ring_hash_lb_config.hash_function is no hash function")),
        };
        let table = cx.at("ring_hash_lb_config", |cx| ring(function, minimum_ring_size, maximum_ring_size, cx))?;
        Ok(Self::policy(table, Consistent::of_cluster(common)))
    }

    /// `lb_policy: MAGLEV`
    pub(super) fn lower_maglev(
        config: Option<pb::LbConfig>,
        common: Option<&pb::CommonLbConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<LbPolicy, Refused> {
        let config = match config {
            Some(pb::LbConfig::MaglevLbConfig(config)) => config,
            _ => pb::MaglevLbConfig::default(),
        };
        let pb::MaglevLbConfig { table_size } = config;
        let table = cx.at("maglev_lb_config", |cx| table(table_size, cx))?;
        Ok(Self::policy(table, Consistent::of_cluster(common)))
    }

    /// The policy `RingHash`.
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    pub(super) fn lower_ring_policy(
        proto: ring_hash::v3::RingHash,
        cx: &mut LowerCx<'_>,
    ) -> Result<LoweredLb, Refused> {
        use ring_hash::v3::ring_hash::HashFunction;
        let ring_hash::v3::RingHash {
            hash_function,
            minimum_ring_size,
            maximum_ring_size,
            use_hostname_for_hashing,
            hash_balance_factor,
            consistent_hashing_lb_config,
            locality_weighted_lb_config,
        } = proto;
        let function = match HashFunction::try_from(hash_function) {
            Ok(HashFunction::DefaultHash | HashFunction::XxHash) => RingHashFunction::Xx,
            Ok(HashFunction::MurmurHash2) => RingHashFunction::Murmur2,
            Err(_) => return Err(cx.at("hash_function", |cx| cx.invalid("is no hash function"))),
        };
        let old = Consistent::new(use_hostname_for_hashing, hash_balance_factor);
        let consistent = cx.opt("consistent_hashing_lb_config", consistent_hashing_lb_config, Consistent::lower)?;
        let table = ring(function, minimum_ring_size, maximum_ring_size, cx)?;
        let policy = Self::policy(table, consistent.unwrap_or(old));
        Ok(LoweredLb::new(policy, locality(locality_weighted_lb_config.is_some())))
    }

    /// The policy `Maglev`.
    pub(super) fn lower_maglev_policy(proto: maglev::v3::Maglev, cx: &mut LowerCx<'_>) -> Result<LoweredLb, Refused> {
        let maglev::v3::Maglev { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } = proto;
        let consistent = cx.opt("consistent_hashing_lb_config", consistent_hashing_lb_config, Consistent::lower)?;
        let policy = Self::policy(table(table_size, cx)?, consistent.unwrap_or_default());
        Ok(LoweredLb::new(policy, locality(locality_weighted_lb_config.is_some())))
    }

    /// Why a table cannot be made of these weights. Envoy: it is made of shares of all, which are added up in 32 bits.
    pub(in crate::cluster) fn overflow(endpoints: &[Endpoint], localities: &[LocalityWeight]) -> Option<String> {
        const MAX: u64 = u32::MAX as u64;
        let hosts = endpoints.iter().map(|endpoint| (endpoint.priority, endpoint.weight));
        let localities = localities.iter().map(|locality| (locality.priority, locality.weight));
        let sums: [(&str, BTreeMap<u32, u64>); 2] = [
            ("all upstream hosts in a locality", sums(hosts)),
            ("all localities at the same priority", sums(localities)),
        ];
        let (what, _) = sums.iter().find(|(_, sums)| sums.values().any(|sum| *sum > MAX))?;
        Some(format!("The sum of weights of {what} exceeds {MAX}"))
    }

    fn policy(table: HashTable, consistent: Consistent) -> LbPolicy {
        let Consistent { use_hostname, balance_factor, policies } = consistent;
        LbPolicy::Hashing(Box::new(Self { table, use_hostname, balance_factor, policies }))
    }
}

/// By priority.
fn sums(weights: impl Iterator<Item = (u32, u32)>) -> BTreeMap<u32, u64> {
    let mut sums = BTreeMap::new();
    for (priority, weight) in weights {
        *sums.entry(priority).or_default() += u64::from(weight);
    }
    sums
}

fn locality(is_weighted: bool) -> LocalityLb {
    if is_weighted { LocalityLb::Weighted } else { LocalityLb::default() }
}

fn ring(
    function: RingHashFunction,
    min: Option<UInt64Value>,
    max: Option<UInt64Value>,
    cx: &mut LowerCx<'_>,
) -> Result<HashTable, Refused> {
    let min_size = min.map_or(DEFAULT_MIN_RING, |v| v.value);
    let max_size = max.map_or(DEFAULT_MAX_RING, |v| v.value);
    if min_size > max_size {
        let reason = format!("ring hash: minimum_ring_size ({min_size}) > maximum_ring_size ({max_size})");
        return Err(cx.invalid(reason));
    }
    Ok(HashTable::Ring { function, min_size, max_size })
}

fn table(size: Option<UInt64Value>, cx: &mut LowerCx<'_>) -> Result<HashTable, Refused> {
    let size = size.map_or(DEFAULT_MAGLEV, |v| v.value);
    if !is_prime(size) {
        return Err(cx.at("table_size", |cx| cx.invalid("The table size of maglev must be prime number")));
    }
    Ok(HashTable::Maglev { size })
}

fn is_prime(number: u64) -> bool {
    let is_divisor = |divisor: &u64| number.is_multiple_of(*divisor);
    number >= 2 && !(2..).take_while(|divisor| divisor * divisor <= number).any(|divisor| is_divisor(&divisor))
}

// === impl Consistent ===

impl Consistent {
    fn new(use_hostname: bool, balance_factor: Option<UInt32Value>) -> Self {
        Self { use_hostname, balance_factor: balance_factor.map_or(0, |v| v.value), policies: None }
    }

    fn of_cluster(common: Option<&pb::CommonLbConfig>) -> Self {
        use pb::common_lb_config::ConsistentHashingLbConfig;
        let config = common.and_then(|common| common.consistent_hashing_lb_config);
        config.map_or(Self::default(), |ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor }| {
            Self::new(use_hostname_for_hashing, hash_balance_factor)
        })
    }

    fn lower(proto: common::ConsistentHashingLbConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let common::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor, hash_policy } = proto;
        let policies = HashPolicies::lower("hash_policy", hash_policy, cx)?.map(Arc::new);
        Ok(Self { policies, ..Self::new(use_hostname_for_hashing, hash_balance_factor) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_other_numbers() {
        let primes: Vec<u64> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(DEFAULT_MAGLEV) && is_prime(5_000_011) && !is_prime(65_536));
    }
}
