//! Configurations of filters that discovery has given.

use nuncio_config::extension::{Category, ExtensionSlot};
use nuncio_proto::envoy::admin::v3 as proto;
use proto::ecds_config_dump::EcdsFilterConfig;

use super::dynamic::error_state;
use super::names::Names;
use super::timestamp;
use crate::admin::Admin;
use crate::update::{Id, Kind, lock};

/// One part for each kind of filter that asks for any.
pub(super) fn extensions(admin: &Admin, names: &Names) -> Vec<proto::EcdsConfigDump> {
    let mut slots = admin.env.slots.all::<ExtensionSlot>();
    slots.retain(|slot| names.have(&slot.name));
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let records = lock(&admin.shared.records);
    let part = |category: Category| {
        let mut asked = slots.iter().filter(|slot| slot.category == category).peekable();
        asked.peek()?;
        let given = asked.filter_map(|slot| {
            let id = Id { name: slot.name.clone(), origin: slot.source.origin.clone() };
            let record = records.find(Kind::Extension, &id)?;
            let accepted = record.accepted.as_ref()?;
            Some(EcdsFilterConfig {
                version_info: accepted.resource.version.clone(),
                ecds_filter: Some(accepted.resource.any.clone()),
                last_updated: Some(timestamp(accepted.updated)),
                error_state: error_state(record),
                ..EcdsFilterConfig::default()
            })
        });
        Some(proto::EcdsConfigDump { ecds_filters: given.collect() })
    };
    let order = [
        Category::HttpFilter,
        Category::NetworkFilter,
        Category::ListenerFilter,
        Category::UpstreamHttpFilter,
        Category::UdpSessionFilter,
    ];
    order.into_iter().filter_map(part).collect()
}
