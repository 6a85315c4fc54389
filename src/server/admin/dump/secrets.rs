//! Secrets, without what must be kept.

use nuncio_config::secret::{SecretSlot, redact};
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use nuncio_proto::google::protobuf::Timestamp;
use proto::secrets_config_dump::{DynamicSecret, StaticSecret};

use super::{any, timestamp};
use crate::admin::Admin;
use crate::update::{Kind, lock};

pub(super) fn secrets(
    admin: &Admin,
    statics: Vec<Secret>,
    last_updated: Option<Timestamp>,
) -> proto::SecretsConfigDump {
    let mut dump = proto::SecretsConfigDump::default();
    for mut secret in statics {
        redact(&mut secret);
        let (name, secret) = (secret.name.clone(), Some(any(&secret)));
        dump.static_secrets.push(StaticSecret { name, last_updated, secret });
    }
    let records = lock(&admin.shared.records);
    for slot in admin.env.slots.all::<SecretSlot>().into_iter().filter(|slot| slot.source.is_some()) {
        let name = slot.name.to_string();
        let Some(secret) = slot.secret() else {
            let secret = Some(any(&Secret { name: name.clone(), ..Secret::default() }));
            dump.dynamic_warming_secrets.push(DynamicSecret { name, secret, ..DynamicSecret::default() });
            continue;
        };
        let accepted = records.all(Kind::Secret).find(|(id, _)| id.name == slot.name);
        let accepted = accepted.and_then(|(_, record)| record.accepted.as_ref());
        dump.dynamic_active_secrets.push(DynamicSecret {
            name,
            version_info: accepted.map(|accepted| accepted.resource.version.clone()).unwrap_or_default(),
            last_updated: accepted.map(|accepted| timestamp(accepted.updated)),
            secret: Some(any(&secret.redacted())),
            ..DynamicSecret::default()
        });
    }
    for list in [&mut dump.dynamic_active_secrets, &mut dump.dynamic_warming_secrets] {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    dump
}
