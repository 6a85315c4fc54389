use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_telemetry::{FilterState, InternalAddress, Metadata};

use crate::Io;

/// A listener of one worker that connections reach without a socket.
pub trait InternalListener {
    /// Serves a connection to `address`; gives the end of who connects, unless the connection is over by then and was
    /// told nothing.
    fn connect(&self, address: &Arc<InternalAddress>, passed: Passed) -> LocalBoxFuture<'static, Option<Io>>;
}

/// What goes with a connection to an internal listener.
#[derive(Debug, Default)]
pub struct Passed {
    /// Becomes dynamic metadata of the connection.
    pub metadata: Metadata,
    /// Becomes its filter state.
    pub filter_state: FilterState,
}

/// The internal listeners of one worker, by name.
#[derive(Default)]
pub struct InternalListeners(RefCell<HashMap<Arc<str>, Rc<dyn InternalListener>>>);

// === impl InternalListeners ===

impl InternalListeners {
    /// The listener of this name, if it accepts.
    pub fn find(&self, name: &str) -> Option<Rc<dyn InternalListener>> {
        self.0.borrow().get(name).cloned()
    }

    /// From now on `listener` gets the connections to this name.
    pub fn put(&self, name: Arc<str>, listener: Rc<dyn InternalListener>) {
        let before = self.0.borrow_mut().insert(name, listener);
        // Dropped when the table is whole again.
        drop(before);
    }

    /// `listener` accepts no more, unless another one has taken its name.
    pub fn remove(&self, name: &str, listener: &Rc<dyn InternalListener>) {
        let mut listeners = self.0.borrow_mut();
        let is_there = listeners.get(name).is_some_and(|known| Rc::ptr_eq(known, listener));
        let left = if is_there { listeners.remove(name) } else { None };
        drop(listeners);
        drop(left);
    }
}
