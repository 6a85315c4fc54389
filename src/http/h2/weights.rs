//! What the frames of single streams weigh, for the logs that tell it.
//!
//! The bytes of a connection are looked at as they go by, both ways, and added to the records of the streams that are
//! followed. Envoy: HEADERS, CONTINUATION and DATA count with their frame headers and padding, but for the frame header of
//! a CONTINUATION that is received; RST_STREAM counts where it is received, and what manages the connection does not.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use http::{HeaderMap, Method};
use nuncio_telemetry::StreamInfo;

use super::counts::{END_STREAM, HEADER, kind, payload_length};
use super::frames::{Frames, Piece};

/// Streams that have begun on the wire and nowhere else: those of one read, beside what the h2 crate refuses.
const MOST_OPENING: usize = 512;

/// Whom we speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Host,
}

/// What the streams of a connection weigh.
pub(crate) struct Weights {
    peer: Peer,
    /// By their numbers, which grow.
    followed: RefCell<Vec<Entry>>,
    /// What was received of streams that may be followed yet.
    opening: RefCell<VecDeque<(u32, Weight)>>,
    sent: RefCell<Frames>,
}

struct Entry {
    stream: u32,
    info: Rc<StreamInfo>,
    /// Its last frame was sent.
    is_sent: bool,
}

#[derive(Clone, Copy, Default)]
struct Weight {
    wire: u64,
    header: u64,
}

/// A stream that is followed until this is dropped.
pub(crate) struct Followed {
    weights: Rc<Weights>,
    stream: u32,
}

// === impl Weights ===

impl Weights {
    /// Of a connection to `peer`, on which we write `preface` bytes before the first frame.
    pub(crate) fn new(peer: Peer, preface: usize) -> Rc<Self> {
        let sent = RefCell::new(Frames::new(preface));
        Rc::new(Self { peer, followed: RefCell::default(), opening: RefCell::default(), sent })
    }

    /// Adds to `info` what the frames of `stream` weigh, those that came before this included.
    pub(crate) fn follow(self: &Rc<Self>, stream: u32, info: &Rc<StreamInfo>) -> Followed {
        let mut opening = self.opening.borrow_mut();
        while let Some((begun, weight)) = opening.front().copied().filter(|(begun, _)| *begun <= stream) {
            if begun == stream {
                self.add_received(info, weight);
            }
            opening.pop_front();
        }
        let mut followed = self.followed.borrow_mut();
        let at = followed.partition_point(|entry| entry.stream < stream);
        followed.insert(at, Entry { stream, info: info.clone(), is_sent: false });
        Followed { weights: self.clone(), stream }
    }

    /// The header of a frame was received.
    pub(super) fn received(&self, kind: u8, stream: u32, length: usize) {
        let Some(mut weight) = Weight::of(kind, length) else { return };
        if kind == kind::CONTINUATION {
            weight = Weight { wire: length as u64, header: length as u64 };
        }
        if let Some(entry) = find(&mut self.followed.borrow_mut(), stream) {
            return self.add_received(&entry.info, weight);
        }
        if self.peer == Peer::Client {
            self.opens(stream, weight);
        }
    }

    fn opens(&self, stream: u32, weight: Weight) {
        let mut opening = self.opening.borrow_mut();
        if let Some((_, sum)) = opening.iter_mut().rev().find(|(begun, _)| *begun == stream) {
            sum.wire += weight.wire;
            sum.header += weight.header;
        } else if weight.header > 0 {
            if opening.len() == MOST_OPENING {
                opening.pop_front();
            }
            opening.push_back((stream, weight));
        }
    }

