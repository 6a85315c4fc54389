//! Rules of policies that say more than addresses and names: conditions, extensions, and what without HTTP is never so.

use std::rc::Rc;
use std::time::SystemTime;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{CelExpressionConfig, TypedExtensionConfig};
use nuncio_proto::envoy::config::rbac::v3 as proto;
use nuncio_proto::envoy::extensions::rbac::matchers::upstream_ip_port::v3::UpstreamIpPortMatcher;
use nuncio_proto::envoy::extensions::rbac::principals::mtls_authenticated::v3::Config as MtlsAuthenticated;
use nuncio_proto::google::api::expr::v1alpha1 as expr;
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::cel::{Activation, Expression};
use nuncio_telemetry::{ConnectionInfo, StreamInfo};
use prost::Name;

use super::Rule;
use crate::extension;
use crate::matcher::{Cidr, MetadataMatcher};
use crate::matching::{lower_deprecated, refuse_options};
use crate::protocol::{any_as, message_name};
use crate::route::check_template;
use crate::tls::PeerName;

/// What a policy asks for beside permissions and principals.
#[derive(Debug)]
pub(super) struct Condition(Expression);

/// A peer whose certificate is believed.
#[derive(Debug)]
pub(super) struct MtlsPeer {
    /// Envoy: it may have this name, or any.
    name: Option<PeerName>,
}

// === impl Condition ===

impl Condition {
    /// Lowers `condition` and what changes its meaning.
    pub(super) fn lower(
        condition: Option<expr::Expr>,
        options: Option<CelExpressionConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        let options = cx.opt("cel_config", options, refuse_options);
        let condition = cx.opt("condition", condition, |condition, cx| lower_deprecated(&condition, cx));
        options?;
        Ok(condition?.map(Self))
    }

    pub(super) fn holds(&self, info: &Rc<ConnectionInfo>) -> bool {
        let info = StreamInfo::of_connection(info.clone(), SystemTime::UNIX_EPOCH);
        self.0.matches(&Activation { info: &info, request: None, response: None, trailers: None })
    }
}

// === impl MtlsPeer ===

impl MtlsPeer {
    fn lower(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let MtlsAuthenticated { san_matcher, any_validated_client_certificate: is_any } = any_as(any, cx)?;
        if san_matcher.is_none() && !is_any {
            return Err(cx.invalid("one of any_validated_client_certificate and san_matcher is required"));
        }
        if san_matcher.is_some() && is_any {
            return Err(cx.invalid("any_validated_client_certificate and san_matcher exclude each other"));
        }
        let name = cx.opt("san_matcher", san_matcher, PeerName::lower)?;
        Ok(Self { name })
    }

    pub(super) fn is(&self, info: &ConnectionInfo) -> bool {
        let tls = info.tls.borrow();
        let Some(peer) = tls.as_ref().filter(|tls| tls.is_validated).and_then(|tls| tls.peer.as_deref()) else {
            return false;
        };
        self.name.as_ref().is_none_or(|name| name.is_of(peer))
    }
}

/// Lowers the extension of a principal.
pub(super) fn principal(config: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Rule, Refused> {
    of_extension("principal of rbac", config, cx, |any, cx| {
        let found = message_name(any);
        (found == MtlsAuthenticated::full_name()).then(|| MtlsPeer::lower(any, cx).map(Rule::Mtls))
    })
}

/// Lowers the extension of a permission. Envoy: the host that is asked about is not chosen yet.
pub(super) fn permission(config: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Rule, Refused> {
    of_extension("matcher of rbac", config, cx, |any, cx| {
        let found = message_name(any);
        (found == UpstreamIpPortMatcher::full_name()).then(|| {
            let UpstreamIpPortMatcher { upstream_ip, upstream_port_range } = any_as(any, cx)?;
            if upstream_ip.is_none() && upstream_port_range.is_none() {
                return Err(cx.invalid("one of upstream_ip and upstream_port_range is required"));
            }
            cx.opt("upstream_ip", upstream_ip, Cidr::lower)?;
            Ok(Rule::Never)
        })
    })
}

/// Lowers a template of paths. Envoy: without HTTP there is no path.
pub(super) fn template(config: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Rule, Refused> {
    check_template(config, cx).map(|()| Rule::Never)
}

/// Envoy: without HTTP there is no route to have metadata, whatever is asked of it.
pub(super) fn sourced(message: proto::SourcedMetadata, cx: &mut LowerCx<'_>) -> Result<Rule, Refused> {
    let proto::SourcedMetadata { metadata_matcher, metadata_source } = message;
    let matcher = metadata_matcher.ok_or_else(|| cx.at("metadata_matcher", |cx| cx.invalid("is required")))?;
    let matcher = cx.at("metadata_matcher", |cx| MetadataMatcher::lower(matcher, cx))?;
    match proto::MetadataSource::try_from(metadata_source) {
        Ok(proto::MetadataSource::Dynamic) => Ok(Rule::Metadata(matcher)),
        Ok(proto::MetadataSource::Route) => Ok(Rule::Never),
        Err(_) => Err(cx.at("metadata_source", |cx| cx.invalid("is not a source of metadata"))),
    }
}

fn of_extension(
    kind: &'static str,
    config: TypedExtensionConfig,
    cx: &mut LowerCx<'_>,
    lower: impl FnOnce(&Any, &mut LowerCx<'_>) -> Option<Result<Rule, Refused>>,
) -> Result<Rule, Refused> {
    let TypedExtensionConfig { name: _, typed_config } = config;
    cx.at("typed_config", |cx| {
        let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
        lower(&any, cx).unwrap_or_else(|| Err(extension::refuse_unknown(kind, message_name(&any), [], cx)))
    })
}
