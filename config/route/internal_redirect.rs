//! `InternalRedirectPolicy`: redirects of hosts that are followed here, in the client's stead.

use http::{HeaderName, StatusCode};
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::internal_redirect as pb;
use nuncio_proto::google::protobuf::UInt32Value;
use pb::allow_listed_routes::v3::AllowListedRoutesConfig;
use pb::filter_state::v3::FilterStateConfig;
use pb::previous_routes::v3::PreviousRoutesConfig;
use pb::safe_cross_scheme::v3::SafeCrossSchemeConfig;

use crate::protocol::{any_as, message_name};
use crate::value::header_name;

/// What `InternalRedirectPolicy` says.
#[derive(Debug)]
pub struct InternalRedirect {
    /// `max_internal_redirects`, default 1: how many a request may have followed, this one included.
    pub max: u32,
    /// `allow_cross_scheme_redirect`
    pub schemes: Schemes,
    /// `predicates`, all of which must accept the route that the redirect leads to.
    pub predicates: Box<[RedirectPredicate]>,
    /// `response_headers_to_copy`: fields of the request that become those of the redirect.
    pub copied_headers: Box<[HeaderName]>,
    codes: Box<[u32]>,
}

/// Whether a redirect may lead from http to https, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// The scheme must stay.
    Same,
    /// `allow_cross_scheme_redirect`
    Any,
}

/// A predicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// Only to routes of these names.
    AllowListedRoutes(Box<[String]>),
    /// Only once from this route to any other.
    PreviousRoutes,
    /// To https only for clients that came by https.
    SafeCrossScheme,
    /// As the filter state says.
    FilterState {
        /// Name of the value.
        key: Box<str>,
        /// What holds without one.
        if_absent: bool,
    },
}

/// The codes that may be listed; Envoy passes over all others.
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

impl InternalRedirect {
    pub(super) fn lower(message: proto::InternalRedirectPolicy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::InternalRedirectPolicy {
            max_internal_redirects,
            redirect_response_codes,
            predicates,
            allow_cross_scheme_redirect,
            response_headers_to_copy,
        } = message;
        let predicates = cx.each("predicates", predicates, RedirectPredicate::lower);
        let copied = cx.each("response_headers_to_copy", response_headers_to_copy, |name, cx| copied(&name, cx));
        let codes = match redirect_response_codes.is_empty() {
            true => vec![302],
            false => redirect_response_codes.into_iter().filter(|code| REDIRECTS.contains(code)).collect(),
        };
        Ok(Self {
            max: max_internal_redirects.map_or(1, |max| max.value),
            schemes: if allow_cross_scheme_redirect { Schemes::Any } else { Schemes::Same },
            predicates: predicates?.into(),
            copied_headers: copied?.into(),
            codes: codes.into(),
        })
    }

    /// What the older fields say: `internal_redirect_action` and `max_internal_redirects`.
    pub(super) fn of_action(action: i32, max: Option<UInt32Value>) -> Option<Self> {
        use proto::route_action::InternalRedirectAction;
        (action == InternalRedirectAction::HandleInternalRedirect as i32).then(|| Self {
            max: max.map_or(1, |max| max.value),
            schemes: Schemes::Same,
            predicates: Box::default(),
            copied_headers: Box::default(),
            codes: Box::new([302]),
        })
    }

    /// Whether a response with this status is followed.
    pub fn follows(&self, status: StatusCode) -> bool {
        self.codes.contains(&u32::from(status.as_u16()))
    }
}

fn copied(name: &str, cx: &mut LowerCx<'_>) -> Result<HeaderName, Refused> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(cx.invalid("may be neither Host nor a pseudo-header"));
    }
    header_name(name, cx)
}

impl RedirectPredicate {
    fn lower(message: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TypedExtensionConfig { name: _, typed_config } = message;
        cx.at("typed_config", |cx| {
            let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
            match message_name(&any).rsplit('.').next() {
                Some("AllowListedRoutesConfig") => {
                    any_as(&any, cx).map(|AllowListedRoutesConfig { allowed_route_names }| {
                        Self::AllowListedRoutes(allowed_route_names.into())
                    })
                }
                Some("PreviousRoutesConfig") => any_as(&any, cx).map(|PreviousRoutesConfig {}| Self::PreviousRoutes),
                Some("FilterStateConfig") => {
                    any_as(&any, cx).map(|FilterStateConfig { redirect_enabled_key, redirect_if_absent }| {
                        Self::FilterState { key: redirect_enabled_key.into(), if_absent: redirect_if_absent }
                    })
                }
                _ => any_as(&any, cx).map(|SafeCrossSchemeConfig {}| Self::SafeCrossScheme),
            }
        })
    }
}
