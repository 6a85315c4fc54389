//! What each action appends to a descriptor.

use std::net::IpAddr;
use std::sync::Arc;

use expr::descriptor::ExprSpecifier;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::rate_limit_descriptors::expr::v3 as expr;
use nuncio_proto::envoy::r#type::matcher::v3::AddressMatcher;
use nuncio_telemetry::cel::{Activation, Expression};
use nuncio_telemetry::format::{Format, Missing};
use prost::Name;
use proto::rate_limit::action as message;
use proto::rate_limit::action::ActionSpecifier;
use proto::rate_limit::action::meta_data::Source as SourceName;

use super::{RateLimitCx, text_at};
use crate::extension::refuse_unknown;
use crate::matcher::{Cidr, Field, HeaderMatcher, MetadataKey, QueryMatcher, first_decoded_value};
use crate::matching::lower_deprecated;
use crate::protocol::{any_as, message_name};

/// `Action`: the key of its entry, and where the value comes from.
#[derive(Debug)]
pub(super) struct Action {
    key: Arc<str>,
    value: ValueOf,
    /// What a missing value does to the descriptor.
    missing: Missed,
}

#[derive(Debug)]
enum ValueOf {
    Fixed(String),
    DestinationCluster,
    Header(Field),
    QueryParameter(Box<[u8]>),
    RemoteAddress,
    Masked {
        v4: u8,
        v6: u8,
    },
    /// The text where all headers match, or where not all do.
    Headers {
        text: String,
        headers: Box<[HeaderMatcher]>,
        expected: bool,
    },
    Query {
        text: String,
        parameters: Box<[QueryMatcher]>,
        expected: bool,
    },
    /// The text where the address is in a range, or in none.
    Address {
        text: Format,
        default: String,
        ranges: Box<[Cidr]>,
        expected: bool,
    },
    Metadata {
        key: MetadataKey,
        default: String,
        source: Source,
    },
    Expression(Expression),
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Dynamic,
    Route,
    Cluster,
    /// That of the host, which has no metadata: it is refused where endpoints are configured.
    Locality,
}

#[derive(Clone, Copy, Debug)]
enum Missed {
    /// There is no descriptor.
    EndsDescriptor,
    /// `skip_if_absent`: it lacks this entry.
    SkipsEntry,
}

/// What an action made of a request.
pub(super) enum Made {
    Entry(Arc<str>, String),
    Skipped,
    Nothing,
}

impl Action {
    /// Lowers the message. Its values are texts as they stand: Envoy takes those of most actions for formats only where
    /// a switch of its runtime says so, which is off unless set.
    pub(super) fn lower(message: proto::rate_limit::Action, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(action) = message.action_specifier else { return Err(cx.invalid("action_specifier is required")) };
        match action {
            ActionSpecifier::SourceCluster(message::SourceCluster {}) => {
                Ok(Self::new("source_cluster", ValueOf::Fixed(cx.env.node.cluster.clone())))
            }
            ActionSpecifier::DestinationCluster(message::DestinationCluster {}) => {
                Ok(Self::new("destination_cluster", ValueOf::DestinationCluster))
            }
            ActionSpecifier::RequestHeaders(action) => cx.at("request_headers", |cx| Self::of_header(action, cx)),
            ActionSpecifier::QueryParameters(action) => {
                let message::QueryParameters { query_parameter_name, descriptor_key, skip_if_absent } = action;
                let value = ValueOf::QueryParameter(query_parameter_name.into_bytes().into());
                Ok(Self::new(&descriptor_key, value).skipped(skip_if_absent))
            }
            ActionSpecifier::RemoteAddress(message::RemoteAddress {}) => {
                Ok(Self::new("remote_address", ValueOf::RemoteAddress))
            }
            ActionSpecifier::MaskedRemoteAddress(action) => {
                cx.at("masked_remote_address", |cx| Self::of_mask(&action, cx))
            }
            ActionSpecifier::GenericKey(action) => {
                let message::GenericKey { descriptor_value, default_value: _, descriptor_key } = action;
                Ok(Self::new(or(&descriptor_key, "generic_key"), ValueOf::Fixed(descriptor_value)))
            }
            ActionSpecifier::HeaderValueMatch(action) => cx.at("header_value_match", |cx| Self::of_headers(action, cx)),
            ActionSpecifier::QueryParameterValueMatch(action) => {
                cx.at("query_parameter_value_match", |cx| Self::of_query(action, cx))
            }
            ActionSpecifier::RemoteAddressMatch(action) => {
                cx.at("remote_address_match", |cx| Self::of_address(action, cx))
            }
            ActionSpecifier::Metadata(action) => cx.at("metadata", |cx| Self::of_metadata(action, cx)),
            ActionSpecifier::DynamicMetadata(action) => cx.at("dynamic_metadata", |cx| {
                let message::DynamicMetaData { descriptor_key, metadata_key, default_value } = action;
                let key = MetadataKey::lower(metadata_key, cx)?;
                let value = ValueOf::Metadata { key, default: default_value, source: Source::Dynamic };
                Ok(Self::new(&descriptor_key, value))
            }),
            ActionSpecifier::Extension(extension) => cx.at("extension", |cx| Self::of_extension(extension, cx)),
        }
    }

