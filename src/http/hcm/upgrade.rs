//! Which upgrades (and CONNECT) a request may ask for, by the listener's and the route's word.

use std::sync::Arc;

use http::{Method, StatusCode};
use nuncio_config::http_chain::HttpChain;
use nuncio_config::route::{Action, RouteEntry};
use nuncio_filter_api::{LocalReply, RequestHead, RouteRef};

/// One entry of `upgrade_configs`.
pub(crate) struct Upgrade {
    /// Upgrade type, such as `websocket`; compared without case.
    pub(crate) kind: String,
    pub(crate) enabled: bool,
    /// A chain of its own for requests of this type.
    pub(crate) chain: Option<Arc<HttpChain>>,
}

/// `upgrade_configs` of a listener.
#[derive(Default)]
pub(crate) struct Upgrades(pub(crate) Vec<Upgrade>);

/// What a request may go on as.
pub(crate) enum Admitted<'a> {
    Request,
    /// An upgrade, and the chain that its type has for itself.
    Upgrade(Option<&'a Arc<HttpChain>>),
}

impl Upgrades {
    /// Whether `head` may go on, and as what.
    pub(crate) fn check(&self, head: &RequestHead, route: Option<&RouteRef>) -> Result<Admitted<'_>, LocalReply> {
        let kind = match &head.protocol {
            Some(protocol) => &**protocol,
            None if head.method == Method::CONNECT => "CONNECT",
            None => return Ok(Admitted::Request),
        };
        let listener = self.0.iter().find(|u| u.kind.eq_ignore_ascii_case(kind));
        let route = route.and_then(|r| r.downcast::<RouteEntry>()).and_then(|r| match r.action() {
            Action::Forward(forward) => forward.upgrade(kind),
            _ => None,
        });
        let enabled = route.map(|u| u.enabled).or(listener.map(|u| u.enabled)).unwrap_or(false);
        // A CONNECT that no route takes is answered by the router: no route.
        match enabled {
            true => Ok(Admitted::Upgrade(listener.and_then(|u| u.chain.as_ref()))),
            false if kind == "CONNECT" => Ok(Admitted::Request),
            false => Err(LocalReply::new(StatusCode::FORBIDDEN, "upgrade_failed")),
        }
    }
}
