//! Parts of messages: those that a field mask names, and the elements of a repeated field. For admin, which shows parts
//! of what it has; works on wire format by the schemas, as the printer does.

use super::check::any_parts;
use super::schema::{Kind, Known, Label, Message, Schemas};
use super::wire::{self, Raw, next_field, type_name};
use nuncio_proto::google::protobuf::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Paths of fields, as `google.protobuf.FieldMask` has them. One that goes on behind an Any means the message in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMask(Branch);

/// What of a message is meant: all of it where nothing is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch(BTreeMap<String, Branch>);

/// Why a field has no elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRepeated {
    /// The message has no such field.
    Unknown,
    /// It has one value at most.
    Single,
}

/// The messages in the repeated field of this name.
pub fn elements(any: &Any, name: &str) -> Result<Vec<Any>, NotRepeated> {
    let mut schemas = Schemas::default();
    let schema = schemas.find(type_name(&any.type_url)).ok_or(NotRepeated::Unknown)?;
    let index = named(&schema, name).ok_or(NotRepeated::Unknown)?;
    let field = &schema.fields[index];
    let (Label::Repeated, Kind::Message(id)) = (field.label, field.kind) else { return Err(NotRepeated::Single) };
    let type_url = format!("type.googleapis.com/{}", schemas.message(id).name);
    let (mut rest, mut all) = (&*any.value, Vec::new());
    // What admin shows was encoded by this process.
    while let Ok(Some(field)) = next_field(&schema, &mut rest) {
        if let Some((at, Raw::Bytes(value))) = field.known
            && at == index
        {
            all.push(Any { type_url: type_url.clone(), value: value.into_owned() });
        }
    }
    Ok(all)
}

fn named(message: &Message, name: &str) -> Option<usize> {
    // Masks know the names of the .proto files only.
    message.field_named(name).filter(|index| *message.fields[*index].name == *name)
}

// === impl FieldMask ===

impl FieldMask {
    /// Paths with commas between.
    pub fn parse(text: &str) -> Self {
        let mut root = Branch::default();
        for path in text.split(',').filter(|path| !path.is_empty()) {
            root.add(path);
        }
        Self(root)
    }

    /// What the mask leaves of the message; `None` where it names a field that the message's type lacks, or one within
    /// a repeated field.
    pub fn trim(&self, any: &Any) -> Option<Any> {
        let mut schemas = Schemas::default();
        let schema = schemas.find(type_name(&any.type_url))?;
        let value = self.0.trim(&schema, &any.value, &mut schemas)?;
        Some(Any { type_url: any.type_url.clone(), value })
    }
}

// === impl Branch ===

impl Branch {
    fn add(&mut self, path: &str) {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let is_new = !self.0.contains_key(name);
        let branch = self.0.entry(name.to_owned()).or_default();
        match rest {
            // A field that is meant as a whole stays so, whatever of it is named too.
            Some(rest) if is_new || !branch.0.is_empty() => branch.add(rest),
            Some(_) => {}
            None => branch.0.clear(),
        }
    }

    fn fits(&self, message: &Message, schemas: &mut Schemas) -> bool {
        self.0.iter().all(|(name, branch)| {
            let Some(index) = named(message, name) else { return false };
            let field = &message.fields[index];
            if branch.0.is_empty() {
                return true;
            }
            let (Label::Single, Kind::Message(id)) = (field.label, field.kind) else { return false };
            let inner = schemas.message(id);
            inner.known == Known::Any || branch.fits(&inner, schemas)
        })
    }

    fn trim(&self, message: &Arc<Message>, bytes: &[u8], schemas: &mut Schemas) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return Some(bytes.to_owned());
        }
        if message.known == Known::Any {
            return self.trim_any(bytes, schemas);
        }
        if !self.fits(message, schemas) {
            return None;
        }
        let (mut rest, mut out) = (bytes, Vec::new());
        while let Some(found) = next_field(message, &mut rest).ok()? {
            let Some((index, raw)) = found.known else { continue };
            let field = &message.fields[index];
            match (self.0.get(&*field.name), field.kind, raw) {
                (None, ..) => {}
                (Some(branch), Kind::Message(id), Raw::Bytes(value)) if !branch.0.is_empty() => {
                    let inner = schemas.message(id);
                    wire::bytes(found.number, &branch.trim(&inner, &value, schemas)?, &mut out);
                }
                (Some(_), ..) => out.extend_from_slice(found.whole),
            }
        }
        Some(out)
    }

    fn trim_any(&self, bytes: &[u8], schemas: &mut Schemas) -> Option<Vec<u8>> {
        let (url, value) = any_parts(bytes);
        let inner = schemas.find(type_name(url))?;
        let trimmed = self.trim(&inner, value, schemas)?;
        let mut out = Vec::with_capacity(url.len() + trimmed.len() + 16);
        wire::bytes(1, url.as_bytes(), &mut out);
        wire::bytes(2, &trimmed, &mut out);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_proto::envoy::admin::v3::ClustersConfigDump;
    use nuncio_proto::envoy::admin::v3::clusters_config_dump::StaticCluster;
    use nuncio_proto::envoy::config::cluster::v3::Cluster;
    use prost::{Message as _, Name};

    fn any<T: prost::Message + Name>(message: &T) -> Any {
        Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: message.encode_to_vec() }
    }

    fn cluster() -> Cluster {
        Cluster { name: "a".into(), alt_stat_name: "b".into(), ..Cluster::default() }
    }

    fn dump() -> Any {
        let cluster = StaticCluster { cluster: Some(any(&cluster())), last_updated: Some(Default::default()) };
        any(&ClustersConfigDump {
            version_info: "7".into(),
            static_clusters: vec![cluster],
            ..ClustersConfigDump::default()
        })
    }

    #[test]
    fn a_mask_leaves_what_it_names() {
        let trimmed = FieldMask::parse("version_info,").trim(&dump()).unwrap();
        let expected = ClustersConfigDump { version_info: "7".into(), ..ClustersConfigDump::default() };
        assert_eq!(ClustersConfigDump::decode(&*trimmed.value).unwrap(), expected);
        assert_eq!(FieldMask::parse("").trim(&dump()).unwrap(), dump());
    }

    #[test]
    fn a_mask_reaches_into_an_any() {
        let element = elements(&dump(), "static_clusters").unwrap().remove(0);
        assert_eq!(element.type_url, "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster");
        for (mask, name, alt) in [("cluster.name", "a", ""), ("cluster.name,cluster", "a", "b"), ("cluster", "a", "b")]
        {
            let trimmed = StaticCluster::decode(&*FieldMask::parse(mask).trim(&element).unwrap().value).unwrap();
            assert_eq!(trimmed.last_updated, None, "{mask}");
            let inner = Cluster::decode(&*trimmed.cluster.unwrap().value).unwrap();
            assert_eq!((&*inner.name, &*inner.alt_stat_name), (name, alt), "{mask}");
        }
    }

    #[test]
    fn a_mask_that_names_no_field_fits_nothing() {
        for mask in ["nope", "version_info,nope", "static_clusters.cluster", "version_info.x", "versionInfo"] {
            assert_eq!(FieldMask::parse(mask).trim(&dump()), None, "{mask}");
        }
        assert_eq!(elements(&dump(), "version_info"), Err(NotRepeated::Single));
        assert_eq!(elements(&dump(), "nope"), Err(NotRepeated::Unknown));
    }
}
