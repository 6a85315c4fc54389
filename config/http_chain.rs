//! A chain of HTTP filters as configured, and the filters of one stream made from it.

use std::fmt;
use std::sync::Arc;

use nuncio_filter_api::{HttpFilter, HttpFilterConfig, LowerCx, Refused, Sides, StreamCx};
use nuncio_proto::envoy::config::core::v3::ExtensionConfigSource;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use nuncio_proto::google::protobuf::Any;

use crate::extension::{self, Category, Discovered, DiscoveredHttpFilter};
use crate::protocol;

/// One filter of the chain.
struct Entry {
    /// Name in the configuration, which per-route configuration refers to.
    name: Arc<str>,
    /// Does not run unless a route enables it.
    disabled: bool,
    config: Arc<dyn HttpFilterConfig>,
}

/// A chain of HTTP filters.
pub struct HttpChain(Vec<Entry>);

impl HttpChain {
    /// Lowers the chain of a listener: its last filter answers, and no other does. Envoy takes none at all, of which
    /// nobody answers.
    pub fn lower(field: &str, filters: Vec<proto::HttpFilter>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        const AT_END: &str = "the last filter of a chain must be a terminal one, such as envoy.filters.http.router";
        if filters.is_empty() {
            return Ok(Self(Vec::new()));
        }
        lower_entries(field, filters, Sides::Downstream, AT_END, cx).map(Self)
    }

    /// Lowers the chain of a cluster or router, whose last filter is that of the codec. It is left out of the chain:
    /// whoever runs it knows what comes then. `None` where there is no chain.
    pub fn lower_upstream(
        field: &str,
        filters: Vec<proto::HttpFilter>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Arc<Self>>, Refused> {
        const AT_END: &str =
            "the last filter of a chain upstream must be that of the codec, envoy.filters.http.upstream_codec";
        if filters.is_empty() {
            return Ok(None);
        }
        let mut entries = lower_entries(field, filters, Sides::Upstream, AT_END, cx)?;
        match entries.pop() {
            Some(codec) if codec.config.is_terminal() => Ok(Some(Arc::new(Self(entries)))),
            // What stood there was optional, and is left out.
            _ => Err(cx.at(field, |cx| cx.invalid(AT_END))),
        }
    }

    /// Whether there is no filter in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries that run on the route in `cx`; which they are is decided once.
    pub fn enabled(self: &Arc<Self>, cx: &StreamCx) -> EnabledFilters {
        let disabled = self.0.iter().enumerate().filter(|(_, e)| e.is_disabled(cx)).map(|(i, _)| i).collect();
        EnabledFilters { chain: self.clone(), disabled, next: 0 }
    }
}

/// The entries of a chain that run for one stream, in order.
pub struct EnabledFilters {
    chain: Arc<HttpChain>,
    /// Indices left out; none for most streams, and then nothing is allocated.
    disabled: Vec<usize>,
    next: usize,
}

impl EnabledFilters {
    /// Makes the next filter, with the route as the filters before it left it; `None` at the end of the chain.
    pub fn instantiate(&mut self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        while self.disabled.contains(&self.next) {
            self.next += 1;
        }
        let entry = self.chain.0.get(self.next)?;
        self.next += 1;
        Some(entry.config.clone().instantiate(&entry.name, cx))
    }

    /// As [`EnabledFilters::instantiate`], for filters that only see the response: the terminal one is not among them.
    pub fn instantiate_passed_over(&mut self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        let left = self.chain.0.get(self.next..)?;
        if left.iter().all(|e| e.config.is_terminal()) {
            return None;
        }
        self.instantiate(cx)
    }
}

impl Entry {
    fn is_disabled(&self, cx: &StreamCx) -> bool {
        // A terminal filter has no per-route switch: without it no request would be answered.
        if self.config.is_terminal() {
            return false;
        }
        cx.route().and_then(|r| r.get().filter_disabled(&self.name)).unwrap_or(self.disabled)
    }
}

impl fmt::Debug for HttpChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| &entry.name)).finish()
    }
}

