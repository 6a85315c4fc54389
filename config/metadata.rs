//! `core.v3.Metadata` as plain JSON.

use std::sync::Arc;

use nuncio_proto::envoy::config::core::v3 as pb;
use nuncio_proto::google::protobuf::value::Kind;
use nuncio_proto::google::protobuf::{ListValue, Struct, Value};
use nuncio_telemetry::Metadata;
use serde_json::Map;

/// What a request asks of the metadata of its host: values of fields under `envoy.lb`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataMatch {
    /// By name, each name once.
    criteria: Box<[(Arc<str>, serde_json::Value)]>,
    /// See [`subset_key`].
    key: Box<str>,
}

/// Where the fields are that hosts are chosen by.
const LB: &str = "envoy.lb";

/// Names and values, in order of name, as one text: equal for equal fields.
pub fn subset_key<'a>(fields: impl Iterator<Item = (&'a str, &'a serde_json::Value)>) -> String {
    use std::fmt::Write;
    fields.fold(String::new(), |mut key, (name, value)| {
        // Writing to a String cannot fail. Neither part holds a raw zero.
        let _ = write!(key, "{name}\0{value}\0");
        key
    })
}

// === impl MetadataMatch ===

impl MetadataMatch {
    /// Lowers `metadata_match`. `None` where it asks for nothing.
    pub fn lower(proto: pb::Metadata) -> Option<Self> {
        let mut proto = proto;
        // Envoy reads this one namespace.
        let fields = proto.filter_metadata.remove(LB)?;
        (!fields.fields.is_empty()).then(|| Self::default().with(&object(fields)))
    }

    /// The same with `fields` added, which win.
    pub fn with(&self, fields: &Map<String, serde_json::Value>) -> Self {
        let kept = self.criteria.iter().filter(|(name, _)| !fields.contains_key(&**name)).cloned();
        let added = fields.iter().map(|(name, value)| (Arc::from(name.as_str()), value.clone()));
        let mut criteria: Vec<_> = kept.chain(added).collect();
        criteria.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self::of(criteria)
    }

    /// The same with fields of these names alone.
    pub fn only(&self, is_kept: impl Fn(&str) -> bool) -> Self {
        Self::of(self.criteria.iter().filter(|(name, _)| is_kept(name)).cloned().collect())
    }

    fn of(criteria: Vec<(Arc<str>, serde_json::Value)>) -> Self {
        let key = subset_key(criteria.iter().map(|(name, value)| (&**name, value)));
        Self { criteria: criteria.into(), key: key.into() }
    }

    /// See [`subset_key`].
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What a weighted cluster asks for in addition to its route, or in place of it.
    pub fn over(&self, route: &Self) -> Self {
        route.with(&self.criteria.iter().map(|(name, value)| (name.to_string(), value.clone())).collect())
    }

    /// Whether `metadata` has it all. A list has each of its elements.
    pub fn is_met_by(&self, metadata: Option<&Metadata>) -> bool {
        let fields = metadata.and_then(|metadata| metadata.get(LB));
        self.criteria.iter().all(|(name, wanted)| match fields.and_then(|fields| fields.get(&**name)) {
            Some(serde_json::Value::Array(list)) => list.contains(wanted),
            found => found == Some(wanted),
        })
    }

    /// Names and the values that are asked for, in order of name.
    pub fn criteria(&self) -> &[(Arc<str>, serde_json::Value)] {
        &self.criteria
    }
}

/// Lowers the metadata of a cluster, endpoint or route to plain JSON objects. `None` where there is none.
pub fn lower_metadata(proto: pb::Metadata) -> Option<Arc<Metadata>> {
    // Messages among it are for who knows them by their names, and passed over by all others, as in Envoy. Those that
    // nuncio knows were taken out before.
    let pb::Metadata { filter_metadata, typed_filter_metadata: _ } = proto;
    let metadata: Metadata = filter_metadata.into_iter().map(|(name, fields)| (name.into(), object(fields))).collect();
    (!metadata.is_empty()).then(|| Arc::new(metadata))
}

/// The message that `metadata` was lowered from.
pub fn to_proto(metadata: &Metadata) -> pb::Metadata {
    let namespace = |(name, fields): (&Arc<str>, &Map<_, _>)| (name.to_string(), message(fields));
    pb::Metadata { filter_metadata: metadata.iter().map(namespace).collect(), ..pb::Metadata::default() }
}

fn message(fields: &Map<String, serde_json::Value>) -> Struct {
    Struct { fields: fields.iter().map(|(name, value)| (name.clone(), value_of(value))).collect() }
}

fn value_of(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(b) => Kind::BoolValue(*b),
        serde_json::Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        serde_json::Value::String(s) => Kind::StringValue(s.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(value_of).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(message(fields)),
    };
    Value { kind: Some(kind) }
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

/// The value with whole numbers that have no fraction: Envoy writes 1.0 as 1.
pub(crate) fn whole_numbers(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    /// Below it all whole numbers fit.
    const LIMIT: f64 = i64::MAX as f64;
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 && whole.abs() < LIMIT => Value::from(whole as i64),
            _ => Value::Number(number),
        },
        Value::Array(values) => values.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, whole_numbers(value))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&str, &str)]) -> Struct {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        Struct { fields: of.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect() }
    }

    fn criteria(of: &MetadataMatch) -> Vec<String> {
        of.criteria().iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn a_match_is_made_of_the_fields_for_load_balancing() {
        let namespaces = [(LB, fields(&[("version", "1"), ("stage", "prod")])), ("other", fields(&[("x", "y")]))];
        let filter_metadata = namespaces.into_iter().map(|(name, fields)| (name.to_owned(), fields)).collect();
        let lowered = MetadataMatch::lower(pb::Metadata { filter_metadata, ..Default::default() }).unwrap();
        assert_eq!(criteria(&lowered), [r#"stage="prod""#, r#"version="1""#]);
        assert_eq!(MetadataMatch::lower(pb::Metadata::default()), None);
    }

    #[test]
    fn a_host_needs_every_field() {
        let wanted = MetadataMatch::default().with(&object(fields(&[("a", "1"), ("b", "2")])));
        let met = |json: serde_json::Value| {
            let metadata = Metadata::from([(LB.into(), json.as_object().unwrap().clone())]);
            wanted.is_met_by(Some(&metadata))
        };
        assert!(met(serde_json::json!({"a": "1", "b": ["3", "2"], "c": 4})));
        assert!(!met(serde_json::json!({"a": "1"})) && !met(serde_json::json!({"a": "1", "b": 2})));
        assert!(!wanted.is_met_by(None) && MetadataMatch::default().is_met_by(None));
    }

    #[test]
    fn fields_that_are_added_win() {
        let base = MetadataMatch::default().with(&object(fields(&[("a", "1"), ("c", "1")])));
        let both = base.with(&object(fields(&[("b", "2"), ("a", "2")])));
        assert_eq!(criteria(&both), [r#"a="2""#, r#"b="2""#, r#"c="1""#]);
    }
}
