//! The compiled operators and their evaluation.

mod address;
mod cel;
mod fields;
mod filter_state;
mod grpc;
mod headers;
mod metadata;
mod path;
mod points;
mod server_name;
pub(super) mod table;
mod tls;
mod xfcc;

pub(crate) use grpc::status as grpc_status;

use super::FormatCx;
use super::escape::push_int;
use super::time::TimeFormat;

/// An operator and the `:length` to which its text is cut.
#[derive(Debug)]
pub(super) struct Op {
    operator: Operator,
    max: Option<usize>,
}

/// What an evaluation wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing: the value is missing.
    Missing,
    /// Text, any bytes, not escaped.
    Text,
    /// A JSON value that is not a string: a number, a boolean, an object or a list.
    Json,
}

/// Where the value goes; a length cuts JSON values in text alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Typed,
}

#[derive(Debug)]
enum Operator {
    Time(TimeSource, TimeFormat),
    /// Milliseconds between two points.
    Span(points::Point, points::Point),
    /// `%COMMON_DURATION(...)%`.
    CommonDuration(points::CommonDuration),
    PoolReady,
    /// `%DOWNSTREAM_CX_RTT%`, in milliseconds.
    RoundTrip,
    Count(fields::Count),
    Text(fields::Text),
    Address(address::AddressOp),
    Header(headers::HeaderOp),
    HeadersBytes(headers::Place),
    Path(path::PathOp),
    QueryParam(Box<str>),
    QueryParams(path::Decoding),
    Metadata(metadata::MetadataOp),
    FilterState(filter_state::FilterStateOp),
    UpstreamFilterState(filter_state::FilterStateOp),
    GrpcStatus(grpc::Style),
    ServerName(server_name::ServerNameOp),
    Tls(tls::Side, tls::TlsField),
    Validity(tls::Side, tls::Validity, TimeFormat),
    Cel(cel::CelOp),
    Xfcc(xfcc::XfccOp),
    /// Known since the format was loaded: the host name, an environment variable.
    Constant(Box<str>),
    UniqueId,
    Coalesce(Box<[Op]>),
    /// What this stream, being cleartext, untraced and not QUIC, cannot have.
    Absent,
}

#[derive(Clone, Copy, Debug)]
enum TimeSource {
    Start,
    Emit,
}

impl Op {
    /// Appends the value to `out`; nothing if it is missing.
    pub(super) fn eval(&self, cx: &FormatCx<'_>, form: Form, out: &mut Vec<u8>) -> Written {
        let from = out.len();
        let written = self.operator.eval(cx, form, out);
        let cut = match self.max {
            _ if written == Written::Missing => from,
            Some(max) if written == Written::Text || form == Form::Text => from.saturating_add(max),
            _ => return written,
        };
        out.truncate(cut);
        written
    }
}

impl Operator {
    fn eval(&self, cx: &FormatCx<'_>, form: Form, out: &mut Vec<u8>) -> Written {
        match self {
            Self::Time(source, format) => {
                let time = match source {
                    TimeSource::Start => cx.info.start_wall,
                    TimeSource::Emit => cx.now_wall,
                };
                format.write(time, out);
                Written::Text
            }
            Self::Span(from, to) => number(points::millis(cx, *from, *to), out),
            Self::CommonDuration(d) => number(d.measure(cx), out),
            Self::PoolReady => number(cx.info.upstream.borrow().pool_ready.map(|d| d.as_millis()), out),
            Self::RoundTrip => number(cx.info.connection.round_trip.map(|d| d.as_millis()), out),
            Self::Count(count) => number(Some(count.read(cx)), out),
            Self::Text(field) => text(field.write(cx, out)),
            Self::Tls(side, field) => text(field.write(*side, cx, out)),
            Self::Validity(side, end, format) => text(end.write(*side, format, cx, out)),
            Self::Address(op) => op.write(cx, form, out),
            Self::Header(op) => text(op.write(cx, out)),
            Self::HeadersBytes(place) => number(Some(place.bytes(cx)), out),
            Self::Path(op) => text(op.write(cx, out)),
            Self::QueryParam(name) => text(path::query_param(cx, name, out)),
            Self::QueryParams(decoding) => text(path::query_params(cx, *decoding, out)),
            Self::Metadata(op) => op.write(cx, out),
            Self::FilterState(op) => op.write(&cx.info.filter_state.borrow(), out),
            Self::UpstreamFilterState(op) => op.write(&cx.info.upstream.borrow().filter_state, out),
            Self::GrpcStatus(style) => style.write(cx, out),
            Self::ServerName(op) => text(op.write(cx, out)),
            Self::Cel(op) => op.write(cx, form, out),
            Self::Xfcc(op) => text(op.write(cx, out)),
            Self::Constant(value) => push(out, value.as_bytes()),
            Self::UniqueId => push_uuid((cx.random)(), out),
            Self::Coalesce(ops) => coalesce(ops, cx, form, out),
            Self::Absent => Written::Missing,
        }
    }
}

/// `%DURATION%`.
pub(crate) fn millis_so_far(cx: &FormatCx<'_>) -> u64 {
    points::millis(cx, points::Point::Start, points::Point::Complete).unwrap_or(0)
}

/// The first value that is neither missing nor empty.
fn coalesce(ops: &[Op], cx: &FormatCx<'_>, form: Form, out: &mut Vec<u8>) -> Written {
    let from = out.len();
    for op in ops {
        let written = op.eval(cx, form, out);
        if written != Written::Missing && out.len() > from {
            return written;
        }
    }
    Written::Missing
}

fn push(out: &mut Vec<u8>, text: &[u8]) -> Written {
    out.extend_from_slice(text);
    Written::Text
}

fn text(found: Option<()>) -> Written {
    match found {
        Some(()) => Written::Text,
        None => Written::Missing,
    }
}

fn number(n: Option<impl itoa::Integer>, out: &mut Vec<u8>) -> Written {
    match n {
        Some(n) => {
            push_int(out, n);
            Written::Json
        }
        None => Written::Missing,
    }
}

/// A version 4 UUID of RFC 9562 from 128 random bits.
fn push_uuid(random: u128, out: &mut Vec<u8>) -> Written {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    for i in 0..32 {
        if matches!(i, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        out.push(HEX[(bits >> (124 - 4 * i)) as usize & 15]);
    }
    Written::Text
}