/// Lowers the filters of a chain on this side; `at_end` is said where the last one does not end it.
fn lower_entries(
    field: &str,
    filters: Vec<proto::HttpFilter>,
    side: Sides,
    at_end: &str,
    cx: &mut LowerCx<'_>,
) -> Result<Vec<Entry>, Refused> {
    let last = filters.len().saturating_sub(1);
    let mut index = 0;
    let entries = cx.each(field, filters, |filter, cx| {
        let is_last = index == last;
        index += 1;
        match lower_entry(filter, side, is_last, cx)? {
            Some(entry) if entry.config.is_terminal() != is_last => {
                Err(cx.invalid(if is_last { at_end } else { "a terminal filter must be the last of its chain" }))
            }
            entry => Ok(entry),
        }
    })?;
    Ok(entries.into_iter().flatten().collect())
}

fn lower_entry(
    filter: proto::HttpFilter,
    side: Sides,
    is_last: bool,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Entry>, Refused> {
    use proto::http_filter::ConfigType;
    let proto::HttpFilter { name, is_optional, disabled, config_type } = filter;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(source)) => {
            let config = cx.at("config_discovery", |cx| lower_discovered(&name, source, side, is_last, cx))?;
            return Ok(Some(Entry { name: name.into(), disabled, config }));
        }
        // Envoy: whatever it is called, no filter has no message.
        None if is_optional => Any::default(),
        None => return Err(cx.invalid("typed_config is required")),
    };
    let message = protocol::message_name(&any);
    let is_known = cx.env.registry.http_filter(message).is_some() || extension::is_http_filter_of_envoy(message);
    if is_optional && !is_known {
        tracing::warn!(filter = %name, message = %message, "nobody knows this optional HTTP filter: it is left out");
        return Ok(None);
    }
    let config = cx.at("typed_config", |cx| lower_typed(&any, side, cx))?;
    Ok(Some(Entry { name: name.into(), disabled, config }))
}

fn lower_typed(any: &Any, side: Sides, cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let message = protocol::message_name(any);
    let Some(row) = cx.env.registry.http_filter(message) else {
        let known = cx.env.registry.http.iter().copied().flatten().map(|row| row.config);
        return Err(extension::refuse_unknown("HTTP filter", message, known, cx));
    };
    if row.sides != side && row.sides != Sides::Both {
        let whose = if side == Sides::Upstream { "clusters and routers" } else { "listeners" };
        return Err(cx.invalid(format!("{} is no filter for chains of {whose}", row.name)));
    }
    (row.lower)(&any.value, cx)
}

/// A filter whose configuration is given by discovery.
fn lower_discovered(
    name: &str,
    source: ExtensionConfigSource,
    side: Sides,
    is_last: bool,
    cx: &mut LowerCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let category = match side {
        Sides::Upstream => Category::UpstreamHttpFilter,
        Sides::Downstream | Sides::Both => Category::HttpFilter,
    };
    if is_last && category == Category::UpstreamHttpFilter {
        return Err(cx.not_implemented("discovery of the codec of a chain upstream"));
    }
    let lower = move |any: &Any, cx: &mut LowerCx<'_>| {
        let config = lower_typed(any, side, cx)?;
        match (config.is_terminal(), is_last) {
            (true, false) => Err(cx.invalid("a terminal filter must be the last of its chain")),
            (false, true) => Err(cx.invalid("a filter that is not terminal cannot be the last of its chain")),
            _ => Ok(config),
        }
    };
    let filter = Discovered::lower(name, category, source, lower, cx)?;
    Ok(Arc::new(DiscoveredHttpFilter { filter, is_terminal: is_last }))
}

#[cfg(test)]
mod tests {
    use nuncio_filter_api::{HttpFilterRow, Invalid, Registry};
    use nuncio_proto::google::protobuf::Any;

    use super::*;

    /// A filter that is the last of its chain, or not.
    struct Config {
        is_terminal: bool,
    }

    impl HttpFilterConfig for Config {
        fn instantiate(self: Arc<Self>, _: &Arc<str>, _: &StreamCx) -> Box<dyn HttpFilter> {
            unreachable!("no stream runs")
        }

        fn is_terminal(&self) -> bool {
            self.is_terminal
        }
    }

