//! `listener.v3.ListenerFilter`: what looks at a connection before its filter chain is chosen.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{ListenerFilter, LowerCx, Refused};
use nuncio_proto::envoy::config::listener::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use proto::listener_filter_chain_match_predicate::{MatchSet, Rule};

use crate::extension::{self, Category, Discovered, DiscoveredListenerFilter};
use crate::protocol::message_name;

/// The listener filters of a listener, and how long they may take.
#[derive(Clone, Default)]
pub struct ListenerFilters {
    /// In order.
    pub filters: Arc<[ListenerFilterConfig]>,
    /// `listener_filters_timeout`; `None`: for ever.
    pub timeout: Option<Duration>,
    /// A connection that takes longer is served as it is, rather than closed.
    pub continue_on_timeout: bool,
}

/// One listener filter.
#[derive(Clone)]
pub struct ListenerFilterConfig {
    /// The filter.
    pub filter: Arc<dyn ListenerFilter>,
    /// Where it is passed over.
    disabled: Option<Predicate>,
}

/// Envoy's `listener_filters_timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// For which connections a filter is passed over.
#[derive(Clone, Debug)]
enum Predicate {
    Any,
    Not(Box<Predicate>),
    All(Box<[Predicate]>),
    One(Box<[Predicate]>),
    /// The port that the client connected to is among these.
    Port(Range<u32>),
}

// === impl ListenerFilters ===

impl ListenerFilters {
    pub(super) fn lower(
        protos: Vec<proto::ListenerFilter>,
        timeout: Option<Duration>,
        continue_on_timeout: bool,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let filters = cx.each("listener_filters", protos, ListenerFilterConfig::lower)?;
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        // Envoy: zero is no time-out.
        Ok(Self { filters: filters.into(), timeout: (!timeout.is_zero()).then_some(timeout), continue_on_timeout })
    }
}

// === impl ListenerFilterConfig ===

impl ListenerFilterConfig {
    fn lower(proto: proto::ListenerFilter, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use proto::listener_filter::ConfigType;
        let proto::ListenerFilter { name, filter_disabled, config_type } = proto;
        let disabled = cx.opt("filter_disabled", filter_disabled, Predicate::lower);
        let filter = match config_type {
            Some(ConfigType::TypedConfig(any)) => cx.at("typed_config", |cx| lower_typed(&any, cx))?,
            Some(ConfigType::ConfigDiscovery(source)) => cx.at("config_discovery", |cx| {
                let filter = Discovered::lower(&name, Category::ListenerFilter, source, lower_typed, cx)?;
                Ok(Arc::new(DiscoveredListenerFilter(filter)) as Arc<dyn ListenerFilter>)
            })?,
            None => return Err(cx.invalid(format!("listener filter {name:?} has no typed_config"))),
        };
        Ok(Self { filter, disabled: disabled? })
    }

    /// Whether it is passed over for a connection to this port.
    pub fn is_disabled(&self, port: Option<u16>) -> bool {
        self.disabled.as_ref().is_some_and(|disabled| disabled.matches(port))
    }
}

fn lower_typed(any: &Any, cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let message = message_name(any);
    match cx.env.registry.listener_filter(message) {
        Some(row) => (row.lower)(&any.value, cx),
        None => Err(unknown(message, cx)),
    }
}

fn unknown(message: &str, cx: &mut LowerCx<'_>) -> Refused {
    let known = cx.env.registry.listener.iter().copied().flatten().map(|row| row.config);
    extension::refuse_unknown("listener filter", message, known, cx)
}

// === impl Predicate ===

impl Predicate {
    fn lower(proto: proto::ListenerFilterChainMatchPredicate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::ListenerFilterChainMatchPredicate { rule } = proto;
        let set = |name: &str, MatchSet { rules }: MatchSet, cx: &mut LowerCx<'_>| {
            cx.at(name, |cx| cx.each("rules", rules, Self::lower)).map(Vec::into_boxed_slice)
        };
        match rule {
            Some(Rule::OrMatch(rules)) => set("or_match", rules, cx).map(Self::One),
            Some(Rule::AndMatch(rules)) => set("and_match", rules, cx).map(Self::All),
            Some(Rule::NotMatch(rule)) => {
                cx.at("not_match", |cx| Self::lower(*rule, cx)).map(|rule| Self::Not(Box::new(rule)))
            }
            // Envoy: whatever its value.
            Some(Rule::AnyMatch(_)) => Ok(Self::Any),
            Some(Rule::DestinationPortRange(range)) => Ok(Self::Port(
                u32::try_from(range.start).unwrap_or_default()..u32::try_from(range.end).unwrap_or_default(),
            )),
            None => Err(cx.invalid("a rule is required")),
        }
    }

    fn matches(&self, port: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Not(rule) => !rule.matches(port),
            Self::All(rules) => rules.iter().all(|rule| rule.matches(port)),
            Self::One(rules) => rules.iter().any(|rule| rule.matches(port)),
            Self::Port(range) => port.is_some_and(|port| range.contains(&port.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predicate_speaks_of_the_port() {
        let port = |range| Predicate::Port(range);
        let not = |rule| Predicate::Not(Box::new(rule));
        let cases = [
            (Predicate::Any, true, true),
            (port(80..81), true, false),
            (not(port(80..81)), false, true),
            (Predicate::One([port(1..2), port(81..90)].into()), false, true),
            (Predicate::All([port(1..85), not(port(80..81))].into()), false, true),
        ];
        for (predicate, at_80, at_81) in cases {
            assert_eq!((predicate.matches(Some(80)), predicate.matches(Some(81))), (at_80, at_81), "{predicate:?}");
        }
        assert!(!port(0..65536).matches(None));
    }
}
