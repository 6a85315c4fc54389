//! From the message `TcpProxy` to [`Config`].

use std::sync::Arc;
use std::time::Duration;

use nuncio_config::access_log::lower as lower_access_log;
use nuncio_config::metadata::MetadataMatch;
use nuncio_config::protocol::{duration, non_zero};
use nuncio_config::proxy_tlv::AddedTlv;
use nuncio_filter_api::{ClusterName, ClusterNames, LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use nuncio_proto::envoy::r#type::v3 as kind;
use nuncio_telemetry::access_log::AccessLog;
use nuncio_telemetry::{ConnectionInfo, FilterState};
use proto::tcp_proxy::{ClusterSpecifier, TcpAccessLogOptions};
use proto::{ProxyProtocolTlvMergePolicy, UpstreamConnectMode};
use twox_hash::XxHash64;

use super::on_demand::OnDemand;
use super::session::Expired;
use super::tunnel::TunnelConfig;

nuncio_telemetry::stats! {
    /// `tcp.<stat_prefix>`
    pub(super) struct TcpProxyStats {
        downstream_cx_total: Counter,
        downstream_cx_no_route: Counter,
        downstream_cx_drain_close: Counter,
        /// Always 0: nothing sheds load here.
        downstream_cx_overload_close: Counter,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_rx_bytes_buffered: Gauge,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge,
        /// Times that nothing more was read of a client since its host did not take what was there.
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,
        early_data_received_count_total: Counter,
        idle_timeout: Counter,
        max_downstream_connection_duration: Counter,
        /// Always 0, as in Envoy.
        route_delayed_total: Counter,
        /// Connections to hosts that had ended already when their client sent its last bytes and its end at once.
        upstream_flush_total: Counter,
        /// Always 0: no client's end is read before its host has taken all that came before it.
        upstream_flush_active: Gauge,
    }
}

/// The filter as configured.
pub(super) struct Config {
    pub(super) stats: TcpProxyStats,
    /// Not empty.
    targets: Box<[Target]>,
    /// To find clusters that other filters name.
    pub(super) names: Arc<ClusterNames>,
    /// Where clusters are asked for that are not there, where they are.
    pub(super) on_demand: Option<OnDemand>,
    hash: Option<HashBy>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_duration: Option<MaxDuration>,
    pub(super) max_connect_attempts: u32,
    pub(super) backoff: Option<Backoff>,
    pub(super) logs: Vec<AccessLog>,
    pub(super) log_times: LogTimes,
    /// What hosts are told of clients besides.
    pub(super) tlvs: Box<[AddedTlv]>,
    pub(super) tlv_merge: ProxyProtocolTlvMergePolicy,
    /// How hosts are reached through others, where they are.
    pub(super) tunnel: Option<TunnelConfig>,
    pub(super) connects: Connects,
    /// Bytes that may be taken of a client before there is a host for them; `None`: nothing is read before.
    pub(super) early_data: Option<usize>,
    /// Connections are closed as soon as bytes pass in a drain.
    pub(super) checks_drain: bool,
}

/// `upstream_connect_mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connects {
    /// Before the handshake of TLS, where there is one.
    AtOnce,
    OnHandshake,
    /// When the client has sent something.
    OnData,
}

/// A cluster, and what is asked of its hosts.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) cluster: ClusterName,
    pub(super) metadata_match: Option<MetadataMatch>,
    /// The sum of its weight and of those before it.
    end: u64,
}

#[derive(Debug)]
enum HashBy {
    SourceIp,
    FilterState(Box<str>),
}

/// When a connection is logged, but for its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogTimes {
    pub(super) interval: Option<Duration>,
    pub(super) on_start: bool,
    pub(super) on_connected: bool,
}

/// `max_downstream_connection_duration`
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxDuration {
    duration: Duration,
    /// The most that is added to it, as a share of it.
    jitter: f64,
}

/// `backoff_options`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
}

