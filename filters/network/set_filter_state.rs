//! `envoy.filters.network.set_filter_state`: leaves values for the filters and logs of a connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::LocalBoxFuture;
use nuncio_config::filter_state_value::StateValue;
use nuncio_filter_api::{
    Admission, Connection, Flow, Io, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused, Transport,
    forward_transport, forward_write,
};
use nuncio_proto::envoy::extensions::filters::network::set_filter_state::v3::Config as Proto;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{ConnectionInfo, LifeSpan, StreamInfo};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.set_filter_state",
    config: "envoy.extensions.filters.network.set_filter_state.v3.Config",
    lower,
};

struct SetFilterState {
    on_new_connection: Box<[StateValue]>,
    on_handshake: Box<[StateValue]>,
    on_data: Box<[StateValue]>,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto { on_new_connection, on_downstream_tls_handshake, on_downstream_data } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let on_new_connection = cx.each("on_new_connection", on_new_connection, StateValue::lower);
    let on_handshake = cx.each("on_downstream_tls_handshake", on_downstream_tls_handshake, StateValue::lower);
    let on_data = cx.each("on_downstream_data", on_downstream_data, StateValue::lower);
    Ok(Arc::new(SetFilterState {
        on_new_connection: on_new_connection?.into(),
        on_handshake: on_handshake?.into(),
        on_data: on_data?.into(),
    }))
}

impl NetworkFilter for SetFilterState {
    fn admit(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> Admission {
        set(&self.on_new_connection, info, 0, cx);
        Admission::Pass
    }

    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        if connection.info.tls.borrow().is_some() {
            set(&self.on_handshake, &connection.info, 0, &cx);
        }
        if self.on_data.is_empty() {
            return Box::pin(std::future::ready(Flow::Next(connection)));
        }
        let Connection { io, info } = connection;
        let io = Io::new(OnData { io, info: info.clone(), waiting: Some((self, cx)) });
        Box::pin(std::future::ready(Flow::Next(Connection { io, info })))
    }

    fn precedes_handshake(&self) -> bool {
        self.on_handshake.is_empty()
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

/// A connection whose first bytes are waited for.
struct OnData {
    io: Io,
    info: Rc<ConnectionInfo>,
    /// Until they have come.
    waiting: Option<(Arc<SetFilterState>, NetworkCx)>,
}

impl Transport for OnData {
    forward_transport!(io: reset_on_drop, poll_closed, poll_handshake, moved, ended, deny);

    fn socket(&self) -> Option<&TcpStream> {
        if self.waiting.is_none() { self.io.socket() } else { None }
    }
}

impl AsyncRead for OnData {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        // Envoy: an end is data too, if there is no more of it.
        if let Some((filter, cx)) = self.waiting.take() {
            set(&filter.on_data, &self.info, (buf.filled().len() - before) as u64, &cx);
        }
        Poll::Ready(Ok(()))
    }
}

forward_write!(OnData, io);

/// Leaves values for a connection that has brought so many bytes.
fn set(values: &[StateValue], info: &Rc<ConnectionInfo>, received: u64, cx: &NetworkCx) {
    let now = cx.worker.clock.now();
    for value in values {
        let record = StreamInfo::new(info.clone(), info.start, cx.worker.clock.wall(info.start));
        record.bytes_received.set(received);
        let cx = FormatCx::new(&record, now, cx.worker.clock.wall(now));
        value.leave(&cx, LifeSpan::Connection, || info.filter_state.borrow_mut());
    }
}
