//! Counts the frames of a peer as their bytes go by.
//!
//! The h2 crate bounds memory by itself; what it does not bound is work: frames that cost the peer nothing and carry
//! nothing. Envoy's limits for them are applied here. Only frame headers are looked at, and the trailers of requests,
//! whose pseudo-header fields the h2 crate would drop in silence.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use nuncio_config::protocol::Http2Options;
use nuncio_telemetry::stats::catalogue::Http2Stats;
use tokio::time::Instant;

use super::frames::{Frames, Piece};
use super::settings::PREFACE;
use super::trailers::TrailerScan;
use super::weights::Weights;

/// Length of a frame header (RFC 9113 §4.1).
pub(super) const HEADER: usize = 9;

pub(super) mod kind {
    pub(in crate::h2) const DATA: u8 = 0;
    pub(in crate::h2) const HEADERS: u8 = 1;
    pub(in crate::h2) const PRIORITY: u8 = 2;
    pub(in crate::h2) const RST_STREAM: u8 = 3;
    pub(in crate::h2) const SETTINGS: u8 = 4;
    pub(in crate::h2) const PING: u8 = 6;
    pub(in crate::h2) const GOAWAY: u8 = 7;
    pub(in crate::h2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::h2) const CONTINUATION: u8 = 9;
}

/// Streams whose trailers would be recognised: more than are usual, and few enough to be searched.
const MOST_UNFINISHED: usize = 512;

/// END_STREAM of DATA and HEADERS frames.
pub(super) const END_STREAM: u8 = 1;

/// END_HEADERS of HEADERS and CONTINUATION frames.
const END_HEADERS: u8 = 4;

/// ACK of SETTINGS frames.
const ACK: u8 = 1;

/// Which limit a connection broke; each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FloodKind {
    /// No flood: the h2 crate would call it a PROTOCOL_ERROR (RFC 9113 §4.2 has a code of its own).
    #[error("a frame of a length that its type cannot have")]
    FrameSize,
    /// No flood either: RFC 9113 §8.1 forbids them.
    #[error("pseudo-header fields in trailers")]
    PseudoTrailers,
    /// Nor this: RFC 9113 §3.4 has SETTINGS first.
    #[error("a connection that does not begin with SETTINGS")]
    Preface,
    /// Nor this: RFC 9113 §4.3 lets nothing else come before its end.
    #[error("a header block that does not end")]
    Late,
    #[error("too many frames in a row with an empty payload")]
    Empty,
    #[error("too many PRIORITY frames")]
    Priority,
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdate,
    #[error("too many control frames")]
    Control,
    #[error("too many streams reset")]
    Reset,
}

impl FloodKind {
    /// Counts it, where the statistics of the codec have a counter for it.
    pub(crate) fn count(self, stats: &Http2Stats) {
        match self {
            Self::Empty => stats.inbound_empty_frames_flood().inc(),
            Self::Priority => stats.inbound_priority_frames_flood().inc(),
            Self::WindowUpdate => stats.inbound_window_update_frames_flood().inc(),
            Self::Control => stats.outbound_control_flood().inc(),
            Self::PseudoTrailers => stats.rx_messaging_error().inc(),
            Self::FrameSize | Self::Preface | Self::Late | Self::Reset => {}
        }
    }
}

/// The limits of [`Http2Options`] that concern floods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    empty: u32,
    priority_per_stream: u64,
    window_updates_per_data: u64,
    control_burst: u64,
    reset_burst: u64,
    reset_rate: u64,
}

impl From<&Http2Options> for Limits {
    fn from(o: &Http2Options) -> Self {
        Self {
            empty: o.max_consecutive_empty_frames,
            priority_per_stream: o.max_priority_frames_per_stream.into(),
            window_updates_per_data: o.max_window_updates_per_data_frame.into(),
            control_burst: o.max_outbound_control_frames.into(),
            reset_burst: o.stream_reset_burst,
            reset_rate: o.stream_reset_rate,
        }
    }
}

