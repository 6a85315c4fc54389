//! What a connection manager makes of a request before any filter sees it, without serving it: for tools.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use nuncio_config::route::RouteTable;
use nuncio_filter_api::{Drain, DrainState, LocalReply, NetworkCx, NetworkFilter, RequestHead, Worker};
use nuncio_telemetry::{ConnectionInfo, StreamInfo};
use tokio::sync::watch;

use super::stream::Origin;
use super::{Hcm, Http, Routes, request_head};

/// The routes that a request is held against.
pub struct Chosen {
    /// Number of the scope, where there are scopes.
    pub scope: Option<usize>,
    /// The table in force.
    pub table: Arc<RouteTable>,
}

/// A connection manager with a connection that nobody made.
pub struct Preview {
    http: Http,
    info: StreamInfo,
}

impl Preview {
    /// A connection to `filter`; `None` if that is no connection manager.
    pub fn new(filter: &Arc<dyn NetworkFilter>, connection: ConnectionInfo, worker: Rc<Worker>) -> Option<Self> {
        let filter: Arc<dyn Any + Send + Sync> = filter.clone();
        let hcm = filter.downcast::<Hcm>().ok()?;
        let connection = Rc::new(connection);
        let info = StreamInfo::new(connection.clone(), connection.start, SystemTime::now());
        let drain = Rc::new(Drain::new(watch::channel(DrainState::Serving).1, worker.clone()));
        let http = Http::new(hcm, connection, NetworkCx { worker, drain, buffer_limit: 0 });
        Some(Self { http, info })
    }

    /// Does to the head what is done before it is routed, or tells how the request is answered instead.
    pub fn admit(&self, head: &mut RequestHead) -> Result<(), LocalReply> {
        request_head::remove_hop_by_hop(head);
        self.http.admit(head, &self.info, Origin { has_host: true, has_scheme: false, is_known: true })
    }

    /// The routes for a request; `None` where no scope is its own.
    pub fn routes(&self, head: &RequestHead) -> Option<Chosen> {
        match &self.http.hcm.routes {
            Routes::Table(table) => Some(Chosen { scope: None, table: table.load_full() }),
            Routes::Scoped(scopes) => {
                scopes.find(head).map(|scope| Chosen { scope: Some(scope.number), table: scope.table })
            }
        }
    }

    /// The record of the stream.
    pub fn info(&self) -> &StreamInfo {
        &self.info
    }
}
