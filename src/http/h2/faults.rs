//! What the exchanges of one connection find wrong with it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use h2::Reason;
use nuncio_telemetry::stats::catalogue::Http2Stats;

use super::counts::{FloodKind, data_frames};
use super::settings::PREFACE;
use super::weights::{Peer, Weights};
use crate::h1::ExchangeFailure;

/// Shared by the exchanges of a connection and by whoever drives it.
pub struct Faults {
    /// A malformed message ends its stream, and no more than that.
    spares_connection: bool,
    is_broken: Cell<bool>,
    /// Who ends the connection.
    driver: RefCell<Option<Waker>>,
    /// What it was sent, which lets it send more of what it may not send without end.
    pub(super) sent: Sent,
    /// What its streams weigh.
    pub(super) weights: Rc<Weights>,
    stats: Option<Http2Stats>,
}

/// What a host was sent over one connection.
#[derive(Default)]
pub(super) struct Sent {
    /// Requests.
    pub(super) streams: Cell<u64>,
    /// DATA frames.
    pub(super) data: Cell<u64>,
}

impl Sent {
    /// Counts the frames that data of this length goes in, at least.
    pub(super) fn count_data(&self, length: usize) {
        self.data.set(self.data.get() + data_frames(length));
    }
}

impl Faults {
    pub(super) fn new(spares_connection: bool, stats: Option<Http2Stats>) -> Self {
        let (is_broken, driver, sent) = (Cell::new(false), RefCell::default(), Sent::default());
        Self { spares_connection, is_broken, driver, sent, weights: Weights::new(Peer::Host, PREFACE), stats }
    }

    /// Whether a message was so malformed that the connection ends.
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    pub(super) fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_broken.get() {
            return Poll::Ready(());
        }
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A message breaks the rules of HTTP. Envoy: a host that sends such is not spoken to any longer, unless it is told
    /// to put up with it.
    pub(super) fn malformed(&self) -> ExchangeFailure {
        self.count(|stats| stats.rx_messaging_error().inc());
        if !self.spares_connection {
            self.is_broken.set(true);
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
        ExchangeFailure::Protocol("malformed http2 message")
    }

    /// The host sends more than it may of what costs it nothing. The connection ends with that, by who drives it.
    pub(super) fn flooded(&self, flood: FloodKind) {
        self.is_broken.set(true);
        self.count(|stats| flood.count(stats));
    }

    /// What an error means for the stream that it ends, and counts it.
    pub(super) fn failure(&self, error: &h2::Error) -> ExchangeFailure {
        if error.is_reset() && error.is_remote() {
            self.count(|stats| stats.rx_reset().inc());
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_remote() => ExchangeFailure::Refused,
            _ if error.is_reset() && error.is_remote() => ExchangeFailure::Reset,
            // What we found wrong ourselves: the peer's bytes are no HTTP/2.
            _ if error.is_library() => ExchangeFailure::Protocol("http2 protocol error"),
            // Other streams end with the one that broke the connection.
            _ if self.is_broken.get() => ExchangeFailure::Protocol("http2 protocol error"),
            _ if error.is_go_away() && error.is_remote() => ExchangeFailure::GoneAway,
            _ if error.is_go_away() || error.is_io() => ExchangeFailure::Closed,
            Some(Reason::PROTOCOL_ERROR) => ExchangeFailure::Protocol("http2 protocol error"),
            _ => ExchangeFailure::Closed,
        }
    }

    /// The fields of a message are beyond the limits, which ends its stream.
    pub(super) fn beyond(&self, failure: ExchangeFailure) -> ExchangeFailure {
        self.count(|stats| {
            stats.tx_reset().inc();
            match failure {
                ExchangeFailure::HeadersTooLarge => stats.header_list_size_too_large().inc(),
                _ => stats.header_overflow().inc(),
            }
        });
        failure
    }

    fn count(&self, count: impl FnOnce(&Http2Stats)) {
        if let Some(stats) = &self.stats {
            count(stats);
        }
    }
}

/// Whether the h2 crate has reset a stream because it makes no sense. It does so for malformed messages, and where there
/// is more or less data than was declared.
pub(super) fn is_senseless(error: &h2::Error) -> bool {
    error.is_library() && error.is_reset() && error.reason() == Some(Reason::PROTOCOL_ERROR)
}