/// Envoy's default of `idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The least `access_log_flush_interval`.
const MIN_LOG_INTERVAL: Duration = Duration::from_millis(1);

// === impl Config ===

impl Config {
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    pub(super) fn lower(message: proto::TcpProxy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            // Envoy never gave these two a meaning.
            downstream_idle_timeout: _,
            upstream_idle_timeout: _,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage: jitter,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close,
            cluster_specifier,
        } = message;
        let scope = cx.env.stats.scope("tcp").scope(&stat_prefix);
        let on_demand = cx.opt("on_demand", on_demand, |message, cx| OnDemand::lower(message, &scope, cx));
        let targets = lower_targets(cluster_specifier, metadata_match, cx);
        let hash = cx.each("hash_policy", hash_policy, HashBy::lower);
        let idle_timeout = cx.opt("idle_timeout", idle_timeout, duration);
        let field = "max_downstream_connection_duration";
        let max_duration = cx.opt(field, max_downstream_connection_duration, duration);
        let backoff = cx.opt("backoff_options", backoff_options, Backoff::lower);
        let logs = cx.each("access_log", access_log, lower_access_log);
        let deprecated = TcpAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_connected,
            flush_access_log_on_start: false,
        };
        let log_times = LogTimes::lower(access_log_options, deprecated, cx);
        let tlvs = cx.each("proxy_protocol_tlvs", proxy_protocol_tlvs, AddedTlv::lower);
        let tunnel = cx.opt("tunneling_config", tunneling_config, TunnelConfig::lower);
        let early_data = max_early_data_bytes.map(|most| most.value as usize);
        let connects = Connects::lower(upstream_connect_mode, early_data, cx);
        let jitter = jitter.map_or(0.0, |percent| percent.value / 100.0);
        Ok(Self {
            stats: TcpProxyStats::new(&scope),
            on_demand: on_demand?.flatten(),
            targets: targets?,
            names: cx.env.clusters.clone(),
            hash: hash?.into_iter().next().flatten(),
            idle_timeout: idle_timeout?.map_or(Some(IDLE_TIMEOUT), non_zero),
            max_duration: max_duration?.map(|duration| MaxDuration { duration, jitter }),
            max_connect_attempts: max_connect_attempts.map_or(1, |most| most.value),
            backoff: backoff?,
            logs: logs?,
            tlvs: tlvs?.into(),
            tlv_merge: ProxyProtocolTlvMergePolicy::try_from(proxy_protocol_tlv_merge_policy).unwrap_or_default(),
            tunnel: tunnel?,
            connects: connects?,
            early_data,
            checks_drain: check_drain_close.is_some_and(|check| check.value),
            log_times: log_times?,
        })
    }

    /// The target of a connection with these random bits.
    pub(super) fn target(&self, random: u64) -> &Target {
        let total = self.targets.last().map_or(1, |last| last.end);
        let at = self.targets.partition_point(|target| target.end <= random % total);
        &self.targets[at.min(self.targets.len() - 1)]
    }

    /// What hosts are chosen by, where it is asked for.
    pub(super) fn hash(&self, info: &ConnectionInfo, state: &FilterState) -> Option<u64> {
        match self.hash.as_ref()? {
            HashBy::SourceIp => Some(XxHash64::oneshot(0, info.remote.ip()?.to_string().as_bytes())),
            HashBy::FilterState(key) => Some(XxHash64::oneshot(0, state.hashed(key)?.as_bytes())),
        }
    }
}

/// Lowers an `access_log_flush_interval`.
pub(crate) fn log_interval(
    proto: nuncio_proto::google::protobuf::Duration,
    cx: &mut LowerCx<'_>,
) -> Result<Duration, Refused> {
    match duration(proto, cx)? {
        interval if interval < MIN_LOG_INTERVAL => Err(cx.invalid("must be at least 1ms")),
        interval => Ok(interval),
    }
}

