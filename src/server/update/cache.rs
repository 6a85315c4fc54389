//! What was accepted last, kept on disk for a start while the control plane is away (`--xds-cache-dir`).
//!
//! A file for each kind and source holds a `DiscoveryResponse`: its nonce tells the source, and each resource is wrapped
//! with its name and version. Files are written whole beside the old ones and moved into their place, so that a crash
//! leaves the one or the other. Secrets are kept only where that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nuncio_config::discovery::Origin;
use nuncio_proto::envoy::service::discovery::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use prost::{Message, Name};
use tracing::warn;

use super::lowering::hash;
use super::records::Records;
use super::{Kind, Resource};

/// Where resources are kept, and which kinds.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    keeps_secrets: bool,
}

/// What was kept of one kind and source.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) version: String,
    pub(super) resources: Vec<Resource>,
}

impl Cache {
    /// A cache in this folder, which is made where it is not there.
    pub(crate) fn open(folder: &Path, keeps_secrets: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), keeps_secrets })
    }

    /// Whether anything of this kind and source is kept: files are at hand anyway.
    pub(super) fn keeps(&self, kind: Kind, origin: &Origin) -> bool {
        !matches!(origin, Origin::Path { .. }) && (self.keeps_secrets || kind != Kind::Secret)
    }

    /// What was kept; `None` where nothing was, or the file is none of ours.
    pub(super) fn load(&self, kind: Kind, origin: &Origin) -> Option<Cached> {
        let path = self.path(kind, origin);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(target: "config", path = %path.display(), %error, "cached resources cannot be read");
                return None;
            }
        };
        let cached = decode(&bytes, kind, origin);
        if cached.is_none() {
            warn!(target: "config", path = %path.display(), "is no cache of {} from {origin}", kind.short());
        }
        cached
    }

    /// Writes down what is in force; what cannot be written is told and stays as it was.
    pub(super) fn store(&self, messages: Vec<(Kind, Origin, proto::DiscoveryResponse)>) {
        for (kind, origin, message) in messages {
            let path = self.path(kind, &origin);
            if let Err(error) = replace(&path, &message.encode_to_vec()) {
                warn!(target: "config", path = %path.display(), %error, "resources cannot be cached");
            }
        }
    }

    fn path(&self, kind: Kind, origin: &Origin) -> PathBuf {
        self.folder.join(format!("{}-{:016x}.pb", kind.short().to_lowercase(), hash(origin.identity().as_bytes())))
    }
}

/// What is in force of these kinds and sources, to be written down.
pub(super) fn messages(
    records: &Records,
    due: &BTreeSet<(Kind, Origin)>,
) -> Vec<(Kind, Origin, proto::DiscoveryResponse)> {
    let mut by_source: BTreeMap<&(Kind, Origin), Vec<Any>> = due.iter().map(|pair| (pair, Vec::new())).collect();
    let kinds: BTreeSet<Kind> = due.iter().map(|(kind, _)| *kind).collect();
    for kind in kinds {
        for (id, record) in records.all(kind) {
            let (Some(accepted), Some(all)) = (&record.accepted, by_source.get_mut(&(kind, id.origin.clone()))) else {
                continue;
            };
            let Resource { name, version, any, aliases } = accepted.resource.clone();
            let wrapped = proto::Resource { name, version, aliases, resource: Some(any), ..Default::default() };
            let type_url = format!("type.googleapis.com/{}", proto::Resource::full_name());
            all.push(Any { type_url, value: wrapped.encode_to_vec() });
        }
    }
    let message = |((kind, origin), resources): (&(Kind, Origin), Vec<Any>)| {
        let message = proto::DiscoveryResponse {
            version_info: records.version(*kind).to_owned(),
            resources,
            type_url: kind.type_url(),
            nonce: origin.identity(),
            ..Default::default()
        };
        (*kind, origin.clone(), message)
    };
    by_source.into_iter().map(message).collect()
}

fn decode(bytes: &[u8], kind: Kind, origin: &Origin) -> Option<Cached> {
    let message = proto::DiscoveryResponse::decode(bytes).ok()?;
    let type_url = kind.type_url();
    if message.type_url != type_url || message.nonce != origin.identity() {
        return None;
    }
    let unwrap = |any: Any| {
        let proto::Resource { name, version, aliases, resource, .. } = proto::Resource::decode(&*any.value).ok()?;
        Some(Resource { name, version, any: resource?, aliases })
    };
    let resources = message.resources.into_iter().map(unwrap).collect::<Option<_>>()?;
    Some(Cached { version: message.version_info, resources })
}

/// Puts another content in the place of a file, as a whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    // Secrets may be in it: nobody else is to read it.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached() -> proto::DiscoveryResponse {
        let inner = Any { type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(), value: Vec::new() };
        let wrapped = proto::Resource {
            name: "a".into(),
            version: "3".into(),
            resource: Some(inner.clone()),
            ..Default::default()
        };
        proto::DiscoveryResponse {
            version_info: "7".into(),
            type_url: inner.type_url,
            nonce: Origin::Ads.identity(),
            resources: vec![Any { type_url: String::new(), value: wrapped.encode_to_vec() }],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_kept_is_there_again_for_its_source_and_kind_alone() {
        let folder = std::env::temp_dir().join(format!("nuncio-cache-{}", std::process::id()));
        let cache = Cache::open(&folder, false).unwrap();
        cache.store(vec![(Kind::Cluster, Origin::Ads, cached())]);
        let found = cache.load(Kind::Cluster, &Origin::Ads).unwrap();
        assert_eq!((&*found.version, &*found.resources[0].name, &*found.resources[0].version), ("7", "a", "3"));
        assert!(cache.load(Kind::Listener, &Origin::Ads).is_none());
        assert!(decode(&cached().encode_to_vec(), Kind::Listener, &Origin::Ads).is_none());
        fs::write(cache.path(Kind::Cluster, &Origin::Ads), [0xff, 0xff]).unwrap();
        assert!(cache.load(Kind::Cluster, &Origin::Ads).is_none(), "rubbish is passed over");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn secrets_are_kept_only_where_that_is_asked_for() {
        let [without, with] = [false, true].map(|keeps_secrets| Cache { folder: PathBuf::new(), keeps_secrets });
        assert!(!without.keeps(Kind::Secret, &Origin::Ads) && without.keeps(Kind::Routes, &Origin::Ads));
        assert!(with.keeps(Kind::Secret, &Origin::Ads));
        let file = Origin::Path { path: "a".into(), watched_directory: None };
        assert!(!with.keeps(Kind::Cluster, &file));
    }
}
