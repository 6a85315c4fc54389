//! Connections of one worker to one host, kept for the next request.

pub(crate) mod connection;
pub(crate) mod http1;
pub(crate) mod http2;
mod metered;
mod queue;
pub(crate) mod tcp;

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::Priority;

use crate::host::Host;
use crate::worker::ClusterShare;
use http1::Http1Pool;
use http2::Http2Pool;

/// The pools of one host, by priority; each is made when it is first needed.
#[derive(Default)]
pub(crate) struct HostPools {
    http1: [OnceCell<Rc<Http1Pool>>; 2],
    http2: [OnceCell<Rc<Http2Pool>>; 2],
}

impl HostPools {
    pub(crate) fn http1(&self, share: &Rc<ClusterShare>, host: &Arc<Host>, priority: Priority) -> &Rc<Http1Pool> {
        self.http1[priority as usize].get_or_init(|| Http1Pool::new(share.clone(), host.clone(), priority))
    }

    pub(crate) fn http2(&self, share: &Rc<ClusterShare>, host: &Arc<Host>, priority: Priority) -> &Rc<Http2Pool> {
        self.http2[priority as usize].get_or_init(|| Http2Pool::new(share.clone(), host.clone(), priority))
    }
}
