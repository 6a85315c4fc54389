//! Which records a log wants: `envoy.config.accesslog.v3.AccessLogFilter`.

use http::HeaderMap;
use nuncio_filter_api::{LowerCx, Refused, RuntimeKey};
use nuncio_proto::envoy::config::accesslog::v3 as proto;
use nuncio_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use nuncio_proto::envoy::r#type::matcher::v3::MetadataMatcher;
use nuncio_proto::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use nuncio_proto::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_telemetry::access_log::{
    Comparison, ComparisonOp, HeaderPredicate, LogFilter, MetadataPredicate, Sampling, Setting,
};
use nuncio_telemetry::cel::Expression;
use nuncio_telemetry::format::RequestView;
use nuncio_telemetry::{ResponseFlag, ResponseFlags};
use prost::Name;

use crate::extension;
use crate::matcher::{HeaderMatcher, ValueMatcher};
use crate::matching::refuse_options;
use crate::protocol::{any_as, message_name};

/// Lowers a filter. Loading bounds how deep filters nest.
pub fn lower(message: proto::AccessLogFilter, cx: &mut LowerCx<'_>) -> Result<LogFilter, Refused> {
    let Some(specifier) = message.filter_specifier else { return Err(cx.invalid("a filter is required")) };
    match specifier {
        FilterSpecifier::StatusCodeFilter(f) => {
            cx.at("status_code_filter", |cx| comparison(f.comparison, cx)).map(LogFilter::StatusCode)
        }
        FilterSpecifier::DurationFilter(f) => {
            cx.at("duration_filter", |cx| comparison(f.comparison, cx)).map(LogFilter::Duration)
        }
        FilterSpecifier::NotHealthCheckFilter(proto::NotHealthCheckFilter {}) => Ok(LogFilter::NotHealthCheck),
        FilterSpecifier::TraceableFilter(proto::TraceableFilter {}) => {
            Err(cx.at("traceable_filter", |cx| cx.not_implemented("tracing")))
        }
        FilterSpecifier::RuntimeFilter(f) => Ok(LogFilter::Runtime(sampling(f, cx))),
        FilterSpecifier::AndFilter(f) => {
            cx.at("and_filter", |cx| cx.each("filters", f.filters, lower)).map(LogFilter::And)
        }
        FilterSpecifier::OrFilter(f) => {
            cx.at("or_filter", |cx| cx.each("filters", f.filters, lower)).map(LogFilter::Or)
        }
        FilterSpecifier::HeaderFilter(f) => cx.at("header_filter", |cx| {
            let header = f.header.ok_or_else(|| cx.invalid("header is required"))?;
            let matcher = cx.at("header", |cx| HeaderMatcher::lower(header, cx))?;
            Ok(LogFilter::Header(Box::new(Header(matcher))))
        }),
        FilterSpecifier::ResponseFlagFilter(f) => {
            cx.at("response_flag_filter", |cx| flags(f, cx)).map(LogFilter::ResponseFlag)
        }
        FilterSpecifier::GrpcStatusFilter(proto::GrpcStatusFilter { statuses, exclude }) => {
            let statuses = statuses.iter().filter_map(|s| 1_u32.checked_shl(*s as u32)).fold(0, |set, bit| set | bit);
            Ok(LogFilter::GrpcStatus { statuses, exclude })
        }
        FilterSpecifier::MetadataFilter(f) => cx.at("metadata_filter", |cx| metadata(f, cx)),
        FilterSpecifier::LogTypeFilter(proto::LogTypeFilter { types, exclude }) => {
            let types = types.iter().filter_map(|t| 1_u32.checked_shl(*t as u32)).fold(0, |set, bit| set | bit);
            Ok(LogFilter::LogType { types, exclude })
        }
        FilterSpecifier::ExtensionFilter(f) => cx.at("extension_filter", |cx| extension_filter(f, cx)),
    }
}

/// Envoy: whether the matcher is inverted is of no account here, and without one no value is there.
fn metadata(message: proto::MetadataFilter, cx: &mut LowerCx<'_>) -> Result<LogFilter, Refused> {
    let proto::MetadataFilter { matcher, match_if_key_not_found } = message;
    let if_missing = match_if_key_not_found.is_none_or(|value| value.value);
    let Some(matcher) = matcher else {
        return Ok(if if_missing { LogFilter::And(vec![]) } else { LogFilter::Or(vec![]) });
    };
    cx.at("matcher", |cx| {
        let MetadataMatcher { filter, path, value, invert: _ } = matcher;
        let path = cx.each("path", path, |PathSegment { segment }, cx| match segment {
            Some(Segment::Key(key)) => Ok(key),
            None => Err(cx.invalid("segment is required")),
        });
        let value = ValueMatcher::lower_required("value", value, cx)?;
        Ok(LogFilter::Metadata { namespace: filter, path: path?, matcher: Box::new(Value(value)), if_missing })
    })
}

