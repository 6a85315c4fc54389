//! `envoy.filters.network.set_filter_state`: leaves values for the filters and logs of a connection.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_config::format::FormatString;
use nuncio_filter_api::filter_state;
use nuncio_filter_api::{Admission, Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::extensions::filters::common::set_filter_state::v3 as common;
use nuncio_proto::envoy::extensions::filters::network::set_filter_state::v3::Config as Proto;
use nuncio_telemetry::format::{FormatCx, LineFormat};
use nuncio_telemetry::{Address, ConnectionInfo, FilterState, FilterValue, Reach, Sharing, StreamInfo};

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.set_filter_state",
    config: "envoy.extensions.filters.network.set_filter_state.v3.Config",
    lower,
};

/// The names whose values Envoy can make from text, those alone that something here reads.
const KNOWN: [&str; 11] = [
    "envoy.string",
    filter_state::TCP_PROXY_CLUSTER,
    filter_state::TCP_PROXY_IDLE_TIMEOUT,
    filter_state::TCP_PROXY_DISABLE_TUNNELING,
    filter_state::UPSTREAM_SERVER_NAME,
    filter_state::APPLICATION_PROTOCOLS,
    filter_state::UPSTREAM_SUBJECT_ALT_NAMES,
    filter_state::DYNAMIC_HOST,
    filter_state::DYNAMIC_PORT,
    filter_state::ORIGINAL_DST_ADDRESS,
    HASHABLE,
];
/// A text that keeps connections to hosts apart, where it is shared with them.
const HASHABLE: &str = "envoy.hashable_string";

struct SetFilterState {
    on_new_connection: Box<[Value]>,
    on_handshake: Box<[Value]>,
}

/// A value that is left for each connection.
pub(crate) struct Value {
    key: Arc<str>,
    format: LineFormat,
    kind: Kind,
    skips_empty: bool,
    sharing: Sharing,
}

/// What is made of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    HashableText,
    /// An IP address and a port. Envoy: what is none leaves nothing.
    Address,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto { on_new_connection, on_downstream_tls_handshake, on_downstream_data } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let refused = cx.unsupported("on_downstream_data", &on_downstream_data);
    let on_new_connection = cx.each("on_new_connection", on_new_connection, Value::lower);
    let on_handshake = cx.each("on_downstream_tls_handshake", on_downstream_tls_handshake, Value::lower);
    refused?;
    Ok(Arc::new(SetFilterState { on_new_connection: on_new_connection?.into(), on_handshake: on_handshake?.into() }))
}

impl NetworkFilter for SetFilterState {
    fn admit(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> Admission {
        set(&self.on_new_connection, info, cx);
        Admission::Pass
    }

    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        if connection.info.tls.borrow().is_some() {
            set(&self.on_handshake, &connection.info, &cx);
        }
        Box::pin(std::future::ready(Flow::Next(connection)))
    }

    fn precedes_handshake(&self) -> bool {
        self.on_handshake.is_empty()
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

fn set(values: &[Value], info: &Rc<ConnectionInfo>, cx: &NetworkCx) {
    let now = cx.worker.clock.now();
    for value in values {
        let record = StreamInfo::new(info.clone(), info.start, cx.worker.clock.wall(info.start));
        let cx = FormatCx::new(&record, now, cx.worker.clock.wall(now));
        if let Some(text) = value.text(&cx) {
            value.leave(text, &mut info.filter_state.borrow_mut());
        }
    }
}

impl Value {
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    pub(crate) fn lower(proto: common::FilterStateValue, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use common::filter_state_value::{Key, SharedWithUpstream, Value as ValueProto};
        let common::FilterStateValue {
            factory_key,
            // Envoy 1.40 keeps no value from being set again, whatever this says.
            read_only: _,
            shared_with_upstream,
            skip_if_empty,
            key,
            value,
        } = proto;
        let reach = cx.at("shared_with_upstream", |cx| match SharedWithUpstream::try_from(shared_with_upstream) {
            Ok(SharedWithUpstream::None) => Ok(Reach::Own),
            Ok(SharedWithUpstream::Once) => Ok(Reach::Once),
            Ok(SharedWithUpstream::Transitive) => Ok(Reach::Transitive),
            Err(error) => Err(cx.invalid(error.to_string())),
        });
        let Some(Key::ObjectKey(key)) = key else { return Err(cx.invalid("object_key is required")) };
        let factory = if factory_key.is_empty() { &key } else { &factory_key };
        if !KNOWN.contains(&factory.as_str()) {
            return Err(cx.invalid(format!("'{factory}' does not have an object factory")));
        }
        let kind = match factory.as_str() {
            HASHABLE => Kind::HashableText,
            filter_state::ORIGINAL_DST_ADDRESS => Kind::Address,
            _ => Kind::Text,
        };
        let Some(ValueProto::FormatString(format)) = value else { return Err(cx.invalid("a value is required")) };
        let format = cx.at("format_string", |cx| FormatString::lower(format, cx));
        let sharing = Sharing { reach: reach?, parts_pools: kind != Kind::Text };
        Ok(Self { key: key.into(), format: format?.format, kind, skips_empty: skip_if_empty, sharing })
    }

    /// The value for the connection of `cx`, if it is to be left.
    pub(crate) fn text(&self, cx: &FormatCx<'_>) -> Option<FilterValue> {
        let mut text = Vec::new();
        self.format.write(cx, &mut text);
        if text.is_empty() && self.skips_empty {
            return None;
        }
        let text = String::from_utf8_lossy(&text);
        match self.kind {
            Kind::Text | Kind::HashableText => Some(FilterValue::Text(text.into())),
            Kind::Address => text.parse().ok().map(|address| FilterValue::Address(Address::Ip(address))),
        }
    }

    /// Leaves it.
    pub(crate) fn leave(&self, text: FilterValue, state: &mut FilterState) {
        state.share(self.key.to_string(), text, self.sharing);
    }
}
