//! `envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue`: what filters leave for each other, as text that
//! becomes what its reader knows.

use std::ops::DerefMut;
use std::sync::Arc;

use nuncio_filter_api::filter_state::{self, ORIGINAL_LOCAL_ADDRESS, ORIGINAL_REMOTE_ADDRESS};
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::common::set_filter_state::v3 as common;
use nuncio_telemetry::format::{FormatCx, LineFormat};
use nuncio_telemetry::{Address, FilterState, FilterValue, LifeSpan, Reach, Sharing};

use crate::format::FormatString;

/// A value that is left for each connection or request.
pub struct StateValue {
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

/// A text that keeps connections to hosts apart, where it is shared with them.
const HASHABLE: &str = "envoy.hashable_string";
/// Yes or no, in one of several words.
const TRUTH: &str = "envoy.bool";

// === impl Kind ===

impl Kind {
    /// What Envoy makes of text for a name, where something here reads it.
    fn of(factory: &str) -> Option<Self> {
        Some(match factory {
            HASHABLE => Self::HashableText,
            TRUTH => Self::Truth,
            filter_state::TCP_PROXY_DISABLE_TUNNELING => Self::Flag,
            filter_state::TCP_PROXY_IDLE_TIMEOUT => Self::LongNumber,
            filter_state::DYNAMIC_PORT => Self::Number,
            filter_state::ORIGINAL_DST_ADDRESS | ORIGINAL_LOCAL_ADDRESS | ORIGINAL_REMOTE_ADDRESS => Self::Address,
            "envoy.string"
            | filter_state::TCP_PROXY_CLUSTER
            | filter_state::UPSTREAM_SERVER_NAME
            | filter_state::APPLICATION_PROTOCOLS
            | filter_state::UPSTREAM_SUBJECT_ALT_NAMES
            | filter_state::DYNAMIC_HOST => Self::Text,
            _ => return None,
        })
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

// === impl StateValue ===

impl StateValue {
    /// Lowers the message.
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    pub fn lower(proto: common::FilterStateValue, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
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
        let kind = Kind::of(factory);
        let kind = kind.ok_or_else(|| cx.invalid(format!("'{factory}' does not have an object factory")))?;
        let Some(ValueProto::FormatString(format)) = value else { return Err(cx.invalid("a value is required")) };
        let format = cx.at("format_string", |cx| FormatString::lower(format, cx));
        let sharing = Sharing { reach: reach?, parts_pools: kind.parts_pools() };
        Ok(Self { key: key.into(), format: format?.format, kind, skips_empty: skip_if_empty, sharing })
    }

    /// Leaves what it is for the stream of `cx`, for as long as that. The state may be what `cx` looks at: it is asked
    /// for after that.
    pub fn leave<S>(&self, cx: &FormatCx<'_>, life_span: LifeSpan, state: impl FnOnce() -> S)
    where
        S: DerefMut<Target = FilterState>,
    {
        let mut text = Vec::new();
        self.format.write(cx, &mut text);
        if text.is_empty() && self.skips_empty {
            return;
        }
        if let Some(value) = self.kind.make(&String::from_utf8_lossy(&text)) {
            state().share(self.key.to_string(), value, life_span, self.sharing);
        }
    }

    /// Whether connections to hosts are given it too.
    pub fn is_shared(&self) -> bool {
        self.sharing.reach != Reach::Own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_what_its_reader_knows() {
        let check = |factory: &str, text: &str, expected: Option<&str>| {
            let made = Kind::of(factory).expect("it is known").make(text);
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
