//! `typed_per_filter_config`, at any level.

use std::collections::HashMap;

use nuncio_filter_api::{InvalidKind, LowerCx, PerRoute, Refused};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use nuncio_proto::google::protobuf::Any;
use prost::{Message, Name};
use proto::cors_policy::EnabledSpecifier;

use crate::protocol::message_name;

/// What one level says of filters, by the names that they have in the filter chain.
#[derive(Default)]
pub(super) struct FilterConfigs(Box<[FilterConfig]>);

struct FilterConfig {
    filter: Box<str>,
    disabled: bool,
    /// None where the filter is only switched on or off, or is unknown but optional.
    config: Option<PerRoute>,
}

impl FilterConfigs {
    pub(super) fn lower(configs: HashMap<String, Any>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let mut configs: Vec<_> = configs.into_iter().collect();
        configs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut all = Vec::with_capacity(configs.len());
        let mut refused = Ok(());
        cx.at("typed_per_filter_config", |cx| {
            for (filter, config) in configs {
                match cx.at_key(&filter, |cx| lower_one(&config, cx)) {
                    Ok((disabled, config)) => all.push(FilterConfig { filter: filter.into(), disabled, config }),
                    Err(Refused) => refused = Err(Refused),
                }
            }
        });
        refused.map(|()| Self(all.into()))
    }

    /// The configuration of the filter named `filter`, if this level has one.
    pub(super) fn config(&self, filter: &str) -> Option<&PerRoute> {
        self.0.iter().find(|c| &*c.filter == filter)?.config.as_ref()
    }

    /// Whether this level switches the filter off (true) or on; a level that configures a filter switches it on.
    pub(super) fn disabled(&self, filter: &str) -> Option<bool> {
        self.0.iter().find(|c| &*c.filter == filter).map(|c| c.disabled)
    }
}

/// Lowers the value of one filter: whether it is disabled, and its configuration.
fn lower_one(value: &Any, cx: &mut LowerCx<'_>) -> Result<(bool, Option<PerRoute>), Refused> {
    if message_name(value) != "envoy.config.route.v3.FilterConfig" {
        return Ok((false, lower_config(value, false, cx)?));
    }
    let proto::FilterConfig { config, is_optional, disabled } = crate::protocol::any_as(value, cx)?;
    match config {
        _ if disabled => Ok((true, None)),
        None => Err(cx.invalid("an empty per-filter configuration: config or disabled is required")),
        Some(config) if config.type_url.is_empty() => Ok((false, None)),
        Some(config) => Ok((false, cx.at("config", |cx| lower_config(&config, is_optional, cx))?)),
    }
}

fn lower_config(any: &Any, optional: bool, cx: &mut LowerCx<'_>) -> Result<Option<PerRoute>, Refused> {
    let message = message_name(any);
    let registry = &cx.env.registry;
    if let Some((_, lower)) = registry.http_per_route(message).and_then(|row| row.per_route) {
        return lower(&any.value, cx).map(Some);
    }
    if let Some(row) = registry.http_filter(message) {
        let reason = format!("{message}: filter {} has no configuration for virtual hosts or routes", row.name);
        return Err(cx.invalid(reason));
    }
    match nuncio_proto::is_envoy_type(message) {
        _ if optional && !crate::extension::is_http_filter_of_envoy(message) => Ok(None),
        true => Err(cx.not_implemented(format_args!("{message} here"))),
        false => Err(cx.record(InvalidKind::UnknownType, format!("unknown type {message:?}"))),
    }
}

/// Lowers a deprecated `cors`: it says what the message says that took its place.
pub(super) fn lower_cors(message: proto::CorsPolicy, cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    let proto::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
        enabled_specifier,
    } = message;
    let policy = CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled: enabled_specifier.map(|EnabledSpecifier::FilterEnabled(share)| share),
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    };
    let row = cx.env.registry.http_per_route(&CorsPolicy::full_name()).and_then(|row| row.per_route);
    let Some((_, lower)) = row else { return Err(cx.not_implemented("a CORS policy")) };
    lower(&policy.encode_to_vec(), cx)
}
