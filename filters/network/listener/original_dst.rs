//! `envoy.filters.listener.original_dst`: finds out where a connection was going before it was redirected here.

use std::net::SocketAddr;
use std::sync::Arc;

use nuncio_filter_api::filter_state::{ORIGINAL_LOCAL_ADDRESS, ORIGINAL_REMOTE_ADDRESS};
use nuncio_filter_api::{Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst as Proto;
use nuncio_telemetry::{Address, FilterValue};

const NAME: &str = "envoy.filters.listener.original_dst";

pub(crate) const ROW: ListenerFilterRow =
    ListenerFilterRow { name: NAME, config: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst", lower };

struct OriginalDst;

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let Proto {} = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    Ok(Arc::new(OriginalDst))
}

impl ListenerFilter for OriginalDst {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        let is_internal = matches!(incoming.local, Address::Internal(_));
        let original = incoming.original_destination().map(Address::from);
        if let Some(original) = original.or_else(|| told(incoming).filter(|_| is_internal)) {
            incoming.local = original;
            incoming.is_local_restored = true;
        }
        if let Some(remote) = left(incoming, ORIGINAL_REMOTE_ADDRESS).filter(|_| is_internal) {
            incoming.remote = remote;
        }
        Inspection::Done(Ok(()))
    }
}

/// Where a connection without a socket is to go: as who makes it says in metadata that goes with it, or else in filter
/// state.
fn told(incoming: &Incoming) -> Option<Address> {
    let metadata = || incoming.inspected.as_ref()?.metadata.get(NAME)?.get("local")?.as_str()?.parse().ok();
    metadata().map(|address: SocketAddr| address.into()).or_else(|| left(incoming, ORIGINAL_LOCAL_ADDRESS))
}

fn left(incoming: &Incoming, name: &str) -> Option<Address> {
    match incoming.inspected.as_ref()?.filter_state.get(name)? {
        FilterValue::Address(address) => Some(address.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::io;
    use std::task::{Context, Poll};

    use nuncio_filter_api::IncomingSocket;

    use super::*;

    struct Socket(Option<SocketAddr>);

    impl IncomingSocket for Socket {
        fn original_destination(&self) -> Option<SocketAddr> {
            self.0
        }

        fn poll_peek(&mut self, _: &mut [u8], _: usize, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn consume(&mut self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    fn inspected(original: Option<&str>) -> (String, bool) {
        let address = |text: &str| Address::Ip(text.parse().unwrap());
        let socket = Box::new(Socket(original.map(|text| text.parse().unwrap())));
        let mut incoming = Incoming::new(socket, address("127.0.0.1:5"), address("127.0.0.1:80"));
        assert!(matches!(OriginalDst.inspect(&mut incoming), Inspection::Done(Ok(()))));
        (incoming.local.to_string(), incoming.is_local_restored)
    }

    #[test]
    fn a_redirected_connection_gets_back_where_it_was_going() {
        assert_eq!(inspected(Some("10.1.2.3:443")), ("10.1.2.3:443".to_owned(), true));
        assert_eq!(inspected(None), ("127.0.0.1:80".to_owned(), false));
    }

    #[test]
    fn a_connection_without_a_socket_is_told_where_to_go() {
        let inspected = |local: Address, told: &str| {
            let mut incoming = Incoming::new(Box::new(Socket(None)), Address::internal("c", ""), local);
            let fields = incoming.inspected().metadata.entry(NAME.into()).or_default();
            fields.insert("local".to_owned(), told.into());
            assert!(matches!(OriginalDst.inspect(&mut incoming), Inspection::Done(Ok(()))));
            incoming.local.to_string()
        };
        let internal = || Address::internal("l", "");
        assert_eq!(inspected(internal(), "10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(inspected(internal(), "here"), "envoy://l/");
        let address = Address::Ip(([127, 0, 0, 1], 5).into());
        assert_eq!(inspected(address, "10.0.0.1:80"), "127.0.0.1:5");
    }
}
