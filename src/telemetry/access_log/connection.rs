//! The record of a connection in the access logs of its listener: written once, by whoever knows most of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::AccessLog;
use crate::format::FormatCx;

/// The access logs of a listener, as the connections of one worker share them.
#[derive(Debug)]
pub struct ListenerLogs(Arc<[AccessLog]>);

/// What a connection keeps for the access logs of its listener.
#[derive(Debug)]
pub struct ConnectionLog {
    /// Until the record is written.
    logs: RefCell<Option<Rc<ListenerLogs>>>,
    /// Bytes that the network filters were given.
    pub bytes_received: Cell<u64>,
    /// Bytes that they have sent.
    pub bytes_sent: Cell<u64>,
}

// === impl ListenerLogs ===

impl ListenerLogs {
    /// These, if there are any.
    pub fn new(logs: Arc<[AccessLog]>) -> Option<Rc<Self>> {
        (!logs.is_empty()).then(|| Rc::new(Self(logs)))
    }
}

// === impl ConnectionLog ===

impl ConnectionLog {
    /// For a connection of which these want a record.
    pub fn new(logs: Rc<ListenerLogs>) -> Self {
        Self { logs: RefCell::new(Some(logs)), bytes_received: Cell::new(0), bytes_sent: Cell::new(0) }
    }

    /// Writes the record, unless somebody has.
    pub fn write(&self, cx: &FormatCx<'_>) {
        if let Some(logs) = self.logs.take() {
            logs.0.iter().for_each(|log| log.log(cx));
        }
    }
}
