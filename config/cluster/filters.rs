//! `Cluster.filters`: network filters of connections to hosts.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::Filter;

use crate::load::type_name;
use crate::protocol::message_name;

/// Refuses each by name. Envoy 1.40 has a single one, of reverse tunnels, which nuncio has not; no network filter of
/// listeners is one of clusters.
pub(super) fn refuse(filters: &[Filter], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let refused = cx.each("filters", filters, |filter, cx| -> Result<(), Refused> {
        let Filter { name, typed_config, config_discovery } = filter;
        match (typed_config, config_discovery) {
            (Some(any), None) => Err(cx.at("typed_config", |cx| refuse_type(message_name(any), cx))),
            (None, Some(source)) => {
                let names: Vec<_> = source.type_urls.iter().map(|url| type_name(url)).collect();
                Err(cx.at("config_discovery", |cx| cx.at("type_urls", |cx| refuse_type(&names.join(", "), cx))))
            }
            (Some(_), Some(_)) => Err(cx.invalid("only one of typed_config or config_discovery can be used")),
            // Envoy looks for it by its name then.
            (None, None) => Err(refuse_type(name, cx)),
        }
    });
    refused.map(drop)
}

fn refuse_type(name: &str, cx: &mut LowerCx<'_>) -> Refused {
    match name.contains("reverse_tunnel") {
        true => cx.not_implemented(name),
        false => cx.invalid(format!("{name} is no network filter of clusters")),
    }
}