    fn new(key: &str, value: ValueOf) -> Self {
        Self { key: key.into(), value, missing: Missed::EndsDescriptor }
    }

    fn skipped(self, skip_if_absent: bool) -> Self {
        Self { missing: if skip_if_absent { Missed::SkipsEntry } else { Missed::EndsDescriptor }, ..self }
    }

    fn of_header(action: message::RequestHeaders, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message::RequestHeaders { header_name, descriptor_key, skip_if_absent } = action;
        let field = cx.at("header_name", |cx| Field::lower(&header_name, cx))?;
        Ok(Self::new(&descriptor_key, ValueOf::Header(field)).skipped(skip_if_absent))
    }

    fn of_mask(action: &message::MaskedRemoteAddress, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message::MaskedRemoteAddress { v4_prefix_mask_len, v6_prefix_mask_len } = action;
        let mut length = |field: &str, given: Option<u32>, max: u8| {
            let given = given.unwrap_or(max.into());
            let length = u8::try_from(given).ok().filter(|length| *length <= max);
            length.ok_or_else(|| cx.at(field, |cx| cx.invalid(format!("must be at most {max}"))))
        };
        let v4 = length("v4_prefix_mask_len", v4_prefix_mask_len.map(|l| l.value), 32);
        let v6 = length("v6_prefix_mask_len", v6_prefix_mask_len.map(|l| l.value), 128);
        Ok(Self::new("masked_remote_address", ValueOf::Masked { v4: v4?, v6: v6? }))
    }

    fn of_headers(action: message::HeaderValueMatch, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message::HeaderValueMatch { descriptor_value, default_value: _, descriptor_key, expect_match, headers } =
            action;
        let headers = cx.each("headers", headers, HeaderMatcher::lower)?.into();
        let expected = expect_match.is_none_or(|expected| expected.value);
        let value = ValueOf::Headers { text: descriptor_value, headers, expected };
        Ok(Self::new(or(&descriptor_key, "header_match"), value))
    }

    fn of_query(action: message::QueryParameterValueMatch, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message::QueryParameterValueMatch {
            descriptor_value,
            default_value: _,
            descriptor_key,
            expect_match,
            query_parameters,
        } = action;
        let parameters = cx.each("query_parameters", query_parameters, QueryMatcher::lower)?.into();
        let expected = expect_match.is_none_or(|expected| expected.value);
        let value = ValueOf::Query { text: descriptor_value, parameters, expected };
        Ok(Self::new(or(&descriptor_key, "query_match"), value))
    }

    fn of_address(action: message::RemoteAddressMatch, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message::RemoteAddressMatch { descriptor_value, descriptor_key, default_value, address_matcher } = action;
        let text = cx.at("descriptor_value", |cx| crate::format::format(&descriptor_value, cx));
        let matcher = cx.at("address_matcher", |cx| {
            let Some(AddressMatcher { ranges, invert_match }) = address_matcher else {
                return Err(cx.invalid("is required"));
            };
            Ok((cx.each("ranges", ranges, Cidr::lower_xds)?, !invert_match))
        });
        let (ranges, expected) = matcher?;
        let value = ValueOf::Address { text: text?, default: default_value, ranges: ranges.into(), expected };
        Ok(Self::new(or(&descriptor_key, "remote_address_match"), value))
    }

    fn of_metadata(action: message::MetaData, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message::MetaData { descriptor_key, metadata_key, default_value, source, skip_if_absent } = action;
        let key = MetadataKey::lower(metadata_key, cx)?;
        let source = match SourceName::try_from(source) {
            Ok(SourceName::Dynamic) | Err(_) => Source::Dynamic,
            Ok(SourceName::RouteEntry) => Source::Route,
            Ok(SourceName::ClusterEntry) => Source::Cluster,
            Ok(SourceName::ClusterLocalityEntry) => Source::Locality,
        };
        let value = ValueOf::Metadata { key, default: default_value, source };
        Ok(Self::new(&descriptor_key, value).skipped(skip_if_absent))
    }