fn lower_targets(
    specifier: Option<ClusterSpecifier>,
    common: Option<core::Metadata>,
    cx: &mut LowerCx<'_>,
) -> Result<Box<[Target]>, Refused> {
    let common = common.and_then(MetadataMatch::lower);
    let clusters = match specifier {
        None => return Err(cx.invalid("one of cluster and weighted_clusters is required")),
        Some(ClusterSpecifier::Cluster(name)) => {
            let cluster = cx.env.clusters.intern(&name);
            return Ok([Target { cluster, metadata_match: common, end: 1 }].into());
        }
        Some(ClusterSpecifier::WeightedClusters(proto::tcp_proxy::WeightedCluster { clusters })) => clusters,
    };
    let mut sum = 0;
    let targets = cx.at("weighted_clusters", |cx| {
        cx.each("clusters", clusters, |cluster, cx| {
            let proto::tcp_proxy::weighted_cluster::ClusterWeight { name, weight, metadata_match } = cluster;
            sum += u64::from(weight);
            let own = metadata_match.and_then(MetadataMatch::lower);
            let metadata_match = match (own, &common) {
                (Some(own), Some(common)) => Some(own.over(common)),
                (own, common) => own.or_else(|| common.clone()),
            };
            Ok(Target { cluster: cx.env.clusters.intern(&name), metadata_match, end: sum })
        })
    })?;
    if sum == 0 {
        return Err(cx.at("weighted_clusters", |cx| cx.invalid("the sum of weights must be greater than 0")));
    }
    Ok(targets.into())
}

// === impl Connects ===

impl Connects {
    fn lower(mode: i32, early_data: Option<usize>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let mode = UpstreamConnectMode::try_from(mode).unwrap_or_default();
        if mode != UpstreamConnectMode::Immediate && early_data.is_none() {
            let reason = "max_early_data_bytes must be set when upstream_connect_mode is not IMMEDIATE";
            return Err(cx.at("max_early_data_bytes", |cx| cx.invalid(reason)));
        }
        Ok(match mode {
            UpstreamConnectMode::Immediate => Self::AtOnce,
            UpstreamConnectMode::OnDownstreamTlsHandshake => Self::OnHandshake,
            UpstreamConnectMode::OnDownstreamData => Self::OnData,
        })
    }
}

// === impl HashBy ===

impl HashBy {
    /// `None` for a policy that names nothing.
    fn lower(proto: kind::HashPolicy, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        use kind::hash_policy::{PolicySpecifier, SourceIp};
        let kind::HashPolicy { policy_specifier } = proto;
        match policy_specifier {
            None => Err(cx.invalid("one of source_ip and filter_state is required")),
            Some(PolicySpecifier::SourceIp(SourceIp {})) => Ok(Some(Self::SourceIp)),
            Some(PolicySpecifier::FilterState(kind::hash_policy::FilterState { key })) => {
                Ok((!key.is_empty()).then(|| Self::FilterState(key.into())))
            }
        }
    }
}

// === impl LogTimes ===

impl LogTimes {
    /// `deprecated`: from the fields of the filter itself. Envoy takes them where there are no options, and not beside
    /// them.
    fn lower(
        options: Option<TcpAccessLogOptions>,
        deprecated: TcpAccessLogOptions,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let Some(options) = options else { return Self::of(deprecated, cx) };
        for (field, is_set) in [
            ("flush_access_log_on_connected", deprecated.flush_access_log_on_connected),
            ("access_log_flush_interval", deprecated.access_log_flush_interval.is_some()),
        ] {
            if is_set {
                let reason = format!("Only one of {field} or access_log_options can be specified.");
                return Err(cx.at(field, |cx| cx.invalid(reason)));
            }
        }
        cx.at("access_log_options", |cx| Self::of(options, cx))
    }

