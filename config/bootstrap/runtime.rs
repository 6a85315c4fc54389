//! `bootstrap.v3.LayeredRuntime`. nuncio reads no runtime key yet, so a key is accepted only where ignoring it is right.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;
use nuncio_proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use nuncio_proto::google::protobuf::{Struct, value::Kind};

/// Keys below these guard changes inside Envoy; they mean nothing to another proxy.
const FEATURE_GUARDS: [&str; 2] = ["envoy.reloadable_features.", "envoy.restart_features."];

/// Lowers the runtime; the keys that are accepted go to `without_effect`.
pub(super) fn lower(
    runtime: proto::LayeredRuntime,
    without_effect: &mut Vec<String>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let proto::LayeredRuntime { layers } = runtime;
    cx.each("layers", layers, |layer, cx| {
        let proto::RuntimeLayer { name: _, layer_specifier } = layer;
        match layer_specifier {
            None => Err(cx.invalid("a layer_specifier is required")),
            // Overrides come through /runtime_modify, which nuncio does not have.
            Some(LayerSpecifier::AdminLayer(_)) => Ok(()),
            Some(LayerSpecifier::DiskLayer(_)) => cx.at("disk_layer", |cx| Err(cx.not_implemented("runtime on disk"))),
            Some(LayerSpecifier::RtdsLayer(_)) => cx.at("rtds_layer", |cx| Err(cx.not_implemented("RTDS"))),
            Some(LayerSpecifier::StaticLayer(fields)) => {
                cx.at("static_layer", |cx| lower_struct(fields, "", without_effect, cx))
            }
        }
    })
    .map(drop)
}

/// A nested struct is a common prefix: `{a: {b: 1}}` is the key `a.b`.
fn lower_struct(
    fields: Struct,
    prefix: &str,
    without_effect: &mut Vec<String>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let mut result = Ok(());
    let mut fields: Vec<_> = fields.fields.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in fields {
        let key = format!("{prefix}{name}");
        let lowered = cx.at_key(&name, |cx| match value.kind {
            Some(Kind::StructValue(inner)) => lower_struct(inner, &format!("{key}."), without_effect, cx),
            _ if FEATURE_GUARDS.iter().any(|guard| key.starts_with(guard)) => {
                without_effect.push(format!("{} (runtime key {key})", cx.path()));
                Ok(())
            }
            _ => Err(cx.not_implemented(format_args!("the runtime key {key}"))),
        });
        result = result.and(lowered);
    }
    result
}
