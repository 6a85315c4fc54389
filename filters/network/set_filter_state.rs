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

use crate::listener::original_dst::{ORIGINAL_LOCAL_ADDRESS, ORIGINAL_REMOTE_ADDRESS};

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.set_filter_state",
    config: "envoy.extensions.filters.network.set_filter_state.v3.Config",
    lower,
};

/// The names whose values Envoy can make from text, those alone that something here reads.
const KNOWN: [&str; 14] = [
    "envoy.string",
    TRUTH,
    filter_state::TCP_PROXY_CLUSTER,
    filter_state::TCP_PROXY_IDLE_TIMEOUT,
    filter_state::TCP_PROXY_DISABLE_TUNNELING,
    filter_state::UPSTREAM_SERVER_NAME,
    filter_state::APPLICATION_PROTOCOLS,
    filter_state::UPSTREAM_SUBJECT_ALT_NAMES,
    filter_state::DYNAMIC_HOST,
    filter_state::DYNAMIC_PORT,
    filter_state::ORIGINAL_DST_ADDRESS,
    ORIGINAL_LOCAL_ADDRESS,
    ORIGINAL_REMOTE_ADDRESS,
    HASHABLE,
];
/// A text that keeps connections to hosts apart, where it is shared with them.
const HASHABLE: &str = "envoy.hashable_string";
/// Yes or no, in one of several words.
const TRUTH: &str = "envoy.bool";

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

/// What is made of the text. Envoy: text that is none of its kind leaves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    HashableText,
    /// An IP address and a port.
    Address,
    /// 32 bits.
    Number,
    /// 64 bits, which Envoy writes as text.
    LongNumber,
    /// Yes or no, in any word for it.
    Truth,
    /// Whether it is `true`.
    Flag,
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

impl Kind {
    fn of(factory: &str) -> Self {
        match factory {
            HASHABLE => Self::HashableText,
            TRUTH => Self::Truth,
            filter_state::TCP_PROXY_DISABLE_TUNNELING => Self::Flag,
            filter_state::TCP_PROXY_IDLE_TIMEOUT => Self::LongNumber,
            filter_state::DYNAMIC_PORT => Self::Number,
            filter_state::ORIGINAL_DST_ADDRESS | ORIGINAL_LOCAL_ADDRESS | ORIGINAL_REMOTE_ADDRESS => Self::Address,
            _ => Self::Text,
        }
    }

    /// Whether connections to hosts are for equal values alone.
    fn parts_pools(self) -> bool {
        match self {
            Self::HashableText | Self::Address => true,
            Self::Text | Self::Number | Self::LongNumber | Self::Truth | Self::Flag => false,
        }
    }

    fn make(self, text: &str) -> Option<FilterValue> {
        match self {
            Self::Text | Self::HashableText => Some(FilterValue::Text(text.into())),
            Self::Address => text.parse().ok().map(|address| FilterValue::Address(Address::Ip(address))),
            Self::Number => text.parse().ok().map(FilterValue::Number),
            Self::LongNumber => text.parse().ok().map(|number: u64| FilterValue::Text(number.to_string().into())),
            Self::Truth => truth(text).map(FilterValue::Flag),
            Self::Flag => Some(FilterValue::Flag(text == "true")),
        }
    }
}

/// The words that Envoy's library takes for true and false.
fn truth(text: &str) -> Option<bool> {
    let is = |words: [&str; 5]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match (is(["true", "t", "yes", "y", "1"]), is(["false", "f", "no", "n", "0"])) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
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
        let kind = Kind::of(factory);
        let Some(ValueProto::FormatString(format)) = value else { return Err(cx.invalid("a value is required")) };
        let format = cx.at("format_string", |cx| FormatString::lower(format, cx));
        let sharing = Sharing { reach: reach?, parts_pools: kind.parts_pools() };
        Ok(Self { key: key.into(), format: format?.format, kind, skips_empty: skip_if_empty, sharing })
    }

    /// The value for the connection of `cx`, if it is to be left.
    pub(crate) fn text(&self, cx: &FormatCx<'_>) -> Option<FilterValue> {
        let mut text = Vec::new();
        self.format.write(cx, &mut text);
        if text.is_empty() && self.skips_empty {
            return None;
        }
        self.kind.make(&String::from_utf8_lossy(&text))
    }

    /// Leaves it.
    pub(crate) fn leave(&self, text: FilterValue, state: &mut FilterState) {
        state.share(self.key.to_string(), text, self.sharing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_what_its_reader_knows() {
        let check = |factory: &str, text: &str, expected: Option<&str>| {
            let made = Kind::of(factory).make(text);
            let shown = made.as_ref().and_then(FilterValue::text);
            assert_eq!(shown.as_deref(), expected, "{text} for {factory}");
        };
        check("envoy.string", "x", Some("x"));
        check(TRUTH, "Yes", Some("true"));
        check(TRUTH, "0", Some("false"));
        check(TRUTH, "maybe", None);
        check(filter_state::TCP_PROXY_DISABLE_TUNNELING, "1", Some("false"));
        check(filter_state::TCP_PROXY_IDLE_TIMEOUT, "77", Some("77"));
        check(filter_state::TCP_PROXY_IDLE_TIMEOUT, "x", None);
        check(filter_state::DYNAMIC_PORT, "8080", Some("8080"));
        check(filter_state::DYNAMIC_PORT, "-1", None);
        check(ORIGINAL_LOCAL_ADDRESS, "10.0.0.1:80", Some("10.0.0.1:80"));
        check(ORIGINAL_REMOTE_ADDRESS, "10.0.0.1", None);
    }
}
