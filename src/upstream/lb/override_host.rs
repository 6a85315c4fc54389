//! Hosts that requests name themselves, instead of the one that a balancer would choose.

use std::cell::Cell;
use std::rc::Rc;

use nuncio_config::cluster::{ClusterConfig, OverrideHostLb};
use nuncio_filter_api::RequestHead;
use nuncio_telemetry::{FilterValue, LifeSpan, StreamInfo, WantedHost};
use serde_json::Value;

use super::PickContext;
use crate::host_set::HostSet;

/// The hosts that one request names; each is chosen once.
struct NamedHosts {
    addresses: Box<[Box<str>]>,
    next: Cell<usize>,
}

/// The name in the filter state, which is Envoy's.
const STATE: &str = "envoy.extensions.load_balancing_policies.override_host.filter_state";

/// The place in `set` of the host that a filter wants. `Err`: no host rather than another.
pub(crate) fn wanted(wanted: &WantedHost, config: &ClusterConfig, set: &HostSet) -> Result<Option<usize>, NoHost> {
    let place = set.find(&wanted.address).filter(|place| {
        let status = set.hosts[*place].status();
        config.common_lb.override_statuses.has(status)
    });
    match place {
        None if wanted.is_strict => Err(NoHost),
        place => Ok(place),
    }
}

/// The host that a request insists on is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoHost;

/// The place in `set` of the next host that a request names, if there is one. Envoy: whatever its health.
pub(super) fn named(config: &OverrideHostLb, cx: &PickContext<'_>, set: &HostSet) -> Option<usize> {
    let (head, info) = (cx.head?, cx.info?);
    let named = named_hosts(config, head, info);
    while let Some(address) = named.addresses.get(named.next.get()) {
        named.next.set(named.next.get() + 1);
        if let Some(place) = set.find(address) {
            return Some(place);
        }
    }
    None
}

/// Read once, and kept for the attempts that follow.
fn named_hosts(config: &OverrideHostLb, head: &RequestHead, info: &StreamInfo) -> Rc<NamedHosts> {
    if let Some(FilterValue::Object(kept)) = info.filter_state.borrow().get(STATE)
        && let Ok(kept) = kept.clone().downcast::<NamedHosts>()
    {
        return kept;
    }
    let metadata = info.metadata.borrow();
    let texts = config.sources.iter().filter_map(|source| source.hosts(head, metadata.as_deref()));
    let addresses = texts.flat_map(|text| text.split(',')).map(str::trim).filter(|address| !address.is_empty());
    let named = Rc::new(NamedHosts { addresses: addresses.map(Box::from).collect(), next: Cell::new(0) });
    info.filter_state.borrow_mut().set(STATE, FilterValue::Object(named.clone()), LifeSpan::FilterChain);
    named
}

/// Tells filters and logs who was chosen, where they are to know.
pub(super) fn tell(config: &OverrideHostLb, cx: &PickContext<'_>, set: &HostSet, place: usize) {
    if let (Some(key), Some(info)) = (&config.selected_key, cx.info) {
        let address = Value::String(set.hosts[place].address().to_string());
        key.store(info.metadata.borrow_mut().get_or_insert_default(), address);
    }
}
