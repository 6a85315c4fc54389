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
        cx.at("metadata_key", |cx| {
            let Some(proto::MetadataKey { key, path }) = message else { return Err(cx.invalid("is required")) };
            let path = cx.each("path", path, |PathSegment { segment }, cx| match segment {
                None => Err(cx.invalid("segment is required")),
                Some(Step::Key(key)) => Ok(Segment::Key(key.into())),
                Some(Step::Index(index)) => Ok(Segment::Index(index as usize)),
            })?;
            Ok(Self { namespace: key.into(), path: path.into() })
        })
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
}
