//! `envoy.filters.listener.set_filter_state`: leaves values for whatever looks at a connection later.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use nuncio_config::filter_state_value::StateValue;
use nuncio_filter_api::{Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::listener::set_filter_state::v3::Config as Proto;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{ConnectionInfo, LifeSpan, StreamInfo};
use tokio::time::Instant;

pub(crate) const ROW: ListenerFilterRow = ListenerFilterRow {
    name: "envoy.filters.listener.set_filter_state",
    config: "envoy.extensions.filters.listener.set_filter_state.v3.Config",
    lower,
};

struct SetFilterState(Box<[StateValue]>);

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let Proto { on_accept } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    Ok(Arc::new(SetFilterState(cx.each("on_accept", on_accept, StateValue::lower)?.into())))
}

impl ListenerFilter for SetFilterState {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        // There is no record of a connection yet: what formats may ask of it is known all the same.
        let mut info = ConnectionInfo::new(0, incoming.remote.clone(), incoming.local.clone(), now);
        *info.server_name.get_mut() = incoming.server_name.clone();
        let record = StreamInfo::of_connection(Rc::new(info), wall);
        let state = &mut incoming.inspected().filter_state;
        for value in &self.0 {
            *record.filter_state.borrow_mut() = state.clone();
            value.leave(&FormatCx::new(&record, now, wall), LifeSpan::Connection, || &mut *state);
        }
        Inspection::Done(Ok(()))
    }
}
