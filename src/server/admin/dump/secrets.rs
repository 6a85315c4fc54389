//! Secrets, without what must be kept.

use nuncio_config::secret::SecretSlot;
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use proto::secrets_config_dump::{DynamicSecret, StaticSecret};

use super::dynamic::error_state;
use super::names::Names;
use super::{any, timestamp};
use crate::admin::Admin;
use crate::update::{Id, Kind, lock};

pub(super) fn secrets(admin: &Admin, names: &Names, statics: Vec<Secret>) -> proto::SecretsConfigDump {
    let mut dump = proto::SecretsConfigDump::default();
    for secret in statics.iter().filter(|secret| names.have(&secret.name)) {
        let (name, secret) = (secret.name.clone(), Some(any(secret)));
        // Envoy does not tell since when.
        dump.static_secrets.push(StaticSecret { name, last_updated: None, secret });
    }
    let records = lock(&admin.shared.records);
    for slot in admin.env.slots.all::<SecretSlot>().into_iter().filter(|slot| names.have(&slot.name)) {
        let Some(source) = &slot.source else { continue };
        let name = slot.name.to_string();
        let record = records.find(Kind::Secret, &Id { name: slot.name.clone(), origin: source.origin.clone() });
        let error_state = record.and_then(error_state);
        let Some(secret) = slot.secret() else {
            let secret = Some(any(&Secret { name: name.clone(), ..Secret::default() }));
            let version_info = "uninitialized".to_owned();
            let warming = DynamicSecret { name, version_info, secret, error_state, ..DynamicSecret::default() };
            dump.dynamic_warming_secrets.push(warming);
            continue;
        };
        let accepted = record.and_then(|record| record.accepted.as_ref());
        dump.dynamic_active_secrets.push(DynamicSecret {
            name,
            version_info: accepted.map(|accepted| accepted.resource.version.clone()).unwrap_or_default(),
            last_updated: accepted.map(|accepted| timestamp(accepted.updated)),
            secret: Some(any(&secret.redacted())),
            error_state,
            ..DynamicSecret::default()
        });
    }
    for list in [&mut dump.dynamic_active_secrets, &mut dump.dynamic_warming_secrets] {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    dump
}
