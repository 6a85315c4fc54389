//! Who has the resources that are called by `xdstp:` names: `config_sources`, `default_config_source`.

use std::collections::HashSet;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::api_config_source::ApiType;
use nuncio_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;

use super::{RuntimeConfig, RuntimeLayerKind};
use crate::discovery::Origin;
use crate::refuse_set;
use crate::xdstp::ResourceName;

/// Envoy's guard, off by default: without it the sources are checked, and nobody is asked by authority.
pub(super) const GUARD: &str = "envoy.reloadable_features.xdstp_based_config_singleton_subscriptions";

/// Servers by the authorities that they speak for.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    sources: Vec<(Vec<String>, Origin)>,
    default: Option<Origin>,
}

impl Authorities {
    /// Lowers both fields.
    pub(super) fn lower(
        sources: Vec<core::ConfigSource>,
        default: Option<core::ConfigSource>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let mut seen = HashSet::new();
        let sources = cx.each("config_sources", sources, |source, cx| {
            let names: Vec<String> = source.authorities.iter().map(|authority| authority.name.clone()).collect();
            if names.is_empty() {
                let reason = "xdstp-based non-default config source must have at least one authority.";
                return Err(cx.at("authorities", |cx| cx.invalid(reason)));
            }
            if let Some(twice) = names.iter().find(|name| !seen.insert((*name).clone())) {
                let reason = format!(
                    "xdstp-based config source authority {twice} is configured more than once in an xdstp-based config \
                     source."
                );
                return Err(cx.at("authorities", |cx| cx.invalid(reason)));
            }
            Ok((names, lower_source(source, cx)?))
        });
        let default = cx.opt("default_config_source", default, lower_source);
        Ok(Self { sources: sources?, default: default? })
    }

    /// Those that are asked, by what the runtime says at the start.
    pub(super) fn guarded(self, runtime: &RuntimeConfig) -> Self {
        if is_guard_on(runtime) { self } else { Self::default() }
    }

    /// Who is asked for the resource of this name, where it is not the source that refers to it.
    pub fn origin(&self, name: &ResourceName) -> Option<&Origin> {
        let speaks = |names: &Vec<String>| names.iter().any(|authority| authority == name.authority());
        let source = self.sources.iter().find(|(names, _)| speaks(names));
        source.map(|(_, origin)| origin).or(self.default.as_ref())
    }

    /// Whether no name is asked for by its authority.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.default.is_none()
    }
}

fn lower_source(source: core::ConfigSource, cx: &mut LowerCx<'_>) -> Result<Origin, Refused> {
    // resource_api_version: there is but one version of the resources.
    let core::ConfigSource { authorities: _, config_source_specifier, initial_fetch_timeout, resource_api_version: _ } =
        source;
    let refused = refuse_set!(cx; initial_fetch_timeout);
    let Some(ConfigSourceSpecifier::ApiConfigSource(source)) = config_source_specifier else {
        let reason = "Only api_config_source type is currently supported for xdstp-based config sources.";
        return Err(cx.invalid(reason));
    };
    if !matches!(source.api_type(), ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc) {
        let reason =
            "xdstp-based config source authority only supports AGGREGATED_GRPC and AGGREGATED_DELTA_GRPC types.";
        return Err(cx.at("api_config_source", |cx| cx.at("api_type", |cx| cx.invalid(reason))));
    }
    refused?;
    cx.at("api_config_source", |cx| Origin::lower_server(source, cx))
}

fn is_guard_on(runtime: &RuntimeConfig) -> bool {
    let values = runtime.layers.iter().rev().filter_map(|layer| match &layer.kind {
        RuntimeLayerKind::Static(values) => values.get(GUARD),
        _ => None,
    });
    values.map(|value| value.flag).next().flatten().unwrap_or(false)
}
