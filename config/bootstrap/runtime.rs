//! `bootstrap.v3.LayeredRuntime`. nuncio reads no runtime key yet, so a key is accepted only where ignoring it is right.

use std::collections::BTreeMap;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;
use nuncio_proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use nuncio_proto::google::protobuf::{Struct, Value, value::Kind};

/// Keys below these guard changes inside Envoy; they mean nothing to another proxy.
const FEATURE_GUARDS: [&str; 2] = ["envoy.reloadable_features.", "envoy.restart_features."];

/// The layers of the runtime, each over the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The layers, lowest first.
    pub layers: Vec<RuntimeLayer>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeLayer {
    /// Its name.
    pub name: String,
    /// Its values as text, by key.
    pub values: BTreeMap<String, String>,
}

impl RuntimeConfig {
    /// Every key with its value in each layer, empty where the layer has none.
    pub fn entries(&self) -> BTreeMap<&str, Vec<&str>> {
        let keys = self.layers.iter().flat_map(|layer| layer.values.keys());
        let values = |key: &str| self.layers.iter().map(|l| l.values.get(key).map_or("", String::as_str)).collect();
        keys.map(|key| (key.as_str(), values(key))).collect()
    }

    /// Lowers the runtime; the keys that are accepted go to `without_effect` too.
    pub(super) fn lower(
        runtime: proto::LayeredRuntime,
        without_effect: &mut Vec<String>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::LayeredRuntime { layers } = runtime;
        let layers = cx.each("layers", layers, |layer, cx| {
            let proto::RuntimeLayer { name, layer_specifier } = layer;
            let mut values = BTreeMap::new();
            match layer_specifier {
                None => return Err(cx.invalid("a layer_specifier is required")),
                // Overrides come through /runtime_modify, which nuncio does not have.
                Some(LayerSpecifier::AdminLayer(_)) => {}
                Some(LayerSpecifier::DiskLayer(_)) => {
                    return cx.at("disk_layer", |cx| Err(cx.not_implemented("runtime on disk")));
                }
                Some(LayerSpecifier::RtdsLayer(_)) => return cx.at("rtds_layer", |cx| Err(cx.not_implemented("RTDS"))),
                Some(LayerSpecifier::StaticLayer(fields)) => {
                    cx.at("static_layer", |cx| lower_struct(fields, "", &mut values, cx))?;
                }
            }
            without_effect.extend(values.keys().map(|key| format!("the runtime key {key}")));
            Ok(RuntimeLayer { name, values })
        })?;
        Ok(Self { layers })
    }
}

/// A nested struct is a common prefix: `{a: {b: 1}}` is the key `a.b`.
fn lower_struct(
    fields: Struct,
    prefix: &str,
    values: &mut BTreeMap<String, String>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let mut result = Ok(());
    let fields: BTreeMap<String, Value> = fields.fields.into_iter().collect();
    for (name, value) in fields {
        let key = format!("{prefix}{name}");
        let lowered = cx.at_key(&name, |cx| {
            let text = match value.kind {
                Some(Kind::StructValue(inner)) => return lower_struct(inner, &format!("{key}."), values, cx),
                Some(Kind::StringValue(text)) => text,
                Some(Kind::NumberValue(number)) => number.to_string(),
                Some(Kind::BoolValue(flag)) => flag.to_string(),
                Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => {
                    return Err(cx.invalid("is not a text, number or boolean"));
                }
            };
            if !FEATURE_GUARDS.iter().any(|guard| key.starts_with(guard)) {
                return Err(cx.not_implemented(format_args!("the runtime key {key}")));
            }
            values.insert(key, text);
            Ok(())
        });
        result = result.and(lowered);
    }
    result
}
