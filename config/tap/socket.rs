//! Traces of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::TransportSocket;
use nuncio_proto::envoy::data::tap::v3 as proto;
use nuncio_proto::envoy::data::tap::v3::body::BodyType;
use nuncio_proto::envoy::data::tap::v3::socket_event::{Closed, EventSelector, Read, Write};
use nuncio_proto::envoy::data::tap::v3::socket_streamed_trace_segment::MessagePiece;
use nuncio_proto::envoy::data::tap::v3::trace_wrapper::Trace;
use nuncio_proto::envoy::extensions::transport_sockets::tap::v3 as config;
use nuncio_proto::google::protobuf::Timestamp;
use nuncio_telemetry::Address;

use super::output::{Format, Output, Sink};
use super::{Origin, TapConfig};
use crate::address::to_proto;

nuncio_telemetry::stats! {
    /// `transport.tap` and what a socket is called there.
    struct TransportTapStats {
        buffered_submit: Counter,
        cx_sampled_out: Counter,
        streamed_submit: Counter,
    }
}

/// Numbers of connections that have none of their own begin above those that have.
const UNNUMBERED: u64 = 1 << 40;

/// `envoy.transport_sockets.tap`: how connections are tapped.
#[derive(Clone, Debug)]
pub struct SocketTap(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Origin,
    /// Whether each event tells of its connection.
    tells_connection: bool,
    stats: TransportTapStats,
    /// Connections so far that had no number.
    unnumbered: AtomicU64,
}

/// A connection that may be tapped.
#[derive(Clone, Copy, Debug)]
pub struct TappedConnection<'a> {
    /// Its number, where it has one.
    pub id: Option<u64>,
    /// Its own end, where it is known.
    pub local: Option<&'a Address>,
    /// The other.
    pub remote: &'a Address,
    /// Decides whether it is among the share that is looked at.
    pub random: u64,
}

/// The trace of one connection. Dropping it does not end it: it is to be told of the end.
#[derive(Debug)]
pub struct SocketTrace {
    tap: SocketTap,
    config: Arc<TapConfig>,
    id: u64,
    connection: proto::Connection,
    sink: Sink,
    /// Bytes of either direction that are told of, or left out.
    seen: u64,
    received: Kept,
    sent: Kept,
    /// Events to be written with others.
    events: Vec<proto::SocketEvent>,
    /// Bytes in them.
    pending: usize,
    is_first: bool,
}

/// What is kept of one direction, of a trace that is written as a whole.
#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    is_truncated: bool,
}

/// A direction.
#[derive(Clone, Copy, Debug)]
enum Way {
    Received,
    Sent,
}

// === impl SocketTap ===

impl SocketTap {
    /// Lowers the message; gives the socket that it wraps as well.
    pub(crate) fn lower(proto: config::Tap, cx: &mut LowerCx<'_>) -> Result<(Self, Option<TransportSocket>), Refused> {
        let config::Tap { common_config, transport_socket, socket_tap_config } = proto;
        let config::SocketTapConfig { set_connection_per_event, stats_prefix } = socket_tap_config.unwrap_or_default();
        let origin = cx.opt("common_config", common_config, Origin::lower)?;
        let origin = origin.ok_or_else(|| cx.invalid("common_config is required"))?;
        let prefix = match stats_prefix.is_empty() {
            true => "transport.tap".to_owned(),
            false => format!("transport.tap.{stats_prefix}"),
        };
        let stats = TransportTapStats::new(&cx.env.stats.scope(&prefix));
        let tells_connection = set_connection_per_event;
        let shared = Shared { origin, tells_connection, stats, unnumbered: AtomicU64::new(UNNUMBERED) };
        Ok((Self(Arc::new(shared)), transport_socket))
    }

    /// Begins the trace of a connection, if it is tapped.
    pub fn begin(&self, connection: TappedConnection<'_>) -> Option<SocketTrace> {
        let Shared { origin, stats, unnumbered, .. } = &*self.0;
        let config = origin.current()?;
        if config.sampling.as_ref().is_some_and(|sampling| !sampling.share.holds(connection.random)) {
            stats.cx_sampled_out().inc();
            return None;
        }
        if !config.predicate.takes_connections() {
            return None;
        }
        let id = connection.id.unwrap_or_else(|| unnumbered.fetch_add(1, Ordering::Relaxed));
        let mut trace = SocketTrace {
            tap: self.clone(),
            id,
            connection: proto::Connection {
                local_address: connection.local.map(to_proto),
                remote_address: Some(to_proto(connection.remote)),
            },
            sink: config.output.sink(id),
            seen: 0,
            received: Kept::default(),
            sent: Kept::default(),
            events: Vec::new(),
            pending: 0,
            is_first: true,
            config,
        };
        if trace.output().streaming {
            trace.announce();
        }
        Some(trace)
    }
}

// === impl SocketTrace ===

impl SocketTrace {
    /// These bytes have come.
    pub fn received(&mut self, bytes: &[u8], now: SystemTime) {
        self.note(Way::Received, &[bytes], bytes.len(), now);
    }

