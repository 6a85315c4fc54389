//! From the message `DnsFilterConfig` to [`Config`].

use std::sync::Arc;
use std::time::Duration;

use nuncio_config::cluster::DnsResolverConfig;
use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_config::protocol::duration;
use nuncio_config::value::data_source;
use nuncio_filter_api::{ClusterNames, LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::data::dns::v3::DnsTable;
use nuncio_proto::envoy::extensions::filters::udp::dns_filter::v3 as proto;
use nuncio_telemetry::access_log::AccessLog;
use proto::dns_filter_config::{ClientContextConfig, ServerContextConfig, server_context_config::ConfigSource};

use super::log;
use super::message::Kind;
use super::table::Table;

nuncio_telemetry::stats! {
    /// `dns_filter.<stat_prefix>`
    pub(super) struct DnsFilterStats {
        a_record_queries: Counter,
        aaaa_record_queries: Counter,
        srv_record_queries: Counter,
        unsupported_queries: Counter,
        cluster_a_record_answers: Counter,
        cluster_aaaa_record_answers: Counter,
        cluster_srv_record_answers: Counter,
        cluster_unsupported_answers: Counter,
        downstream_rx_errors: Counter,
        downstream_rx_invalid_queries: Counter,
        downstream_rx_queries: Counter,
        downstream_tx_responses: Counter,
        external_a_record_queries: Counter,
        external_a_record_answers: Counter,
        external_aaaa_record_queries: Counter,
        external_aaaa_record_answers: Counter,
        external_unsupported_queries: Counter,
        external_unsupported_answers: Counter,
        externally_resolved_queries: Counter,
        known_domain_queries: Counter,
        local_a_record_answers: Counter,
        local_aaaa_record_answers: Counter,
        local_srv_record_answers: Counter,
        local_unsupported_answers: Counter,
        unanswered_queries: Counter,
        queries_with_additional_rrs: Counter,
        queries_with_ans_or_authority_rrs: Counter,
        query_buffer_underflow: Counter,
        query_parsing_failure: Counter,
        record_name_overflow: Counter,
        downstream_rx_bytes: Histogram(Bytes),
        downstream_rx_query_latency: Histogram(Milliseconds),
        downstream_tx_bytes: Histogram(Bytes),
    }
}

/// The filter as configured.
pub(super) struct Config {
    pub(super) stats: DnsFilterStats,
    pub(super) table: Table,
    /// Envoy: what has the name of a cluster has its hosts.
    pub(super) names: Arc<ClusterNames>,
    /// `client_config`: where name servers may be asked.
    pub(super) external: Option<ExternalConfig>,
    pub(super) logs: Vec<AccessLog>,
}

/// How name servers are asked.
pub(super) struct ExternalConfig {
    /// `None`: as the bootstrap says.
    pub(super) resolver: Option<Arc<DnsResolverConfig>>,
    pub(super) timeout: Duration,
    /// `max_pending_lookups`
    pub(super) most: usize,
    /// How often a question is asked again that nobody has answered.
    pub(super) retries: u32,
}

/// Bytes that a table may have.
const MAX_TABLE: u64 = 64 << 20;

/// Envoy's default of `resolver_timeout`.
const RESOLVER_TIMEOUT: Duration = Duration::from_millis(500);

// === impl Config ===

impl Config {
    pub(super) fn lower(message: proto::DnsFilterConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::DnsFilterConfig { stat_prefix, server_config, client_config, access_log, case_insensitive } =
            message;
        let logs = cx.each("access_log", access_log, log::lower);
        let table = cx.opt("server_config", server_config, lower_server_config);
        let retries = table.as_ref().ok().and_then(|t| t.as_ref()).map_or(0, |table| table.external_retry_count);
        let external = cx.opt("client_config", client_config, |config, cx| ExternalConfig::lower(config, retries, cx));
        let table = cx.at("server_config", |cx| Table::lower(table?.unwrap_or_default(), case_insensitive, cx));
        Ok(Self {
            stats: DnsFilterStats::new(&cx.env.stats.scope("dns_filter").scope(&stat_prefix)),
            table: table?,
            names: cx.env.clusters.clone(),
            external: external?,
            logs: logs?,
        })
    }

    /// A question of this kind has come.
    pub(super) fn count_question(&self, kind: Kind) {
        match kind {
            Kind::A => self.stats.a_record_queries().inc(),
            Kind::Aaaa => self.stats.aaaa_record_queries().inc(),
            Kind::Srv => self.stats.srv_record_queries().inc(),
            Kind::Other(_) => self.stats.unsupported_queries().inc(),
        }
    }

    /// Records of this kind are given out of the table.
    pub(super) fn count_local(&self, kind: Kind) {
        match kind {
            Kind::A => self.stats.local_a_record_answers().inc(),
            Kind::Aaaa => self.stats.local_aaaa_record_answers().inc(),
            Kind::Srv => self.stats.local_srv_record_answers().inc(),
            Kind::Other(_) => self.stats.local_unsupported_answers().inc(),
        }
    }

    /// Records of this kind are given for hosts of a cluster.
    pub(super) fn count_cluster(&self, kind: Kind) {
        match kind {
            Kind::A => self.stats.cluster_a_record_answers().inc(),
            Kind::Aaaa => self.stats.cluster_aaaa_record_answers().inc(),
            Kind::Srv => self.stats.cluster_srv_record_answers().inc(),
            Kind::Other(_) => self.stats.cluster_unsupported_answers().inc(),
        }
    }
}

fn lower_server_config(config: ServerContextConfig, cx: &mut LowerCx<'_>) -> Result<DnsTable, Refused> {
    let ServerContextConfig { config_source } = config;
    match config_source {
        Some(ConfigSource::InlineDnsTable(table)) => Ok(table),
        Some(ConfigSource::ExternalDnsTable(source)) => cx.at("external_dns_table", |cx| load_table(source, cx)),
        None => Err(cx.invalid("one of inline_dns_table and external_dns_table is required")),
    }
}

/// The format follows from the name of the file. Envoy lets pass what it cannot read, and then knows no name at all; it
/// minds no rules of the fields.
fn load_table(source: DataSource, cx: &mut LowerCx<'_>) -> Result<DnsTable, Refused> {
    let DataSource { watched_directory, specifier } = source;
    if watched_directory.is_some() {
        // Envoy reads the table once, whatever is watched.
        tracing::info!(path = cx.path(), "watched_directory has no effect: the table is read once");
    }
    let Some(Specifier::Filename(path)) = specifier else {
        return Err(cx.invalid("a table is read from a file: filename is required"));
    };
    if !std::path::Path::new(&path).exists() {
        // Envoy: then no name is known.
        tracing::warn!(path, "there is no such table of names");
        return Ok(DnsTable::default());
    }
    let of_file = DataSource { watched_directory: None, specifier: Some(Specifier::Filename(path.clone())) };
    let bytes = data_source(of_file, MAX_TABLE, cx)?;
    let source = || vec![Source::new(&path, Format::of_path(&path), bytes.to_vec())];
    let mut loader = Loader::new(UnknownFields::Ignore);
    match loader.load::<DnsTable>(source()) {
        Ok(loaded) => Ok(loaded.message),
        Err(problems) => {
            for problem in problems {
                tracing::warn!(path, %problem, "a table of names is broken; what is wrong with it is left out");
            }
            Ok(loader.salvage(source()).map(|loaded| loaded.message).unwrap_or_default())
        }
    }
}

// === impl ExternalConfig ===

impl ExternalConfig {
    #[allow(deprecated)]
    fn lower(config: ClientContextConfig, retries: u32, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let ClientContextConfig {
            resolver_timeout,
            upstream_resolvers,
            dns_resolution_config,
            typed_dns_resolver_config,
            max_pending_lookups,
        } = config;
        let timeout = cx.opt("resolver_timeout", resolver_timeout, |value, cx| match duration(value, cx)? {
            timeout if timeout < Duration::from_secs(1) => Err(cx.invalid("must be at least 1s")),
            timeout => Ok(timeout),
        });
        if max_pending_lookups == 0 {
            return Err(cx.at("max_pending_lookups", |cx| cx.invalid("must be at least 1")));
        }
        let resolver = DnsResolverConfig::lower_fields(
            typed_dns_resolver_config,
            dns_resolution_config,
            ("upstream_resolvers", upstream_resolvers),
            cx,
        )?;
        Ok(Self {
            resolver: resolver.map(Arc::new),
            timeout: timeout?.unwrap_or(RESOLVER_TIMEOUT),
            most: usize::try_from(max_pending_lookups).unwrap_or(usize::MAX),
            retries,
        })
    }
}
