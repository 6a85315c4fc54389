//! Messages without what is not to be shown, as messages still.

use super::check::any_parts;
use super::schema::{Kind, Known, Label, Message, Schemas};
use super::wire::{self, Raw, next_field, type_name};
use nuncio_proto::google::protobuf::Any;
use std::sync::Arc;

/// What stands for a text that is not to be shown.
const REDACTED: &str = "[redacted]";
/// The number of the key in an entry of a map.
const KEY: u32 = 1;

/// The message with what is not to be shown redacted, in messages of any depth.
pub fn redacted(any: &Any) -> Any {
    let mut schemas = Schemas::default();
    let value = match schemas.find(type_name(&any.type_url)) {
        Some(message) => redact(&message, &any.value, Hidden::Marked, &mut schemas),
        // Nobody knows what is in it.
        None => Vec::new(),
    };
    Any { type_url: any.type_url.clone(), value }
}

/// What of a message is not to be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden {
    /// What is marked so.
    Marked,
    /// All of it: it lies within such a field. Envoy: what is no text there is left out.
    All,
    /// All but the key, of an entry of a map.
    ButKey,
}

/// The encoded message without what is not to be shown.
pub(super) fn redact(message: &Arc<Message>, bytes: &[u8], hidden: Hidden, schemas: &mut Schemas) -> Vec<u8> {
    if message.known == Known::Any {
        return redact_any(bytes, hidden, schemas);
    }
    let (mut rest, mut out) = (bytes, Vec::with_capacity(bytes.len()));
    // What is shown was encoded by this process.
    while let Ok(Some(found)) = next_field(message, &mut rest) {
        let Some((index, raw)) = found.known else { continue };
        let field = &message.fields[index];
        let is_secret = match hidden {
            Hidden::Marked => field.is_sensitive,
            Hidden::All => true,
            Hidden::ButKey => found.number != KEY,
        };
        match (field.kind, raw) {
            (Kind::Message(id), Raw::Bytes(value)) => {
                let hidden = match (is_secret, field.label) {
                    (false, _) => Hidden::Marked,
                    (true, Label::Map) => Hidden::ButKey,
                    (true, Label::Single | Label::Repeated) => Hidden::All,
                };
                let inner = schemas.message(id);
                wire::bytes(found.number, &redact(&inner, &value, hidden, schemas), &mut out);
            }
            (Kind::String | Kind::Bytes, _) if is_secret => wire::bytes(found.number, REDACTED.as_bytes(), &mut out),
            _ if is_secret => {}
            _ => out.extend_from_slice(found.whole),
        }
    }
    out
}

fn redact_any(bytes: &[u8], hidden: Hidden, schemas: &mut Schemas) -> Vec<u8> {
    let (url, value) = any_parts(bytes);
    let value = match schemas.find(type_name(url)) {
        Some(inner) => redact(&inner, value, hidden, schemas),
        None if hidden == Hidden::Marked => value.to_vec(),
        None => Vec::new(),
    };
    let mut out = Vec::with_capacity(url.len() + value.len() + 16);
    wire::bytes(1, url.as_bytes(), &mut out);
    wire::bytes(2, &value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_proto::envoy::config::cluster::v3::Cluster;
    use nuncio_proto::envoy::config::core::v3::data_source::Specifier;
    use nuncio_proto::envoy::config::core::v3::transport_socket::ConfigType;
    use nuncio_proto::envoy::config::core::v3::{DataSource, TransportSocket};
    use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::{
        CommonTlsContext, TlsCertificate, UpstreamTlsContext,
    };
    use prost::{Message as _, Name};

    fn any<T: prost::Message + Name>(message: &T) -> Any {
        Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: message.encode_to_vec() }
    }

    fn inline(text: &str) -> Option<DataSource> {
        Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
    }

    fn cluster(key: &str) -> Cluster {
        let certificate = TlsCertificate {
            certificate_chain: inline("chain"),
            private_key: inline(key),
            ..TlsCertificate::default()
        };
        let common = CommonTlsContext { tls_certificates: vec![certificate], ..CommonTlsContext::default() };
        let tls = UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: "name".to_owned(),
            ..UpstreamTlsContext::default()
        };
        let socket = TransportSocket { name: "tls".to_owned(), config_type: Some(ConfigType::TypedConfig(any(&tls))) };
        Cluster { name: "c".to_owned(), transport_socket: Some(socket), ..Cluster::default() }
    }

    #[test]
    fn what_must_be_kept_is_redacted_within_an_any_and_all_else_stays() {
        let shown = redacted(&any(&cluster("secret")));
        assert_eq!(Cluster::decode(&*shown.value).unwrap(), cluster(REDACTED));
    }

    #[test]
    fn the_keys_of_a_map_are_shown() {
        use nuncio_proto::google::protobuf::{Struct, Value, value::Kind};
        let of = |text: &str| {
            let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
            Struct { fields: [("key".to_owned(), value)].into() }
        };
        let mut schemas = Schemas::default();
        let schema = schemas.find(&Struct::full_name()).unwrap();
        let shown = redact(&schema, &of("secret").encode_to_vec(), Hidden::All, &mut schemas);
        assert_eq!(Struct::decode(&*shown).unwrap(), of(REDACTED));
    }

    #[test]
    fn a_message_of_an_unknown_type_is_not_shown() {
        let unknown = Any { type_url: "type.googleapis.com/nobody.Knows".to_owned(), value: b"secret".to_vec() };
        assert!(redacted(&unknown).value.is_empty());
    }
}