    fn of(options: TcpAccessLogOptions, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TcpAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_connected: on_connected,
            flush_access_log_on_start: on_start,
        } = options;
        let interval = cx.opt("access_log_flush_interval", access_log_flush_interval, log_interval)?;
        Ok(Self { interval, on_start, on_connected })
    }
}

// === impl MaxDuration ===

impl Config {
    /// How long a connection is kept on which nothing happens, and what then has expired.
    pub(super) fn patience(&self) -> Option<(Duration, Expired)> {
        let idle = self.idle_timeout.map(|time| (time, Expired::Idle));
        let age = self.max_duration.map(|max| (max.duration, Expired::MaxDuration));
        idle.into_iter().chain(age).min_by_key(|(time, _)| *time)
    }
}

impl MaxDuration {
    /// How long a connection may last, with these random bits.
    pub(super) fn drawn(self, random: u64) -> Duration {
        let share = random as f64 / u64::MAX as f64;
        self.duration + self.duration.mul_f64((self.jitter * share).max(0.0))
    }
}

// === impl Backoff ===

impl Backoff {
    pub(crate) fn lower(proto: core::BackoffStrategy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::BackoffStrategy { base_interval, max_interval } = proto;
        let Some(base) = base_interval else {
            return Err(cx.at("base_interval", |cx| cx.invalid("is required")));
        };
        let base = cx.at("base_interval", |cx| duration(base, cx))?;
        // Envoy: ten times the base where no more is said.
        let max = cx.opt("max_interval", max_interval, duration)?.unwrap_or(base * 10);
        match max < base {
            true => Err(cx.at("max_interval", |cx| cx.invalid("must be at least base_interval"))),
            false => Ok(Self { base, max }),
        }
    }

    /// The pause before attempt number `attempt`, of which the first has none: up to twice as long each time.
    pub(crate) fn pause(self, attempt: u32, random: u64) -> Duration {
        let most = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.max);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    fn logs_are_configured_in_one_place_or_the_other() {
        let env = nuncio_filter_api::testing::env();
        let lower = |change: fn(&mut proto::TcpProxy)| {
            let mut message = proto::TcpProxy {
                cluster_specifier: Some(ClusterSpecifier::Cluster("c".to_owned())),
                ..proto::TcpProxy::default()
            };
            change(&mut message);
            let mut cx = LowerCx::new(&env);
            Config::lower(message, &mut cx).map(|config| config.log_times).map_err(|Refused| cx.finish()[0].to_string())
        };
        let old = lower(|m| m.flush_access_log_on_connected = true).expect("is configured");
        assert!(old.on_connected && !old.on_start);
        let refused = lower(|m| {
            m.flush_access_log_on_connected = true;
            m.access_log_options = Some(TcpAccessLogOptions::default());
        });
        let refused = refused.expect_err("is refused");
        assert!(refused.contains("Only one of flush_access_log_on_connected or access_log_options"), "{refused}");
        let refused = lower(|m| {
            m.access_log_flush_interval = Some(nuncio_proto::google::protobuf::Duration { seconds: 1, nanos: 0 });
            m.access_log_options = Some(TcpAccessLogOptions::default());
        });
        let refused = refused.expect_err("is refused");
        assert!(refused.contains("Only one of access_log_flush_interval or access_log_options"), "{refused}");
    }

    #[test]
    fn a_pause_grows_up_to_the_longest() {
        let backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(30) };
        let most = |attempt| backoff.pause(attempt, 9_999_999).max(backoff.pause(attempt, 29_999_999));
        assert_eq!(most(1), Duration::from_nanos(9_999_999));
        assert_eq!(most(9), Duration::from_nanos(29_999_999));
    }

    #[test]
    fn jitter_only_lengthens_a_life() {
        let max = MaxDuration { duration: Duration::from_secs(10), jitter: 0.5 };
        assert_eq!(max.drawn(0), Duration::from_secs(10));
        assert_eq!(max.drawn(u64::MAX), Duration::from_secs(15));
    }
}
