//! `envoy.transport_sockets.internal_upstream`

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::internal_upstream::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::internal_upstream::v3::internal_upstream_transport as pbt;
use nuncio_proto::envoy::r#type::metadata::v3::MetadataKind;
use nuncio_proto::envoy::r#type::metadata::v3::metadata_kind::Kind;
use nuncio_telemetry::Metadata;

use super::TransportSocket;

/// What internal listeners learn of who connects.
#[derive(Debug)]
pub struct InternalSocket {
    /// Metadata that goes with the connection; of a name that is there twice, the later.
    passed: Box<[(Owner, Box<str>)]>,
    /// What carries the bytes.
    pub inner: TransportSocket,
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Host,
    Cluster,
}

// === impl InternalSocket ===

impl InternalSocket {
    pub(super) fn lower(proto: pb::InternalUpstreamTransport, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::InternalUpstreamTransport { passthrough_metadata, transport_socket } = proto;
        let passed = cx.each("passthrough_metadata", passthrough_metadata, |source, cx| {
            let pbt::MetadataValueSource { kind, name } = source;
            let owner = match kind.and_then(|MetadataKind { kind }| kind) {
                Some(Kind::Host(_)) => Owner::Host,
                Some(Kind::Cluster(_)) => Owner::Cluster,
                // Envoy has no others.
                Some(Kind::Request(_) | Kind::Route(_)) | None => {
                    return Err(cx.at("kind", |cx| cx.invalid("metadata type is not supported")));
                }
            };
            Ok((owner, name.into_boxed_str()))
        });
        let inner = cx.opt("transport_socket", transport_socket, TransportSocket::lower)?;
        Ok(Self { passed: passed?.into(), inner: inner.unwrap_or_default() })
    }

    /// The metadata that goes with a connection to a host.
    pub fn passed(&self, host: Option<&Metadata>, cluster: Option<&Metadata>) -> Metadata {
        let mut passed = Metadata::new();
        for (owner, name) in &self.passed {
            let metadata = match owner {
                Owner::Host => host,
                Owner::Cluster => cluster,
            };
            if let Some(fields) = metadata.and_then(|metadata| metadata.get(&**name)) {
                passed.insert(Arc::from(&**name), fields.clone());
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_later_is_passed() {
        let of = |value: u64| {
            let fields = serde_json::json!({ "n": value }).as_object().cloned().unwrap_or_default();
            Metadata::from([(Arc::from("a"), fields)])
        };
        let socket = |owners: [Owner; 2]| InternalSocket {
            passed: owners.map(|owner| (owner, "a".into())).into(),
            inner: TransportSocket::RawBuffer,
        };
        let check = |owners, host: Option<&Metadata>, expected: u64| {
            assert_eq!(socket(owners).passed(host, Some(&of(2))), of(expected));
        };
        check([Owner::Cluster, Owner::Host], Some(&of(1)), 1);
        check([Owner::Host, Owner::Cluster], Some(&of(1)), 2);
        check([Owner::Cluster, Owner::Host], None, 2);
    }
}