    static ROWS: &[HttpFilterRow] = &[
        HttpFilterRow {
            name: "codec",
            config: "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
            lower: |_, _| Ok(Arc::new(Config { is_terminal: true })),
            per_route: None,
            sides: Sides::Upstream,
        },
        HttpFilterRow {
            name: "both",
            config: "envoy.extensions.filters.http.buffer.v3.Buffer",
            lower: |_, _| Ok(Arc::new(Config { is_terminal: false })),
            per_route: None,
            sides: Sides::Both,
        },
        HttpFilterRow {
            name: "down",
            config: "envoy.extensions.filters.http.cors.v3.Cors",
            lower: |_, _| Ok(Arc::new(Config { is_terminal: false })),
            per_route: None,
            sides: Sides::Downstream,
        },
    ];

    fn lower_upstream(rows: &[usize]) -> Result<String, Vec<String>> {
        let mut env = crate::testing::env();
        env.registry = Registry { http: vec![ROWS], ..Registry::default() };
        let filter = |row: &usize| proto::HttpFilter {
            name: ROWS[*row].name.to_owned(),
            config_type: Some(proto::http_filter::ConfigType::TypedConfig(Any {
                type_url: format!("type.googleapis.com/{}", ROWS[*row].config),
                value: Vec::new(),
            })),
            ..Default::default()
        };
        let mut cx = LowerCx::new(&env);
        let chain = HttpChain::lower_upstream("http_filters", rows.iter().map(filter).collect(), &mut cx);
        let chain = chain.map(|chain| format!("{chain:?}"));
        chain.map_err(|_| cx.finish().iter().map(Invalid::to_string).collect())
    }

    #[test]
    fn a_chain_upstream_is_what_comes_before_the_codec() {
        assert_eq!(lower_upstream(&[]).unwrap(), "None");
        assert_eq!(lower_upstream(&[0]).unwrap(), "Some([])");
        assert_eq!(lower_upstream(&[1, 1, 0]).unwrap(), "Some([\"both\", \"both\"])");
    }

    #[test]
    fn a_chain_upstream_that_has_no_codec_at_its_end_is_refused() {
        let last = "the last filter of a chain upstream must be that of the codec, envoy.filters.http.upstream_codec";
        assert_eq!(lower_upstream(&[1]).unwrap_err(), [format!("http_filters[0]: {last}")]);
        let refusals = lower_upstream(&[0, 1]).unwrap_err();
        let not_last = "http_filters[0]: a terminal filter must be the last of its chain".to_owned();
        assert_eq!(refusals, [not_last, format!("http_filters[1]: {last}")]);
    }

    #[test]
    fn an_optional_filter_is_left_out_only_where_envoy_has_none_either() {
        let lower = |message: Option<&str>| {
            let mut env = crate::testing::env();
            env.registry = Registry { http: vec![ROWS], ..Registry::default() };
            let config = message.map(|message| {
                let any = Any { type_url: format!("type.googleapis.com/{message}"), value: Vec::new() };
                proto::http_filter::ConfigType::TypedConfig(any)
            });
            let filter =
                proto::HttpFilter { name: "f".into(), is_optional: true, config_type: config, ..Default::default() };
            let mut cx = LowerCx::new(&env);
            let entry = lower_entry(filter, Sides::Downstream, false, &mut cx);
            let entry = entry.map(|entry| entry.is_some());
            entry.map_err(|_| cx.finish().iter().map(Invalid::to_string).collect::<String>())
        };
        assert_eq!(lower(None), Ok(false));
        assert_eq!(lower(Some("com.acme.Filter")), Ok(false));
        assert_eq!(lower(Some("google.protobuf.Struct")), Ok(false));
        assert_eq!(lower(Some("envoy.config.route.v3.NonForwardingAction")), Ok(false));
        assert_eq!(lower(Some("envoy.extensions.filters.http.cors.v3.Cors")), Ok(true));
        for known in
            ["envoy.extensions.filters.http.rbac.v3.RBAC", "envoy.extensions.common.matching.v3.ExtensionWithMatcher"]
        {
            let reason = format!("typed_config: {known} as an HTTP filter is not implemented yet");
            assert_eq!(lower(Some(known)), Err(reason));
        }
    }

    #[test]
    fn a_filter_of_listeners_is_refused_upstream() {
        let refusals = lower_upstream(&[2, 0]).unwrap_err();
        assert_eq!(refusals, ["http_filters[0].typed_config: down is no filter for chains of clusters and routers"]);
    }
}