/// What one peer has sent, and what it may send.
pub(super) struct Counts {
    limits: Limits,
    frames: Frames,
    /// The first frame has come.
    has_begun: bool,
    /// A header block has begun whose frame of END_HEADERS has not.
    is_in_block: bool,
    /// HEADERS frames, and what they were.
    pub(super) streams: u64,
    pub(super) opened: u64,
    pub(super) trailers: u64,
    pub(super) last_stream: u32,
    /// Streams whose requests go on, as far as is known: the first are forgotten where there are too many.
    unfinished: VecDeque<u32>,
    /// The payload that is being received belongs to trailers.
    scan: Option<TrailerScan>,
    empty: u32,
    priority: u64,
    window_updates: u64,
    control: Bucket,
    /// Control frames beyond that, for which data was sent.
    paid: u64,
    resets: Bucket,
    is_of_host: bool,
    /// Who is told of frames of streams.
    weights: Option<Rc<Weights>>,
}

impl Counts {
    /// Of a client.
    pub(super) fn new(limits: Limits, weights: Option<Rc<Weights>>) -> Self {
        Self {
            limits,
            frames: Frames::new(PREFACE),
            has_begun: false,
            is_in_block: false,
            streams: 0,
            opened: 0,
            trailers: 0,
            last_stream: 0,
            unfinished: VecDeque::new(),
            scan: None,
            empty: 0,
            priority: 0,
            window_updates: 0,
            control: Bucket::new(limits.control_burst, limits.reset_rate),
            paid: 0,
            resets: Bucket::new(limits.reset_burst, limits.reset_rate),
            is_of_host: false,
            weights,
        }
    }

    /// Of a host, which has no preface before its first frame, and may end streams as it likes. `streams` is what it was
    /// asked for, and kept by the caller.
    pub(super) fn of_host(limits: Limits, weights: Rc<Weights>) -> Self {
        Self { frames: Frames::new(0), is_of_host: true, ..Self::new(limits, Some(weights)) }
    }

