//! Secrets: `tls.v3.Secret`, and what is asked of discovery for them.
//!
//! A secret is given by the bootstrap or by discovery, and is held by whoever refers to it through a [`SecretSlot`].
//! When another one comes, those who use it make anew what they made of it; where one of them cannot, the secret is
//! refused and the one before stays.

mod files;
mod tickets;

pub use tickets::TicketKeys;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use nuncio_filter_api::{Invalid, LowerCx, LowerEnv, Readiness, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::secret::Type;

use crate::discovery::ConfigSource;
use crate::followed::Trigger;
use crate::tls;
use crate::value::unwatched_data_source;

/// What stands where a secret is kept.
const REDACTED: &str = "[redacted]";
/// Bytes that a generic secret may have.
const MAX_GENERIC: u64 = 1 << 20;

/// A secret that can be used, as a whole: what it takes from files was read.
#[derive(Debug)]
pub struct Secret {
    /// Its name.
    pub name: Arc<str>,
    /// With the content of files in place of their names.
    message: pb::Secret,
    /// What announces that files have another content.
    pub watched: Vec<Trigger>,
}

/// A secret that configuration refers to, as those share it who refer to the same.
pub struct SecretSlot {
    /// What it is called.
    pub name: Arc<str>,
    /// Where it comes from; `None`: the bootstrap.
    pub source: Option<ConfigSource>,
    /// Whether one has come, or is known not to.
    pub ready: Arc<Readiness>,
    secret: ArcSwapOption<Secret>,
    users: Mutex<Vec<Weak<dyn SecretUser>>>,
}

/// Somebody who makes something of secrets.
pub(crate) trait SecretUser: Send + Sync {
    /// Makes it anew of what the slots hold now.
    fn remake(&self, env: &LowerEnv) -> Result<(), Vec<Invalid>>;
    /// It was made anew because a secret has changed.
    fn note_update(&self);
    /// Discovery says that the secret of `slot` does not exist. Those who wait for no answer keep what they have.
    fn note_removal(&self, slot: &SecretSlot) {
        let _ = slot;
    }
}

/// The secrets of the bootstrap, by kind and name: secrets of different kinds may have one name, as in Envoy.
#[derive(Default)]
pub struct StaticSecrets(Mutex<StaticSlots>);

type StaticSlots = HashMap<(SecretKind, Arc<str>), Arc<SecretSlot>>;

/// What a secret is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum SecretKind {
    TlsCertificate,
    SessionTicketKeys,
    ValidationContext,
    Generic,
}

// === impl Secret ===

impl Secret {
    /// Reads the files that the message names, and sees whether it can be used.
    pub fn lower(mut message: pb::Secret, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let watched = files::inline(&mut message, cx)?;
        let name = message.name.as_str().into();
        match message.r#type.clone() {
            Some(Type::TlsCertificate(proto)) => cx.at("tls_certificate", |cx| tls::check_certificate(proto, cx))?,
            Some(Type::ValidationContext(proto)) => {
                cx.at("validation_context", |cx| tls::check_validation(proto, cx))?
            }
            Some(Type::SessionTicketKeys(proto)) => {
                cx.at("session_ticket_keys", |cx| TicketKeys::lower(proto, cx)).map(drop)?;
            }
            Some(Type::GenericSecret(pb::GenericSecret { secret, secrets })) => cx.at("generic_secret", |cx| {
                let one = cx.opt("secret", secret, |source, cx| unwatched_data_source(source, MAX_GENERIC, cx));
                let all = secrets.into_values();
                let all = cx.each("secrets", all, |source, cx| unwatched_data_source(source, MAX_GENERIC, cx));
                one.and(all).map(drop)
            })?,
            None => {
                return Err(cx.invalid(
                    "one of tls_certificate, session_ticket_keys, validation_context and generic_secret is required",
                ));
            }
        }
        Ok(Self { name, message, watched })
    }

    /// `None` cannot be: such a message is refused.
    pub(crate) fn kind(&self) -> Option<SecretKind> {
        self.message.r#type.as_ref().map(|proto| match proto {
            Type::TlsCertificate(_) => SecretKind::TlsCertificate,
            Type::SessionTicketKeys(_) => SecretKind::SessionTicketKeys,
            Type::ValidationContext(_) => SecretKind::ValidationContext,
            Type::GenericSecret(_) => SecretKind::Generic,
        })
    }

    /// Whether it says the same, files included.
    pub fn is_same(&self, other: &Self) -> bool {
        self.message == other.message
    }

    /// The message without what must be kept.
    pub fn redacted(&self) -> pb::Secret {
        let mut message = self.message.clone();
        redact(&mut message);
        message
    }

    pub(crate) fn certificate(&self, cx: &mut LowerCx<'_>) -> Result<pb::TlsCertificate, Refused> {
        match &self.message.r#type {
            Some(Type::TlsCertificate(proto)) => Ok(proto.clone()),
            _ => Err(cx.invalid(format!("secret {:?} is no TLS certificate", self.name))),
        }
    }

    pub(crate) fn validation(&self, cx: &mut LowerCx<'_>) -> Result<pb::CertificateValidationContext, Refused> {
        match &self.message.r#type {
            Some(Type::ValidationContext(proto)) => Ok(proto.clone()),
            _ => Err(cx.invalid(format!("secret {:?} is no validation context", self.name))),
        }
    }

    pub(crate) fn ticket_keys(&self, cx: &mut LowerCx<'_>) -> Result<pb::TlsSessionTicketKeys, Refused> {
        match &self.message.r#type {
            Some(Type::SessionTicketKeys(proto)) => Ok(proto.clone()),
            _ => Err(cx.invalid(format!("secret {:?} holds no session ticket keys", self.name))),
        }
    }
}

