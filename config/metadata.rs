//! `core.v3.Metadata` as plain JSON.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as pb;
use nuncio_proto::google::protobuf::value::Kind;
use nuncio_proto::google::protobuf::{Struct, Value};
use nuncio_telemetry::Metadata;
use serde_json::Map;

/// Lowers the metadata of a cluster, endpoint or route to plain JSON objects. `None` where there is none.
pub fn lower_metadata(proto: pb::Metadata, cx: &mut LowerCx<'_>) -> Result<Option<Arc<Metadata>>, Refused> {
    let pb::Metadata { filter_metadata, typed_filter_metadata } = proto;
    cx.unsupported("typed_filter_metadata", &typed_filter_metadata)?;
    let metadata: Metadata = filter_metadata.into_iter().map(|(name, fields)| (name.into(), object(fields))).collect();
    Ok((!metadata.is_empty()).then(|| Arc::new(metadata)))
}

/// A Struct as a JSON object.
pub fn object(fields: Struct) -> Map<String, serde_json::Value> {
    fields.fields.into_iter().map(|(name, value)| (name, json(value))).collect()
}

fn json(value: Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(s)) => s.into(),
        Some(Kind::BoolValue(b)) => b.into(),
        Some(Kind::StructValue(s)) => serde_json::Value::Object(object(s)),
        Some(Kind::ListValue(l)) => l.values.into_iter().map(json).collect(),
    }
}
