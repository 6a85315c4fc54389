//! From the options of a field to its rules.

use super::formats::Format;
use super::text::Length;
use super::{AnyRules, Bounds, BytesRules, EnumRules, MapRules, Nanos, NumberRules, RepeatedRules, Rules};
use super::{TextRules, ValueRules};
use nuncio_proto::google::protobuf::{Duration, Timestamp};
use nuncio_proto::validate::field_rules::Type;
use nuncio_proto::validate::{self, FieldRules, KnownRegex, bytes_rules, string_rules};
use regex::Regex;

macro_rules! numbers {
    ($variant:ident, $rules:expr) => {{
        let r = $rules;
        ValueRules::$variant(NumberRules {
            constant: r.r#const.map(Into::into),
            lt: r.lt.map(Into::into),
            lte: r.lte.map(Into::into),
            gt: r.gt.map(Into::into),
            gte: r.gte.map(Into::into),
            is_in: r.r#in.into_iter().map(Into::into).collect(),
            not_in: r.not_in.into_iter().map(Into::into).collect(),
            ignore_empty: r.ignore_empty.unwrap_or(false),
        })
    }};
}

/// The rules of a field; nothing if they ask for nothing.
pub(in crate::load) fn compile(options: FieldRules) -> Option<Rules> {
    let message = options.message.unwrap_or_default();
    let mut rules =
        Rules { required: message.required.unwrap_or(false), skip: message.skip.unwrap_or(false), value: None };
    rules.value = match options.r#type {
        None => None,
        Some(Type::Float(r)) => Some(numbers!(Float, r)),
        Some(Type::Double(r)) => Some(numbers!(Float, r)),
        Some(Type::Int32(r)) => Some(numbers!(Int, r)),
        Some(Type::Int64(r)) => Some(numbers!(Int, r)),
        Some(Type::Uint32(r)) => Some(numbers!(Int, r)),
        Some(Type::Uint64(r)) => Some(numbers!(Int, r)),
        Some(Type::Sint32(r)) => Some(numbers!(Int, r)),
        Some(Type::Sint64(r)) => Some(numbers!(Int, r)),
        Some(Type::Fixed32(r)) => Some(numbers!(Int, r)),
        Some(Type::Fixed64(r)) => Some(numbers!(Int, r)),
        Some(Type::Sfixed32(r)) => Some(numbers!(Int, r)),
        Some(Type::Sfixed64(r)) => Some(numbers!(Int, r)),
        Some(Type::Bool(r)) => r.r#const.map(ValueRules::Bool),
        Some(Type::String(r)) => Some(ValueRules::Text(text(r))),
        Some(Type::Bytes(r)) => Some(ValueRules::Bytes(bytes(r))),
        Some(Type::Enum(r)) => Some(enumeration(r)),
        Some(Type::Repeated(r)) => Some(repeated(*r)),
        Some(Type::Map(r)) => Some(map(*r)),
        Some(Type::Any(r)) => {
            rules.required |= r.required.unwrap_or(false);
            Some(ValueRules::Any(AnyRules { is_in: r.r#in, not_in: r.not_in }))
        }
        Some(Type::Duration(r)) => {
            rules.required |= r.required.unwrap_or(false);
            Some(duration(r))
        }
        Some(Type::Timestamp(r)) => {
            rules.required |= r.required.unwrap_or(false);
            Some(timestamp(&r))
        }
    };
    (rules.required || rules.skip || rules.value.is_some()).then_some(rules)
}

fn text(r: validate::StringRules) -> TextRules {
    let format = r.well_known.and_then(|known| format(known, r.strict.unwrap_or(true)));
    TextRules {
        constant: r.r#const,
        chars: Length { exact: r.len, min: r.min_len, max: r.max_len },
        bytes: Length { exact: r.len_bytes, min: r.min_bytes, max: r.max_bytes },
        pattern: r.pattern.map(|p| Regex::new(&p).expect("a test compiles every pattern of the descriptors")),
        prefix: r.prefix,
        suffix: r.suffix,
        contains: r.contains,
        not_contains: r.not_contains,
        is_in: r.r#in,
        not_in: r.not_in,
        format,
        ignore_empty: r.ignore_empty.unwrap_or(false),
    }
}

fn format(known: string_rules::WellKnown, strict: bool) -> Option<Format> {
    use string_rules::WellKnown;
    let (asked, format) = match known {
        WellKnown::Email(asked) => (asked, Format::Email),
        WellKnown::Hostname(asked) => (asked, Format::Hostname),
        WellKnown::Ip(asked) => (asked, Format::Ip),
        WellKnown::Ipv4(asked) => (asked, Format::Ipv4),
        WellKnown::Ipv6(asked) => (asked, Format::Ipv6),
        WellKnown::Uri(asked) => (asked, Format::Uri),
        WellKnown::UriRef(asked) => (asked, Format::UriRef),
        WellKnown::Address(asked) => (asked, Format::Address),
        WellKnown::Uuid(asked) => (asked, Format::Uuid),
        WellKnown::WellKnownRegex(number) => match KnownRegex::try_from(number) {
            Ok(KnownRegex::HttpHeaderName | KnownRegex::HttpHeaderValue) if !strict => (true, Format::HeaderLoose),
            Ok(KnownRegex::HttpHeaderName) => (true, Format::HeaderName),
            Ok(KnownRegex::HttpHeaderValue) => (true, Format::HeaderValue),
            Ok(KnownRegex::Unknown) | Err(_) => return None,
        },
    };
    asked.then_some(format)
}

fn bytes(r: validate::BytesRules) -> BytesRules {
    let ip_lengths: &[usize] = match r.well_known {
        Some(bytes_rules::WellKnown::Ip(true)) => &[4, 16],
        Some(bytes_rules::WellKnown::Ipv4(true)) => &[4],
        Some(bytes_rules::WellKnown::Ipv6(true)) => &[16],
        _ => &[],
    };
    BytesRules {
        constant: r.r#const,
        length: Length { exact: r.len, min: r.min_len, max: r.max_len },
        pattern: r
            .pattern
            .map(|p| regex::bytes::Regex::new(&p).expect("a test compiles every pattern of the descriptors")),
        prefix: r.prefix,
        suffix: r.suffix,
        contains: r.contains,
        is_in: r.r#in,
        not_in: r.not_in,
        ip_lengths,
        ignore_empty: r.ignore_empty.unwrap_or(false),
    }
}

fn enumeration(r: validate::EnumRules) -> ValueRules {
    ValueRules::Enum(EnumRules {
        constant: r.r#const,
        defined_only: r.defined_only.unwrap_or(false),
        is_in: r.r#in,
        not_in: r.not_in,
    })
}

fn repeated(r: validate::RepeatedRules) -> ValueRules {
    ValueRules::Repeated(RepeatedRules {
        bounds: Bounds { min: r.min_items, max: r.max_items },
        unique: r.unique.unwrap_or(false),
        ignore_empty: r.ignore_empty.unwrap_or(false),
        items: r.items.and_then(|items| compile(*items)).map(Box::new),
    })
}

fn map(r: validate::MapRules) -> ValueRules {
    ValueRules::Map(MapRules {
        bounds: Bounds { min: r.min_pairs, max: r.max_pairs },
        ignore_empty: r.ignore_empty.unwrap_or(false),
        no_sparse: r.no_sparse.unwrap_or(false),
        keys: r.keys.and_then(|keys| compile(*keys)).map(Box::new),
        values: r.values.and_then(|values| compile(*values)).map(Box::new),
    })
}

fn duration(r: validate::DurationRules) -> ValueRules {
    let nanos = |d: Duration| Nanos::of(d.seconds, d.nanos);
    ValueRules::Time(NumberRules {
        constant: r.r#const.map(nanos),
        lt: r.lt.map(nanos),
        lte: r.lte.map(nanos),
        gt: r.gt.map(nanos),
        gte: r.gte.map(nanos),
        is_in: r.r#in.into_iter().map(nanos).collect(),
        not_in: r.not_in.into_iter().map(nanos).collect(),
        ignore_empty: false,
    })
}

/// Rules that compare with now are left out: this crate has no clock, and no field has one (a test looks).
fn timestamp(r: &validate::TimestampRules) -> ValueRules {
    let nanos = |t: Timestamp| Nanos::of(t.seconds, t.nanos);
    ValueRules::Time(NumberRules {
        constant: r.r#const.map(nanos),
        lt: r.lt.map(nanos),
        lte: r.lte.map(nanos),
        gt: r.gt.map(nanos),
        gte: r.gte.map(nanos),
        is_in: Vec::new(),
        not_in: Vec::new(),
        ignore_empty: false,
    })
}

impl Nanos {
    /// Of the two fields that both Duration and Timestamp have.
    pub(in crate::load) fn of(seconds: i64, nanos: i32) -> Self {
        Self(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
    }
}
