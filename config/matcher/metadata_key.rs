use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::r#type::metadata::v3 as proto;
use nuncio_telemetry::Metadata;
use proto::metadata_key::PathSegment;
use proto::metadata_key::path_segment::Segment as Step;
use serde_json::Value;

/// `envoy.type.metadata.v3.MetadataKey`: where a value of metadata is.
#[derive(Clone, Debug)]
pub struct MetadataKey {
    namespace: Box<str>,
    path: Box<[Segment]>,
}

#[derive(Clone, Debug)]
enum Segment {
    Key(Box<str>),
    Index(usize),
}

impl MetadataKey {
    /// Lowers the field `metadata_key`, which is required.
    pub fn lower(message: Option<proto::MetadataKey>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        cx.at("metadata_key", |cx| match message {
            Some(message) => Self::new(message, cx),
            None => Err(cx.invalid("is required")),
        })
    }

    /// Lowers the message itself.
    pub(crate) fn new(message: proto::MetadataKey, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::MetadataKey { key, path } = message;
        let path = cx.each("path", path, |PathSegment { segment }, cx| match segment {
            None => Err(cx.invalid("segment is required")),
            Some(Step::Key(key)) => Ok(Segment::Key(key.into())),
            Some(Step::Index(index)) => Ok(Segment::Index(index as usize)),
        })?;
        Ok(Self { namespace: key.into(), path: path.into() })
    }

    /// The value in `metadata`.
    pub fn find<'a>(&self, metadata: &'a Metadata) -> Option<&'a Value> {
        let (Segment::Key(first), rest) = self.path.split_first()? else { return None };
        let value = metadata.get(&*self.namespace)?.get(&**first)?;
        rest.iter().try_fold(value, |value, segment| match segment {
            Segment::Key(key) => value.as_object()?.get(&**key),
            Segment::Index(index) => value.as_array()?.get(*index),
        })
    }

    /// Sets the value in `metadata`. Envoy: fields beside it, below the first of the path, are gone.
    pub fn store(&self, metadata: &mut Metadata, value: Value) {
        let Some((Segment::Key(first), rest)) = self.path.split_first() else { return };
        let within = |value, segment: &Segment| match segment {
            Segment::Key(key) => Value::Object([(key.to_string(), value)].into_iter().collect()),
            Segment::Index(_) => value,
        };
        let value = rest.iter().rev().fold(value, within);
        metadata.entry(Arc::from(&*self.namespace)).or_default().insert(first.to_string(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_where_it_was_stored() {
        let path = ["a", "b"].map(|key| Segment::Key(key.into())).into();
        let key = MetadataKey { namespace: "n".into(), path };
        let mut metadata = Metadata::default();
        assert_eq!(key.find(&metadata), None);
        key.store(&mut metadata, 7.into());
        assert_eq!(key.find(&metadata), Some(&7.into()));
        assert_eq!(serde_json::to_string(&metadata["n"]).unwrap(), r#"{"a":{"b":7}}"#);
    }
}
