//! Connections to one host that speaks HTTP/1 or HTTP/2: their handshake tells which (`auto_config`).
//!
//! Each is made by the HTTP/1 pool of the pair, which hands it over where HTTP/2 is spoken; all who wait stand in one
//! queue, for whichever connection is first.

use std::rc::Rc;
use std::sync::Arc;

use super::connection::PoolFailure;
use super::http1::{Http1Pool, Lease};
use super::http2::{Http2Lease, Http2Pool};
use super::{Load, PoolPlace};
use crate::host::Host;

/// The connections of one worker to one host at one priority.
pub(crate) struct MixedPool {
    http1: Rc<Http1Pool>,
    http2: Rc<Http2Pool>,
}

/// A connection lent to one request, or leave for one stream.
pub(crate) enum AnyLease {
    Http1(Lease),
    Http2(Http2Lease),
}

// === impl MixedPool ===

impl MixedPool {
    pub(super) fn new(host: Arc<Host>, place: PoolPlace) -> Rc<Self> {
        let companion = place.companion();
        let http1 = Http1Pool::new(host.clone(), place);
        let http2 = Http2Pool::sharing(host, companion, http1.queue().clone());
        http1.hand_over_to(&http2);
        http2.is_fed_by(&http1);
        Rc::new(Self { http1, http2 })
    }

    /// Lends what is there, or else the first that becomes free or is made.
    pub(crate) async fn acquire(&self) -> Result<AnyLease, PoolFailure> {
        if let Some(lease) = self.http2.lend() {
            return Ok(AnyLease::Http2(lease));
        }
        if let Some(lease) = self.http1.lend_idle() {
            return Ok(AnyLease::Http1(lease));
        }
        self.http1.acquire_any().await
    }

    /// Makes a connection for a request that is expected to be the next; false where it does not.
    pub(crate) fn expect(&self) -> bool {
        self.http1.expect()
    }

    /// What it does now.
    pub(super) fn load(&self) -> Load {
        // The queue is of both.
        self.http1.load().and(Load { pending: 0, ..self.http2.load() })
    }

    /// Whether this is the place of one of the pair.
    pub(super) fn is(&self, place: &PoolPlace) -> bool {
        std::ptr::eq(self.http1.place(), place) || std::ptr::eq(self.http2.place(), place)
    }

    /// Whether there are connections.
    pub(super) fn is_open(&self) -> bool {
        self.http1.open() + self.http2.open() > 0
    }
}

// === impl AnyLease ===

impl AnyLease {
    /// What a pool of HTTP/1 alone lends.
    pub(super) fn http1(self) -> Lease {
        match self {
            Self::Http1(lease) => lease,
            Self::Http2(_) => unreachable!("a pool of HTTP/1 lends no streams"),
        }
    }

    /// What a pool of HTTP/2 alone lends.
    pub(super) fn http2(self) -> Http2Lease {
        match self {
            Self::Http1(_) => unreachable!("a pool of HTTP/2 lends streams"),
            Self::Http2(lease) => lease,
        }
    }
}
