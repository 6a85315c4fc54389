//! `bootstrap.v3.LayeredRuntime`: where the values of the runtime come from.

mod disk;
mod value;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused, RuntimeValue};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;
use nuncio_proto::envoy::config::bootstrap::v3::runtime_layer::{DiskLayer, LayerSpecifier, RtdsLayer};
use nuncio_proto::envoy::service::runtime::v3::Runtime;
use nuncio_proto::google::protobuf::{Struct, Value, value::Kind};

use super::authorities::GUARD;
use crate::discovery::ConfigSource;

/// Keys below these guard changes inside Envoy; they mean nothing to another proxy, but for [`GUARD`].
const FEATURE_GUARDS: [&str; 2] = ["envoy.reloadable_features.", "envoy.restart_features."];

/// The values of a layer by key.
pub type RuntimeValues = BTreeMap<String, RuntimeValue>;

/// The layers of the runtime, each over the one before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeConfig {
    /// The layers, lowest first.
    pub layers: Vec<RuntimeLayer>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeLayer {
    /// Its name.
    pub name: String,
    /// Where its values are.
    pub kind: RuntimeLayerKind,
}

/// Where the values of a layer are.
#[derive(Clone, Debug, PartialEq)]
pub enum RuntimeLayerKind {
    /// In the configuration.
    Static(RuntimeValues),
    /// In files below a folder.
    Disk(RuntimeFolder),
    /// With those who ask admin to change them.
    Admin,
    /// In a resource that discovery gives.
    Discovered {
        /// What the resource is called.
        resource: Arc<str>,
        /// Where it comes from.
        source: ConfigSource,
    },
}

/// A folder in whose tree each file is a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFolder {
    /// The symbolic link whose replacement announces another tree.
    pub link: PathBuf,
    /// The folder.
    pub path: PathBuf,
}

/// A value from text in YAML, as admin takes it; the reason where it is none.
pub fn runtime_value(text: &str) -> Result<RuntimeValue, String> {
    value::of_yaml(text)
}

impl RuntimeConfig {
    /// The resources that are to come by discovery, and where each comes from.
    pub fn discovered(&self) -> impl Iterator<Item = (&Arc<str>, &ConfigSource)> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            RuntimeLayerKind::Discovered { resource, source } => Some((resource, source)),
            _ => None,
        })
    }

    /// Lowers the runtime; keys that mean nothing go to `without_effect` too.
    pub(super) fn lower(
        runtime: proto::LayeredRuntime,
        without_effect: &mut Vec<String>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::LayeredRuntime { layers } = runtime;
        let (mut names, mut admins) = (HashSet::new(), 0);
        let layers = cx.each("layers", layers, |layer, cx| {
            let proto::RuntimeLayer { name, layer_specifier } = layer;
            if !names.insert(name.clone()) {
                return Err(cx.at("name", |cx| cx.invalid(format!("duplicate layer name {name:?}"))));
            }
            let kind = match layer_specifier {
                None => return Err(cx.invalid("a layer_specifier is required")),
                Some(LayerSpecifier::AdminLayer(proto::runtime_layer::AdminLayer {})) => {
                    admins += 1;
                    if admins > 1 {
                        return Err(cx.at("admin_layer", |cx| cx.invalid("there may be at most one")));
                    }
                    RuntimeLayerKind::Admin
                }
                Some(LayerSpecifier::DiskLayer(layer)) => RuntimeLayerKind::Disk(RuntimeFolder::lower(layer, cx)),
                Some(LayerSpecifier::RtdsLayer(layer)) => cx.at("rtds_layer", |cx| lower_discovered(layer, cx))?,
                Some(LayerSpecifier::StaticLayer(fields)) => {
                    let mut values = BTreeMap::new();
                    cx.at("static_layer", |cx| lower_struct(fields, "", &mut values, cx))?;
                    let is_guard =
                        |key: &str| key != GUARD && FEATURE_GUARDS.iter().any(|guard| key.starts_with(guard));
                    let guards = values.keys().filter(|key| is_guard(key));
                    without_effect.extend(guards.map(|key| format!("the runtime key {key}")));
                    RuntimeLayerKind::Static(values)
                }
            };
            Ok(RuntimeLayer { name, kind })
        })?;
        Ok(Self { layers })
    }
}

/// The values that a resource of RTDS has.
pub fn lower_runtime(runtime: Runtime, cx: &mut LowerCx<'_>) -> Result<RuntimeValues, Refused> {
    // name: by it the resource was asked for.
    let Runtime { name: _, layer } = runtime;
    let mut values = BTreeMap::new();
    cx.at("layer", |cx| lower_struct(layer.unwrap_or_default(), "", &mut values, cx))?;
    Ok(values)
}

fn lower_discovered(layer: RtdsLayer, cx: &mut LowerCx<'_>) -> Result<RuntimeLayerKind, Refused> {
    let RtdsLayer { name, rtds_config } = layer;
    match cx.opt("rtds_config", rtds_config, ConfigSource::lower)? {
        Some(source) => Ok(RuntimeLayerKind::Discovered { resource: name.into(), source }),
        None => Err(cx.at("rtds_config", |cx| cx.invalid("is required"))),
    }
}

impl RuntimeFolder {
    fn lower(layer: DiskLayer, cx: &LowerCx<'_>) -> Self {
        let DiskLayer { symlink_root, append_service_cluster, subdirectory } = layer;
        let link = PathBuf::from(symlink_root);
        // An absolute subdirectory lies below the root too.
        let mut path = link.join(subdirectory.trim_start_matches('/'));
        if append_service_cluster {
            path.push(&cx.env.node.cluster);
        }
        Self { link, path }
    }
}

/// A nested struct is a common prefix: `{a: {b: 1}}` is the key `a.b`.
fn lower_struct(fields: Struct, prefix: &str, values: &mut RuntimeValues, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let mut result = Ok(());
    let fields: BTreeMap<String, Value> = fields.fields.into_iter().collect();
    for (name, value) in fields {
        let key = format!("{prefix}{name}");
        let lowered = cx.at_key(&name, |cx| {
            let kind = match value.kind {
                Some(Kind::StructValue(inner)) if !is_share(&inner) => {
                    return lower_struct(inner, &format!("{key}."), values, cx);
                }
                kind => kind,
            };
            let Some(value) = kind.and_then(value::of_message) else {
                return Err(cx.invalid("is not a text, number or boolean"));
            };
            values.insert(key, value);
            Ok(())
        });
        result = result.and(lowered);
    }
    result
}

/// Envoy: a struct that is empty or has one of these is a value, not a prefix.
fn is_share(fields: &Struct) -> bool {
    fields.fields.is_empty() || ["numerator", "denominator"].iter().any(|name| fields.fields.contains_key(*name))
}