    /// Counts what has come; `data_sent` is the number of DATA frames that the peer was sent.
    pub(super) fn take(&mut self, mut bytes: &[u8], data_sent: u64) -> Result<(), FloodKind> {
        while let Some(next) = self.frames.next(&mut bytes) {
            match next {
                Piece::Header(header) => self.frame(header, data_sent)?,
                Piece::Passed(payload) => {
                    if let Some(scan) = &mut self.scan {
                        check(!scan.finds_pseudo(payload, self.frames.skip == 0), FloodKind::PseudoTrailers)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The number of the header block that has begun and not ended.
    pub(super) fn awaited_block(&self) -> Option<u64> {
        let is_in_frame = self.frames.skip > 0 && matches!(self.frames.header[3], kind::HEADERS | kind::CONTINUATION);
        (self.is_in_block || is_in_frame).then_some(self.streams)
    }

    /// Counts the frame whose header is complete.
    fn frame(&mut self, header: [u8; HEADER], data_sent: u64) -> Result<(), FloodKind> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let length = payload_length([l0, l1, l2]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & u32::MAX >> 1;
        if !self.has_begun {
            self.has_begun = true;
            check(kind == kind::SETTINGS && flags & ACK == 0, FloodKind::Preface)?;
        }
        check(may_have_length(kind, flags, length), FloodKind::FrameSize)?;
        if let Some(weights) = &self.weights {
            weights.received(kind, stream, length);
        }
        match kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION => {
                self.is_in_block = kind != kind::DATA && flags & END_HEADERS == 0;
                match kind {
                    kind::HEADERS => self.headers(flags, stream),
                    kind::CONTINUATION => {
                        self.scan.iter_mut().for_each(|scan| scan.continues(flags & END_HEADERS != 0));
                    }
                    _ => self.scan = None,
                }
                if kind != kind::CONTINUATION && flags & END_STREAM != 0 {
                    self.finished(stream);
                }
                let is_empty = length == 0 && (kind == kind::CONTINUATION || flags & END_STREAM == 0);
                self.empty = if is_empty { self.empty + 1 } else { 0 };
                check(self.empty <= self.limits.empty, FloodKind::Empty)
            }
            kind::PRIORITY => {
                self.priority += 1;
                let limit = self.limits.priority_per_stream.saturating_mul(1 + self.streams);
                check(self.priority <= limit, FloodKind::Priority)
            }
            kind::WINDOW_UPDATE => {
                self.window_updates += 1;
                let earned = self.streams + self.limits.window_updates_per_data.saturating_mul(data_sent);
                check(self.window_updates <= 5 + 2 * earned, FloodKind::WindowUpdate)
            }
            kind::RST_STREAM => {
                self.finished(stream);
                check(self.is_of_host || self.resets.take(), FloodKind::Reset)
            }
            // Envoy: what a host sends beyond its types is not limited.
            kind if self.is_of_host && kind > kind::CONTINUATION => Ok(()),
            // Nor what answers our own SETTINGS and PINGs, however often `connection_keepalive` sends them.
            kind::SETTINGS | kind::PING if self.is_of_host && flags & ACK != 0 => Ok(()),
            // SETTINGS, PING, GOAWAY, and unknown types, which mean nothing to us.
            _ => check(self.control.take() || self.pay(data_sent), FloodKind::Control),
        }
    }

    /// Whether another control frame is paid for by data: a peer that looks for its bandwidth sends a PING for each
    /// piece that it gets.
    fn pay(&mut self, data_sent: u64) -> bool {
        let is_paid = self.paid < data_sent;
        self.paid += u64::from(is_paid);
        is_paid
    }

    /// A client's streams have growing numbers (RFC 9113 §5.1.1): HEADERS of an older one are trailers, if its request
    /// has not ended.
    fn headers(&mut self, flags: u8, stream: u32) {
        self.scan = None;
        if self.is_of_host {
            return;
        }
        self.streams += 1;
        if stream > self.last_stream {
            self.opened += 1;
            self.last_stream = stream;
            if flags & END_STREAM == 0 {
                if self.unfinished.len() == MOST_UNFINISHED {
                    self.unfinished.pop_front();
                }
                self.unfinished.push_back(stream);
            }
        } else if self.unfinished.contains(&stream) {
            self.trailers += 1;
            self.scan = Some(TrailerScan::new(flags));
        }
    }

    /// The request of `stream` has ended.
    fn finished(&mut self, stream: u32) {
        if let Some(at) = self.unfinished.iter().position(|s| *s == stream) {
            self.unfinished.remove(at);
        }
    }
}

/// Bytes behind the header of a frame, of which these are the first three (RFC 9113 §4.1).
pub(super) fn payload_length([high, middle, low]: [u8; 3]) -> usize {
    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
}

/// DATA frames of the size that every peer takes (RFC 9113 §4.2), for data of this length.
pub(super) fn data_frames(length: usize) -> u64 {
    (length.div_ceil(16_384)).max(1) as u64
}

/// RFC 9113 §6.4, §6.5, §6.7, §6.8, §6.9; other types have no fixed length.
fn may_have_length(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        kind::RST_STREAM | kind::WINDOW_UPDATE => length == 4,
        kind::SETTINGS if flags & ACK != 0 => length == 0,
        kind::SETTINGS => length.is_multiple_of(6),
        kind::PING => length == 8,
        kind::GOAWAY => length >= 8,
        _ => true,
    }
}

fn check(ok: bool, flood: FloodKind) -> Result<(), FloodKind> {
    if ok { Ok(()) } else { Err(flood) }
}

/// A token bucket that reads the clock only when it runs low.
struct Bucket {
    tokens: u64,
    burst: u64,
    rate: u64,
    filled: Option<Instant>,
}

impl Bucket {
    fn new(burst: u64, rate: u64) -> Self {
        Self { tokens: burst, burst, rate, filled: None }
    }

    fn take(&mut self) -> bool {
        if self.tokens == 0 {
            self.refill();
        }
        self.tokens > 0 && {
            self.tokens -= 1;
            self.filled.get_or_insert_with(Instant::now);
            true
        }
    }

    fn refill(&mut self) {
        let Some(filled) = self.filled else { return };
        let gained = self.rate.saturating_mul(filled.elapsed().as_millis() as u64) / 1000;
        if gained > 0 {
            self.tokens = gained.min(self.burst);
            self.filled = Some(filled + Duration::from_millis(gained.saturating_mul(1000) / self.rate.max(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut f = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        f.resize(HEADER + payload, 0);
        f
    }

    #[track_caller]
    fn check_flood(frames: &[Vec<u8>], expected: Option<FloodKind>) {
        check_bytes(&[&[frame(4, 0, 0)], frames].concat().concat(), expected);
    }

    #[track_caller]
    fn check_bytes(frames: &[u8], expected: Option<FloodKind>) {
        let mut bytes = vec![0; PREFACE];
        bytes.extend(frames);
        let limits = Limits::from(&Http2Options::default());
        let whole = Counts::new(limits, None).take(&bytes, 0).err();
        assert_eq!(whole, expected);
        let mut counts = Counts::new(limits, None);
        let drip = bytes.iter().find_map(|b| counts.take(&[*b], 0).err());
        assert_eq!(drip, expected, "one byte at a time");
    }

    #[test]
    fn requests_with_bodies_are_no_flood() {
        let request = [frame(1, 4, 40), frame(0, 0, 100), frame(0, 1, 0)];
        check_flood(&vec![request.concat(); 2000], None);
    }

    #[test]
    fn empty_frames_flood_after_the_first() {
        check_flood(&[frame(1, 4, 5), frame(0, 0, 0)], None);
        check_flood(&[frame(1, 4, 5), frame(0, 0, 0), frame(0, 0, 0)], Some(FloodKind::Empty));
        check_flood(&vec![frame(9, 0, 0); 3], Some(FloodKind::Empty));
    }

    #[test]
    fn settings_come_first() {
        check_bytes(&frame(4, 0, 6), None);
        for first in [frame(1, 5, 5), frame(6, 0, 8), frame(4, 1, 0), frame(99, 0, 0)] {
            check_bytes(&first, Some(FloodKind::Preface));
        }
    }

    #[test]
    fn resets_flood_beyond_their_burst() {
        check_flood(&vec![[frame(1, 5, 5), frame(3, 0, 4)].concat(); 1000], None);
        check_flood(&vec![[frame(1, 5, 5), frame(3, 0, 4)].concat(); 1001], Some(FloodKind::Reset));
    }

    #[test]
    fn pings_flood_beyond_their_burst() {
        check_flood(&vec![frame(6, 0, 8); 1001], Some(FloodKind::Control));
    }

    #[test]
    fn frames_of_impossible_lengths_are_refused() {
        check_flood(&[frame(4, 0, 12), frame(4, 1, 0), frame(7, 0, 20)], None);
        for (kind, flags, length) in [(4, 0, 7), (4, 1, 6), (6, 0, 7), (3, 0, 5), (8, 0, 3), (7, 0, 7)] {
            check_flood(&[frame(kind, flags, length)], Some(FloodKind::FrameSize));
        }
    }

    #[test]
    fn priority_and_window_updates_flood_without_streams() {
        check_flood(&vec![frame(2, 0, 5); 101], Some(FloodKind::Priority));
        check_flood(&vec![frame(8, 0, 4); 6], Some(FloodKind::WindowUpdate));
    }
}