/// Takes out of the message what must be kept, as Envoy does.
pub fn redact(message: &mut pb::Secret) {
    let hide = |source: &mut DataSource| {
        let hidden = match source.specifier.take() {
            Some(Specifier::InlineBytes(_)) => Some(Specifier::InlineBytes(REDACTED.into())),
            Some(Specifier::InlineString(_)) => Some(Specifier::InlineString(REDACTED.to_owned())),
            // Names tell nothing.
            other => other,
        };
        source.specifier = hidden;
    };
    match &mut message.r#type {
        Some(Type::TlsCertificate(proto)) => {
            [&mut proto.private_key, &mut proto.password, &mut proto.pkcs12].into_iter().flatten().for_each(hide);
        }
        Some(Type::SessionTicketKeys(proto)) => proto.keys.iter_mut().for_each(hide),
        Some(Type::GenericSecret(proto)) => {
            proto.secret.iter_mut().chain(proto.secrets.values_mut()).for_each(hide);
        }
        Some(Type::ValidationContext(_)) | None => {}
    }
}

// === impl SecretSlot ===

impl SecretSlot {
    /// The slot of the secret that the message refers to; its listener or cluster waits for it.
    pub(crate) fn lower(
        proto: pb::SdsSecretConfig,
        kind: SecretKind,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Self>, Refused> {
        let slot = Self::find(proto, kind, cx)?;
        if slot.source.is_some() {
            cx.wait_for(slot.ready.clone());
        }
        Ok(slot)
    }

    /// The same of one that nobody waits for.
    pub(crate) fn find(
        proto: pb::SdsSecretConfig,
        kind: SecretKind,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Self>, Refused> {
        let pb::SdsSecretConfig { name, sds_config } = proto;
        let Some(source) = sds_config else {
            let secrets = StaticSecrets::of(cx.env);
            let known = secrets.lock().get(&(kind, name.as_str().into())).cloned();
            return known.ok_or_else(|| cx.at("name", |cx| cx.invalid(format!("unknown static secret {name:?}"))));
        };
        let source = cx.at("sds_config", |cx| ConfigSource::lower(source, cx))?;
        let key = format!("{name} {source:?}");
        Ok(cx.env.slots.share(&key, || Self::new(&name, Some(source))))
    }

    fn new(name: &str, source: Option<ConfigSource>) -> Self {
        Self {
            name: name.into(),
            source,
            ready: Readiness::new(format!("shared target SdsApi {name}")),
            secret: ArcSwapOption::empty(),
            users: Mutex::default(),
        }
    }

    /// The secret that is in force.
    pub fn secret(&self) -> Option<Arc<Secret>> {
        self.secret.load_full()
    }

    /// Puts a secret in force, unless one of those who use it cannot.
    pub fn update(&self, secret: &Arc<Secret>, env: &LowerEnv) -> Result<(), Vec<Invalid>> {
        let before = self.secret.swap(Some(secret.clone()));
        let users = self.users();
        for (i, user) in users.iter().enumerate() {
            if let Err(invalid) = user.remake(env) {
                self.secret.store(before);
                for user in &users[..=i] {
                    // They made this once.
                    let _ = user.remake(env);
                }
                return Err(invalid);
            }
        }
        users.iter().for_each(|user| user.note_update());
        self.ready.set();
        Ok(())
    }

    /// Discovery says that there is no such secret.
    pub fn note_removal(&self) {
        self.users().iter().for_each(|user| user.note_removal(self));
    }

    /// Has `user` told of each change from now on.
    pub(crate) fn attach(&self, user: Weak<dyn SecretUser>) {
        let mut users = self.lock();
        users.retain(|known| known.strong_count() > 0);
        users.push(user);
    }

    fn users(&self) -> Vec<Arc<dyn SecretUser>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Taken when configuration is lowered and secrets change, never on the data path.
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn SecretUser>>> {
        // A poisoned lock means that a push panicked: the list is whole.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl StaticSecrets ===

impl StaticSecrets {
    /// Those of the process; whoever holds them keeps them.
    pub fn of(env: &LowerEnv) -> Arc<Self> {
        env.slots.share("static secrets", Self::default)
    }

    /// Lowers `static_resources.secrets`. Names that are new are in force at once; what has changed is given back, to be
    /// put in force when all of the bootstrap is.
    pub fn lower(&self, protos: Vec<pb::Secret>, cx: &mut LowerCx<'_>) -> Result<Vec<Arc<Secret>>, Refused> {
        let mut names = HashSet::new();
        let secrets = cx.each("secrets", protos, |proto, cx| {
            if proto.name.is_empty() {
                return Err(cx.at("name", |cx| cx.invalid("a secret needs a name")));
            }
            let secret = Arc::new(Secret::lower(proto, cx)?);
            if !names.insert((secret.kind(), secret.name.clone())) {
                return Err(
                    cx.at("name", |cx| cx.invalid(format!("{:?} is given to two secrets of one kind", secret.name)))
                );
            }
            Ok(secret)
        })?;
        let mut changed = Vec::new();
        for secret in secrets {
            let Some(kind) = secret.kind() else { continue };
            let mut known = self.lock();
            let slot = known.entry((kind, secret.name.clone()));
            let slot = slot.or_insert_with(|| Arc::new(SecretSlot::new(&secret.name, None)));
            match slot.secret() {
                Some(before) if before.is_same(&secret) => {}
                Some(_) => changed.push(secret),
                None => slot.secret.store(Some(secret)),
            }
        }
        Ok(changed)
    }

    /// The slot that this secret of the bootstrap belongs in.
    pub fn find(&self, secret: &Secret) -> Option<Arc<SecretSlot>> {
        self.lock().get(&(secret.kind()?, secret.name.clone())).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, StaticSlots> {
        // As in `SecretSlot::lock`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
