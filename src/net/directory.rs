//! Which listener of a worker is for which address: for connections that one listener accepts for others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};

use nuncio_telemetry::Address;

use crate::active::Shared;

/// The listeners of one worker by their addresses, those too that bind none.
#[derive(Default)]
pub struct Directory(RefCell<HashMap<SocketAddr, Weak<Shared>>>);

impl Directory {
    /// `shared` is for its addresses from now on.
    pub(crate) fn enter(&self, shared: &Rc<Shared>) {
        let mut places = self.0.borrow_mut();
        for address in shared.listener.ip_addresses() {
            places.insert(address, Rc::downgrade(shared));
        }
    }

    /// `shared` takes no more connections.
    pub(crate) fn leave(&self, shared: &Rc<Shared>) {
        self.0.borrow_mut().retain(|_, place| !std::ptr::eq(place.as_ptr(), Rc::as_ptr(shared)));
    }

    /// The listener for `address`, or else the one for its port alone.
    pub(crate) fn find(&self, address: &Address) -> Option<Rc<Shared>> {
        let Address::Ip(address) = address else { return None };
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let places = self.0.borrow();
        let find = |address: &SocketAddr| places.get(address).and_then(Weak::upgrade);
        find(address).or_else(|| find(&SocketAddr::new(any, address.port())))
    }
}
