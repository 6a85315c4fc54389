use std::fs;

use nuncio_config::load::{Format, Loader, Source, Sources, UnknownFields};
use nuncio_proto::envoy::service::discovery::v3 as proto;
use prost::{Message, Name};

use crate::startup::lines;
use crate::update::Resource;

/// What a file holds, or a response.
pub(crate) struct Delivery {
    pub(crate) version: String,
    pub(crate) resources: Vec<Resource>,
    /// For the places of what is wrong.
    pub(crate) sources: Sources,
}

/// Reads a `DiscoveryResponse`, or says why it is none.
pub(super) fn load(path: &str, unknown: UnknownFields) -> Result<Delivery, String> {
    let bytes = fs::read(path).map_err(|error| format!("unable to read file: {path}: {error}"))?;
    Delivery::decode(Source::new(path, Format::of_path(path), bytes), unknown)
}

impl Delivery {
    /// Reads a `DiscoveryResponse`, or says why it is none.
    pub(crate) fn decode(source: Source, unknown: UnknownFields) -> Result<Self, String> {
        let loaded = Loader::new(unknown).load::<proto::DiscoveryResponse>(vec![source]);
        let loaded = loaded.map_err(|problems| lines(&problems))?;
        let proto::DiscoveryResponse {
            version_info,
            resources,
            // Of a conversation with a server.
            canary: _,
            type_url: _,
            nonce: _,
            control_plane: _,
            resource_errors: _,
        } = loaded.message;
        let unwrap = |any| unwrap_resource(any, &version_info);
        let resources = resources.into_iter().map(unwrap).collect::<Result<_, _>>()?;
        Ok(Self { resources, version: version_info, sources: loaded.sources })
    }
}

/// A resource may come wrapped, with a version of its own.
fn unwrap_resource(any: nuncio_proto::google::protobuf::Any, version: &str) -> Result<Resource, String> {
    if nuncio_config::protocol::message_name(&any) != proto::Resource::full_name() {
        return Ok(Resource::new(any, version));
    }
    let wrapper = proto::Resource::decode(&*any.value).map_err(|error| error.to_string())?;
    let version = if wrapper.version.is_empty() { version } else { &wrapper.version };
    let inner = wrapper.resource.ok_or_else(|| format!("the wrapper of {:?} is empty", wrapper.name))?;
    Ok(Resource::new(inner, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &str = r#"
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: plain
- "@type": type.googleapis.com/envoy.service.discovery.v3.Resource
  version: "7"
  resource: { "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: wrapped }
"#;

    fn loaded(name: &str, content: &[u8]) -> Result<Delivery, String> {
        let folder = std::env::temp_dir().join(format!("nuncio-load-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        let loaded = load(path.to_str().unwrap(), UnknownFields::Reject);
        fs::remove_file(path).unwrap();
        loaded
    }

    #[test]
    fn a_file_is_a_response_in_yaml_or_wire_format() {
        let check = |delivery: Delivery| {
            let found: Vec<_> = delivery.resources.iter().map(|r| (&*r.name, &*r.version)).collect();
            assert_eq!((&*delivery.version, &found[..]), ("1", &[("plain", "1"), ("wrapped", "7")][..]));
            delivery
        };
        let delivery = check(loaded("a.yaml", RESPONSE.as_bytes()).unwrap());
        let resources = delivery.resources.iter().map(|r| r.any.clone()).collect();
        let response = proto::DiscoveryResponse { version_info: "1".to_owned(), resources, ..Default::default() };
        let delivery = loaded("a.pb", &response.encode_to_vec()).unwrap();
        assert_eq!(delivery.resources.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let refused = loaded("b.yaml", b"version_info: '1'\nresources: [\n").err().unwrap();
        assert!(refused.contains("b.yaml:"), "{refused}");
        let unknown = RESPONSE.replace("name: plain", "nam: plain");
        let refused = loaded("c.yaml", unknown.as_bytes()).err().unwrap();
        assert!(refused.contains("c.yaml:5:"), "{refused}");
    }
}
