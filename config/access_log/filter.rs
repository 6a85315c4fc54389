//! Which records a log wants: `envoy.config.accesslog.v3.AccessLogFilter`.

use nuncio_filter_api::{LowerCx, Refused, RuntimeKey};
use nuncio_proto::envoy::config::accesslog::v3 as proto;
use nuncio_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_telemetry::access_log::{Comparison, ComparisonOp, HeaderPredicate, LogFilter, Sampling, Setting};
use nuncio_telemetry::format::RequestView;
use nuncio_telemetry::{ResponseFlag, ResponseFlags};

use crate::matcher::HeaderMatcher;

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
        FilterSpecifier::MetadataFilter(_) => {
            Err(cx.at("metadata_filter", |cx| cx.not_implemented("filtering by metadata")))
        }
        FilterSpecifier::LogTypeFilter(proto::LogTypeFilter { types, exclude }) => {
            let types = types.iter().filter_map(|t| 1_u32.checked_shl(*t as u32)).fold(0, |set, bit| set | bit);
            Ok(LogFilter::LogType { types, exclude })
        }
        FilterSpecifier::ExtensionFilter(_) => {
            Err(cx.at("extension_filter", |cx| cx.not_implemented("an extension filter")))
        }
    }
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
struct Header(HeaderMatcher);

impl HeaderPredicate for Header {
    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.matches_view(request)
    }
}
