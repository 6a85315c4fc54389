//! Configurations of filters that discovery has given.

use nuncio_config::extension::{Category, ExtensionSlot};
use nuncio_proto::envoy::admin::v3 as proto;
use proto::ecds_config_dump::EcdsFilterConfig;

use super::timestamp;
use crate::admin::Admin;
use crate::update::{Kind, lock};

/// One part for each kind of filter that asks for any.
pub(super) fn extensions(admin: &Admin) -> Vec<proto::EcdsConfigDump> {
    let mut slots = admin.env.slots.all::<ExtensionSlot>();
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let records = lock(&admin.shared.records);
    let part = |category: Category| {
        let mut asked = slots.iter().filter(|slot| slot.category == category).peekable();
        asked.peek()?;
        let given = asked.filter_map(|slot| {
            let is_it = |id: &crate::update::Id| id.name == slot.name && id.origin == slot.source.origin;
            let accepted = records.all(Kind::Extension).find(|(id, _)| is_it(id))?.1.accepted.as_ref()?;
            Some(EcdsFilterConfig {
                version_info: accepted.resource.version.clone(),
                ecds_filter: Some(accepted.resource.any.clone()),
                last_updated: Some(timestamp(accepted.updated)),
                ..EcdsFilterConfig::default()
            })
        });
        Some(proto::EcdsConfigDump { ecds_filters: given.collect() })
    };
    let order = [Category::HttpFilter, Category::NetworkFilter, Category::ListenerFilter, Category::UpstreamHttpFilter];
    order.into_iter().filter_map(part).collect()
}