    /// Of the extensions, expressions are known.
    fn of_extension(extension: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TypedExtensionConfig { name: _, typed_config } = extension;
        let any = typed_config.unwrap_or_default();
        cx.at("typed_config", |cx| {
            let known = expr::Descriptor::full_name();
            if message_name(&any) != known {
                return Err(refuse_unknown("rate limit descriptor", message_name(&any), [&*known], cx));
            }
            let expr::Descriptor { descriptor_key, skip_if_error, expr_specifier } = any_as(&any, cx)?;
            let expression = match expr_specifier {
                None => return Err(cx.invalid("expr_specifier is required")),
                Some(ExprSpecifier::Text(text)) => cx.at("text", |cx| {
                    Expression::parse(&text).map_err(|fault| cx.invalid(format!("is no expression: {fault}")))
                })?,
                Some(ExprSpecifier::Parsed(parsed)) => cx.at("parsed", |cx| lower_deprecated(&parsed, cx))?,
            };
            Ok(Self::new(&descriptor_key, ValueOf::Expression(expression)).skipped(skip_if_error))
        })
    }

    /// What it has to say of a request.
    pub(super) fn make(&self, cx: &RateLimitCx<'_>) -> Made {
        match (self.value.find(cx), self.missing) {
            (Some(value), _) => Made::Entry(self.key.clone(), value),
            (None, Missed::SkipsEntry) => Made::Skipped,
            (None, Missed::EndsDescriptor) => Made::Nothing,
        }
    }
}

impl ValueOf {
    fn find(&self, cx: &RateLimitCx<'_>) -> Option<String> {
        let info = cx.format.info;
        match self {
            Self::Fixed(text) => Some(text.clone()),
            Self::Expression(expression) => {
                let mut value = Vec::new();
                expression.write(&Activation::of_request(info, cx.head.view()), &mut value)?;
                Some(String::from_utf8_lossy(&value).into_owned())
            }
            Self::DestinationCluster => Some(cx.cluster.to_owned()),
            Self::Header(field) => {
                let mut found = None;
                field.any_in_request(&cx.head.view(), |value| {
                    found = Some(String::from_utf8_lossy(value).into_owned());
                    true
                });
                found
            }
            Self::QueryParameter(name) => {
                // Envoy: unlike elsewhere parameters are decoded here.
                let value = first_decoded_value(cx.head.path.as_bytes(), name)?;
                Some(String::from_utf8_lossy(&value).into_owned())
            }
            Self::RemoteAddress => Some(info.remote.borrow().ip()?.to_string()),
            Self::Masked { v4, v6 } => Some(masked(info.remote.borrow().ip()?, *v4, *v6)),
            Self::Headers { text, headers, expected } => {
                let matches = headers.iter().all(|header| header.matches_request(cx.head));
                (matches == *expected).then(|| text.clone())
            }
            Self::Query { text, parameters, expected } => {
                let matches = parameters.iter().all(|parameter| parameter.matches_decoded(cx.head.path.as_bytes()));
                (matches == *expected).then(|| text.clone())
            }
            Self::Address { text, default, ranges, expected } => {
                let ip = info.remote.borrow().ip()?;
                if ranges.iter().any(|range| range.contains(ip)) != *expected {
                    return None;
                }
                let mut value = Vec::new();
                text.write(&cx.format, Missing::Empty, &mut value);
                let value =
                    if value.is_empty() { default.clone() } else { String::from_utf8_lossy(&value).into_owned() };
                (!value.is_empty()).then_some(value)
            }
            Self::Metadata { key, default, source } => {
                let found = match source {
                    Source::Dynamic => text_at(key, info.metadata.borrow().as_deref()).map(str::to_owned),
                    Source::Route => text_at(key, cx.entry.metadata().map(|m| &**m)).map(str::to_owned),
                    Source::Locality => None,
                    Source::Cluster => {
                        text_at(key, info.upstream.borrow().cluster_metadata.as_deref()).map(str::to_owned)
                    }
                };
                found.or_else(|| (!default.is_empty()).then(|| default.clone()))
            }
        }
    }
}

/// The address without the bits behind its prefix, and the length of that.
fn masked(ip: IpAddr, v4: u8, v6: u8) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            format!("{}/{v4}", std::net::Ipv4Addr::from(u32::from(ip) & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            format!("{}/{v6}", std::net::Ipv6Addr::from(u128::from(ip) & mask))
        }
    }
}

fn or<'a>(key: &'a str, default: &'a str) -> &'a str {
    if key.is_empty() { default } else { key }
}