fn extension_filter(message: proto::ExtensionFilter, cx: &mut LowerCx<'_>) -> Result<LogFilter, Refused> {
    let proto::ExtensionFilter { name: _, config_type } = message;
    let Some(proto::extension_filter::ConfigType::TypedConfig(any)) = config_type else {
        return Err(cx.at("typed_config", |cx| cx.invalid("is required")));
    };
    cx.at("typed_config", |cx| {
        let found = message_name(&any);
        if found != ExpressionFilter::full_name() {
            let known = [ExpressionFilter::full_name()];
            return Err(extension::refuse_unknown(
                "filter of access logs",
                found,
                known.iter().map(String::as_str),
                cx,
            ));
        }
        let ExpressionFilter { expression, cel_config } = any_as(&any, cx)?;
        let refused = cx.opt("cel_config", cel_config, refuse_options);
        let parsed = Expression::parse(&expression);
        let parsed = parsed.map_err(|fault| cx.at("expression", |cx| cx.invalid(fault.to_string())));
        refused?;
        parsed.map(LogFilter::Expression)
    })
}

fn comparison(message: Option<proto::ComparisonFilter>, cx: &mut LowerCx<'_>) -> Result<Comparison, Refused> {
    let Some(proto::ComparisonFilter { op, value }) = message else {
        return Err(cx.at("comparison", |cx| cx.invalid("is required")));
    };
    let op = match op {
        0 => ComparisonOp::Equal,
        1 => ComparisonOp::AtLeast,
        2 => ComparisonOp::AtMost,
        _ => ComparisonOp::NotEqual,
    };
    let Some(core::RuntimeUInt32 { default_value, runtime_key }) = value else {
        return Err(cx.at("comparison", |cx| cx.at("value", |cx| cx.invalid("is required"))));
    };
    Ok(Comparison { op, value: default_value, setting: setting(&runtime_key, cx) })
}

/// The share is `percent_sampled`, none if it is absent, unless the runtime has another.
fn sampling(message: proto::RuntimeFilter, cx: &LowerCx<'_>) -> Sampling {
    let proto::RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = message;
    let FractionalPercent { numerator, denominator } = percent_sampled.unwrap_or_default();
    let denominator = match denominator {
        0 => 100,
        1 => 10_000,
        _ => 1_000_000,
    };
    Sampling { numerator, denominator, setting: setting(&runtime_key, cx), independent: use_independent_randomness }
}

fn flags(message: proto::ResponseFlagFilter, cx: &mut LowerCx<'_>) -> Result<ResponseFlags, Refused> {
    let flags = cx.each("flags", message.flags, |name, cx| {
        let found = ResponseFlag::ALL.iter().find(|f| f.short() == name);
        found.copied().ok_or_else(|| cx.invalid(format!("{name:?} is not a response flag")))
    })?;
    Ok(flags.into_iter().fold(ResponseFlags::NONE, |set, flag| set.union(flag.into())))
}

fn setting(key: &str, cx: &LowerCx<'_>) -> Option<Box<dyn Setting>> {
    (!key.is_empty()).then(|| Box::new(Key(cx.runtime(key))) as Box<dyn Setting>)
}

#[derive(Debug)]
struct Key(RuntimeKey);

impl Setting for Key {
    fn integer(&self) -> Option<u64> {
        self.0.set_integer()
    }

    fn share(&self) -> Option<(u32, u32)> {
        self.0.set_share()
    }
}

#[derive(Debug)]
struct Value(ValueMatcher);

impl MetadataPredicate for Value {
    fn matches(&self, value: &serde_json::Value) -> bool {
        self.0.matches(Some(value))
    }
}

#[derive(Debug)]
struct Header(HeaderMatcher);

impl HeaderPredicate for Header {
    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.matches_view(request)
    }

    fn matches_nothing(&self) -> bool {
        self.0.matches_trailers(&HeaderMap::new())
    }
}