    /// The first `length` of these bytes have gone.
    pub fn sent(&mut self, parts: &[&[u8]], length: usize, now: SystemTime) {
        self.note(Way::Sent, parts, length, now);
    }

    /// The connection is over.
    pub fn closed(&mut self, now: SystemTime) {
        if !self.output().streaming {
            let trace = proto::SocketBufferedTrace {
                trace_id: self.id,
                connection: Some(std::mem::take(&mut self.connection)),
                events: std::mem::take(&mut self.events),
                read_truncated: self.received.is_truncated,
                write_truncated: self.sent.is_truncated,
            };
            self.tap.0.stats.buffered_submit().inc();
            return self.write(Trace::SocketBufferedTrace(trace));
        }
        // Envoy: the number of the end is one more than that of another event would be.
        self.seen += 1;
        let event = self.event(EventSelector::Closed(Closed {}), now);
        match self.output().together {
            None => self.stream(MessagePiece::Event(event)),
            Some(_) => {
                self.events.push(event);
                self.flush();
            }
        }
    }

    fn output(&self) -> &Output {
        &self.config.output
    }

    /// Tells of the connection. Envoy: where bytes are to be text, an event without anything takes the place of that.
    fn announce(&mut self) {
        let piece = match self.output().format {
            Format::JsonOfText => MessagePiece::Event(proto::SocketEvent::default()),
            _ => MessagePiece::Connection(self.connection.clone()),
        };
        self.stream(piece);
    }

    fn note(&mut self, way: Way, parts: &[&[u8]], length: usize, now: SystemTime) {
        if length == 0 {
            return;
        }
        let Some(body) = self.body(way, parts, length) else { return };
        let event = self.event(way.event(body), now);
        self.seen += length as u64;
        if !self.output().streaming {
            return self.events.push(event);
        }
        match self.output().together {
            None => self.stream(MessagePiece::Event(event)),
            Some(least) => {
                self.events.push(event);
                self.pending += length;
                if self.pending >= least {
                    self.flush();
                }
            }
        }
    }

    /// As many of the bytes as are kept. `None` where no more of them are.
    fn body(&mut self, way: Way, parts: &[&[u8]], length: usize) -> Option<proto::Body> {
        let Output { max_received, max_sent, streaming, format, .. } = *self.output();
        let (kept, most) = match way {
            Way::Received => (&mut self.received, max_received),
            Way::Sent => (&mut self.sent, max_sent),
        };
        let mut room = most;
        if !streaming {
            if kept.is_truncated {
                return None;
            }
            room = most.saturating_sub(kept.bytes);
            kept.bytes += length.min(room);
            kept.is_truncated = length > room;
        }
        let mut bytes = Vec::with_capacity(length.min(room));
        for part in parts {
            let wanted = length.min(room) - bytes.len();
            bytes.extend_from_slice(&part[..part.len().min(wanted)]);
        }
        let body_type = match format {
            Format::JsonOfText => BodyType::AsString(String::from_utf8_lossy(&bytes).into_owned()),
            _ => BodyType::AsBytes(bytes),
        };
        Some(proto::Body { body_type: Some(body_type), truncated: length > room })
    }

    /// Only events of traces that are streamed have numbers, and may tell of their connection.
    fn event(&self, what: EventSelector, now: SystemTime) -> proto::SocketEvent {
        let is_streamed = self.output().streaming;
        proto::SocketEvent {
            timestamp: Some(timestamp(now)),
            connection: (is_streamed && self.tap.0.tells_connection).then(|| self.connection.clone()),
            seq_num: if is_streamed { 1 + self.seen } else { 0 },
            event_selector: Some(what),
        }
    }

    fn flush(&mut self) {
        let events = std::mem::take(&mut self.events);
        self.pending = 0;
        self.stream(MessagePiece::Events(proto::SocketEvents { events }));
    }

    fn stream(&mut self, piece: MessagePiece) {
        self.tap.0.stats.streamed_submit().inc();
        let segment = proto::SocketStreamedTraceSegment { trace_id: self.id, message_piece: Some(piece) };
        self.write(Trace::SocketStreamedTraceSegment(segment));
    }

    fn write(&mut self, trace: Trace) {
        let is_first = std::mem::take(&mut self.is_first);
        let sampling = self.config.sampling.as_ref().filter(|_| is_first);
        let configured_sample_rate = sampling.map(|sampling| sampling.told);
        self.sink.write(&proto::TraceWrapper { trace: Some(trace), configured_sample_rate });
    }
}

// === impl Way ===

impl Way {
    fn event(self, body: proto::Body) -> EventSelector {
        match self {
            Self::Received => EventSelector::Read(Read { data: Some(body) }),
            // Envoy tells of an end that went with the last bytes; here an end goes by itself.
            Self::Sent => EventSelector::Write(Write { data: Some(body), end_stream: false }),
        }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Envoy has microseconds.
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_micros() * 1000).unwrap_or_default(),
    }
}