    /// So many bytes of `pieces` were sent.
    pub(super) fn sent(&self, pieces: &[IoSlice<'_>], mut sent: usize) {
        let mut frames = self.sent.borrow_mut();
        for piece in pieces {
            let mut bytes = &piece[..sent.min(piece.len())];
            sent -= bytes.len();
            while let Some(next) = frames.next(&mut bytes) {
                if let Piece::Header(header) = next {
                    self.frame_sent(header);
                }
            }
        }
    }

    fn frame_sent(&self, [l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEADER]) {
        let Some(weight) = Weight::of(kind, payload_length([l0, l1, l2])) else { return };
        let mut followed = self.followed.borrow_mut();
        let Some(entry) = find(&mut followed, u32::from_be_bytes([s0, s1, s2, s3])) else { return };
        let is_reset = kind == kind::RST_STREAM;
        entry.is_sent |= is_reset || (kind != kind::CONTINUATION && flags & END_STREAM != 0);
        if is_reset {
            return;
        }
        match self.peer {
            Peer::Client => {
                add(&entry.info.wire_bytes_sent, weight.wire);
                add(&entry.info.header_bytes_sent, weight.header);
            }
            Peer::Host => {
                let mut upstream = entry.info.upstream.borrow_mut();
                upstream.wire_bytes_sent += weight.wire;
                upstream.header_bytes_sent += weight.header;
            }
        }
    }

    fn add_received(&self, info: &StreamInfo, weight: Weight) {
        match self.peer {
            Peer::Client => {
                add(&info.wire_bytes_received, weight.wire);
                add(&info.header_bytes_received, weight.header);
            }
            Peer::Host => {
                let mut upstream = info.upstream.borrow_mut();
                upstream.wire_bytes_received += weight.wire;
                upstream.header_bytes_received += weight.header;
            }
        }
    }
}

fn find(followed: &mut [Entry], stream: u32) -> Option<&mut Entry> {
    let at = followed.binary_search_by_key(&stream, |entry| entry.stream).ok()?;
    followed.get_mut(at)
}

fn add(sum: &Cell<u64>, bytes: u64) {
    sum.set(sum.get() + bytes);
}

// === impl Weight ===

impl Weight {
    /// Of a frame; `None` where it counts for no stream.
    fn of(kind: u8, length: usize) -> Option<Self> {
        let wire = (HEADER + length) as u64;
        match kind {
            kind::HEADERS | kind::CONTINUATION => Some(Self { wire, header: wire }),
            kind::DATA | kind::RST_STREAM => Some(Self { wire, header: 0 }),
            _ => None,
        }
    }
}

// === impl Followed ===

impl Followed {
    /// Lets what was given to the h2 crate last get onto the wire, if it can, so that it is weighed.
    pub(crate) async fn settle(&self) {
        let is_sent = find(&mut self.weights.followed.borrow_mut(), self.stream).is_some_and(|entry| entry.is_sent);
        if !is_sent {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut followed = self.weights.followed.borrow_mut();
        if let Ok(at) = followed.binary_search_by_key(&self.stream, |entry| entry.stream) {
            followed.remove(at);
        }
    }
}

/// Bytes of the names and values of a request's fields, pseudo-header fields included, before HPACK.
pub(crate) fn request_size<T>(request: &http::Request<T>) -> u64 {
    let (uri, protocol) = (request.uri(), request.extensions().get::<h2::ext::Protocol>());
    // RFC 9113 §8.5: CONNECT has no path.
    let has_path = request.method() != Method::CONNECT || protocol.is_some();
    let path = uri.path_and_query().filter(|_| has_path).map(|path| path.as_str());
    let pseudo = [
        (":method", Some(request.method().as_str())),
        // The http crate keeps none without an authority.
        (":scheme", uri.scheme_str().or(path.map(|_| "http"))),
        (":authority", uri.authority().map(|authority| authority.as_str())),
        (":path", path),
        (":protocol", protocol.map(|protocol| protocol.as_str())),
    ];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| value.map(|value| name.len() + value.len()));
    pseudo.sum::<usize>() as u64 + fields_size(request.headers())
}

/// The same of a response.
pub(crate) fn response_size(headers: &HeaderMap) -> u64 {
    ":status200".len() as u64 + fields_size(headers)
}

/// Bytes of the names and values of fields.
pub(crate) fn fields_size(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() as u64
}
