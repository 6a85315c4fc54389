//! Plugins that choose the cluster of a request once its route is known.

use std::sync::Arc;

use nuncio_filter_api::{ClusterName, LowerCx, LowerEnv, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::router::cluster_specifiers::matcher::v3::{
    ClusterAction, MatcherClusterSpecifier,
};
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::StreamInfo;
use proto::route::Action as RouteOneof;
use proto::route_action::ClusterSpecifier;

use crate::matching::{KeepMatching, RequestMatcher};
use crate::protocol::{any_as, message_name};

/// A plugin that is configured, or is optional and unknown: Envoy passes over the routes of such a one.
pub(super) type Plugin = Option<Arc<ClusterMatcher>>;

/// `cluster_specifier_plugins` by name.
#[derive(Default)]
pub(super) struct Plugins(Vec<(String, Plugin)>);

/// A tree of matchers, whose leaves are clusters.
#[derive(Debug)]
pub struct ClusterMatcher(RequestMatcher<ClusterName>);

// === impl Plugins ===

impl Plugins {
    pub(super) fn lower(plugins: Vec<proto::ClusterSpecifierPlugin>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let plugins = cx.each("cluster_specifier_plugins", plugins, |plugin, cx| {
            let name = plugin.extension.as_ref().map(|extension| extension.name.clone()).unwrap_or_default();
            Ok((name, lower(plugin, cx)?))
        });
        plugins.map(Self)
    }

    /// The plugin of this name. Envoy: of several the first.
    pub(super) fn named(&self, name: &str, cx: &mut LowerCx<'_>) -> Result<Plugin, Refused> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, plugin)| plugin.clone()).ok_or_else(|| {
            cx.invalid(format!("{name:?} is none of the cluster_specifier_plugins of this route configuration"))
        })
    }
}

/// Lowers one plugin.
pub(super) fn lower(plugin: proto::ClusterSpecifierPlugin, cx: &mut LowerCx<'_>) -> Result<Plugin, Refused> {
    let proto::ClusterSpecifierPlugin { extension, is_optional } = plugin;
    let Some(extension) = extension else {
        return Err(cx.at("extension", |cx| cx.invalid("is required")));
    };
    cx.at("extension", |cx| {
        let Some(any) = extension.typed_config else {
            return Err(cx.at("typed_config", |cx| cx.invalid("is required")));
        };
        cx.at("typed_config", |cx| lower_typed(&any, is_optional, cx))
    })
}

/// Whether a route asks a plugin for its cluster that is optional and not known.
pub(super) fn is_unknown(route: &proto::Route, plugins: &[proto::ClusterSpecifierPlugin], env: &LowerEnv) -> bool {
    let Some(RouteOneof::Route(action)) = &route.action else { return false };
    let has_name = |plugin: &&proto::ClusterSpecifierPlugin, name: &str| {
        plugin.extension.as_ref().is_some_and(|extension| extension.name == name)
    };
    let plugin = match &action.cluster_specifier {
        Some(ClusterSpecifier::ClusterSpecifierPlugin(name)) => plugins.iter().find(|plugin| has_name(plugin, name)),
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(plugin)) => Some(plugin),
        _ => None,
    };
    plugin.is_some_and(|plugin| matches!(lower(plugin.clone(), &mut LowerCx::new(env)), Ok(None)))
}

/// The message of the one that nuncio has.
const MATCHER: &str = "envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier";

fn lower_typed(any: &Any, is_optional: bool, cx: &mut LowerCx<'_>) -> Result<Plugin, Refused> {
    let message = message_name(any);
    if message == MATCHER {
        let MatcherClusterSpecifier { cluster_matcher } = any_as(any, cx)?;
        let matcher = cluster_matcher.ok_or_else(|| cx.at("cluster_matcher", |cx| cx.invalid("is required")))?;
        let matcher = cx.at("cluster_matcher", |cx| ClusterMatcher::lower(matcher, cx))?;
        return Ok(Some(Arc::new(matcher)));
    }
    let known_to_envoy = message.starts_with("envoy.extensions.router.cluster_specifiers.");
    match known_to_envoy {
        true => Err(cx.not_implemented(format_args!("{message} as a cluster specifier plugin"))),
        false if is_optional => Ok(None),
        false => Err(crate::extension::refuse_unknown("cluster specifier plugin", message, [MATCHER], cx)),
    }
}

// === impl ClusterMatcher ===

impl ClusterMatcher {
    fn lower(message: nuncio_proto::xds::r#type::matcher::v3::Matcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let leaf = |any: Any, cx: &mut LowerCx<'_>| {
            let ClusterAction { cluster } = any_as(&any, cx)?;
            if cluster.is_empty() {
                return Err(cx.at("cluster", |cx| cx.invalid("must not be empty")));
            }
            Ok(cx.env.clusters.intern(&cluster))
        };
        RequestMatcher::lower(message, KeepMatching::Allowed, leaf, cx).map(Self)
    }

    /// The cluster of a request; none where nothing matches, or what would is not known yet.
    pub fn find(&self, head: &RequestHead, info: &StreamInfo) -> Option<&ClusterName> {
        self.0.find(head, info)
    }
}
