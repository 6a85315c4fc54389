//! Where traces go, and how they are written.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::tap::v3 as proto;
use nuncio_proto::envoy::config::tap::v3::output_sink::{Format as ProtoFormat, OutputSinkType};
use nuncio_proto::envoy::data::tap::v3::TraceWrapper;
use prost::Message;

use super::admin::{Listener, TapEnd};
use crate::load::{Defaults, to_json, to_text};
use crate::protocol::{duration, non_zero};
use crate::refuse_set;

/// Bytes of either direction that a trace keeps, where nothing else is said.
const DEFAULT_LIMIT: u32 = 1024;
/// Envoy: bytes that events written together have at least, however few are asked for.
const LEAST_TOGETHER: u32 = 9;

/// `OutputConfig`
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    to: Destination,
    /// When the tap ends by itself.
    pub(super) end: Option<TapEnd>,
    /// Bytes received that a trace keeps, or each event of one that is streamed.
    pub(super) max_received: usize,
    /// Bytes sent, in the same way.
    pub(super) max_sent: usize,
    /// Whether each event is written as it comes.
    pub(super) streaming: bool,
    /// Bytes of events that are written together, where they are.
    pub(super) together: Option<usize>,
}

#[derive(Clone, Debug)]
enum Destination {
    /// Files, whose names begin so, up to the number of a connection.
    Files(String),
    /// Whoever listens at the admin interface.
    Listener(Listener),
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    /// As JSON, with bytes as if they were text.
    JsonOfText,
    Binary,
    /// In binary, each after its length.
    Delimited,
    Text,
}

/// Where the messages of one trace go.
#[derive(Debug)]
pub(super) struct Sink {
    format: Format,
    to: Place,
}

#[derive(Debug)]
enum Place {
    /// A file, once it is open.
    File(PathBuf, Option<File>),
    Listener(Listener),
}

// === impl Output ===

impl Output {
    pub(super) fn lower(
        proto: proto::OutputConfig,
        listener: Option<&Listener>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::OutputConfig {
            sinks,
            max_buffered_rx_bytes,
            max_buffered_tx_bytes,
            streaming,
            min_streamed_sent_bytes,
        } = proto;
        let sinks = cx.each("sinks", sinks, |sink, cx| lower_sink(sink, listener, cx))?;
        let Ok([(format, to, end)]) = <[_; 1]>::try_from(sinks) else {
            return Err(cx.at("sinks", |cx| cx.invalid("there must be exactly one")));
        };
        let bytes = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Ok(Self {
            format,
            to,
            end,
            max_received: bytes(max_buffered_rx_bytes.map_or(DEFAULT_LIMIT, |v| v.value)),
            max_sent: bytes(max_buffered_tx_bytes.map_or(DEFAULT_LIMIT, |v| v.value)),
            streaming,
            together: min_streamed_sent_bytes.map(|v| bytes(v.value.max(LEAST_TOGETHER))),
        })
    }

    /// Where the messages of the trace numbered so go.
    pub(super) fn sink(&self, id: u64) -> Sink {
        let format = self.format;
        let to = match &self.to {
            Destination::Files(prefix) => Place::File(format!("{prefix}_{id}{}", format.ending()).into(), None),
            Destination::Listener(listener) => Place::Listener(listener.clone()),
        };
        Sink { format, to }
    }
}

fn lower_sink(
    proto: proto::OutputSink,
    listener: Option<&Listener>,
    cx: &mut LowerCx<'_>,
) -> Result<(Format, Destination, Option<TapEnd>), Refused> {
    let proto::OutputSink { format, output_sink_type } = proto;
    let format = match ProtoFormat::try_from(format) {
        Ok(ProtoFormat::JsonBodyAsBytes) => Format::Json,
        Ok(ProtoFormat::JsonBodyAsString) => Format::JsonOfText,
        Ok(ProtoFormat::ProtoBinary) => Format::Binary,
        Ok(ProtoFormat::ProtoBinaryLengthDelimited) => Format::Delimited,
        Ok(ProtoFormat::ProtoText) => Format::Text,
        Err(_) => return Err(cx.at("format", |cx| cx.invalid("is unknown"))),
    };
    let (to, end) = match output_sink_type {
        Some(OutputSinkType::FilePerTap(proto::FilePerTapSink { path_prefix })) => {
            (Destination::Files(path_prefix), None)
        }
        Some(OutputSinkType::StreamingAdmin(proto::StreamingAdminSink {})) => {
            (cx.at("streaming_admin", |cx| to_listener(format, listener, cx))?, None)
        }
        Some(OutputSinkType::BufferedAdmin(proto::BufferedAdminSink { max_traces, timeout })) => {
            cx.at("buffered_admin", |cx| {
                let to = to_listener(format, listener, cx)?;
                let timeout = cx.opt("timeout", timeout, duration)?.and_then(non_zero);
                Ok((to, Some(TapEnd { after: max_traces, timeout })))
            })?
        }
        Some(OutputSinkType::StreamingGrpc(streaming_grpc)) => {
            let streaming_grpc = Some(streaming_grpc);
            return Err(refuse_set!(cx; streaming_grpc).err().unwrap_or(Refused));
        }
        Some(OutputSinkType::CustomSink(custom_sink)) => {
            let custom_sink = Some(custom_sink);
            return Err(refuse_set!(cx; custom_sink).err().unwrap_or(Refused));
        }
        None => return Err(cx.invalid("a sink is required")),
    };
    Ok((format, to, end))
}

/// Whoever listens takes JSON. Envoy 1.40 ends itself where it is anything else.
fn to_listener(format: Format, listener: Option<&Listener>, cx: &mut LowerCx<'_>) -> Result<Destination, Refused> {
    let Some(listener) = listener else {
        return Err(cx.invalid("is for taps that the admin interface configures"));
    };
    match format {
        Format::Json | Format::JsonOfText => Ok(Destination::Listener(listener.clone())),
        Format::Binary | Format::Delimited | Format::Text => Err(cx.invalid("takes no format but JSON")),
    }
}

// === impl Format ===

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Self::Json | Self::JsonOfText => ".json",
            Self::Binary => ".pb",
            Self::Delimited => ".pb_length_delimited",
            Self::Text => ".pb_text",
        }
    }

    fn print(self, trace: &TraceWrapper) -> Vec<u8> {
        match self {
            Self::Json | Self::JsonOfText => (to_json(trace, Defaults::Print) + "\n").into(),
            Self::Binary => trace.encode_to_vec(),
            Self::Delimited => trace.encode_length_delimited_to_vec(),
            Self::Text => to_text(trace).into(),
        }
    }
}

// === impl Sink ===

impl Sink {
    /// Writes a message. As in Envoy the worker does so itself: a tap is for looking, not for the day.
    pub(super) fn write(&mut self, trace: &TraceWrapper) {
        let bytes = self.format.print(trace);
        match &mut self.to {
            Place::Listener(listener) => listener.tell(bytes),
            Place::File(path, file) => {
                let opened = match file {
                    Some(file) => Ok(file),
                    None => File::create(&*path).map(|opened| file.insert(opened)),
                };
                if let Err(error) = opened.and_then(|file| file.write_all(&bytes)) {
                    tracing::warn!(path = %path.display(), %error, "trace of a tap is not written");
                }
            }
        }
    }
}
