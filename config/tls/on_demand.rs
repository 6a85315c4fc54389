//! Certificates that discovery is asked for when a handshake wants them (`on_demand_secret`).
//!
//! A handshake asks for a name and waits. The control thread, which looks what is wanted, subscribes to the secret of
//! that name; when it comes, a side of the context is made with it, and those who wait go on. Where there is no such
//! secret, or no longer, they are refused, and the next handshake asks anew.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use nuncio_filter_api::{Invalid, LowerCx, LowerEnv, Readiness, Refused, Slots};
use nuncio_proto::envoy::config::core::v3::{ConfigSource, TypedExtensionConfig};
use nuncio_proto::envoy::extensions::transport_sockets::tls::cert_mappers::filter_state_override::v3::Config as ByFilterState;
use nuncio_proto::envoy::extensions::transport_sockets::tls::cert_mappers::sni::v3::Sni;
use nuncio_proto::envoy::extensions::transport_sockets::tls::cert_mappers::static_name::v3::StaticName;
use nuncio_proto::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, SdsSecretConfig};
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::stats::{GaugeHandle, Scope};
use prost::Name;
use tokio::sync::Notify;

use super::certificate::Certificate;
use super::in_use::seconds_since;
use super::live::Recipe;
use super::references::References;
use super::validation::Peer;
use crate::extension;
use crate::protocol::{any_as, message_name};
use crate::secret::{SecretKind, SecretSlot, SecretUser};

/// Names that may be waited for at once by one context: clients choose them.
const MOST_UNANSWERED: usize = 4096;

nuncio_telemetry::stats! {
    /// `on_demand_secret` of a listener or cluster.
    struct OnDemandStats {
        /// Secrets that were asked for.
        cert_requested: Counter,
        /// How often a certificate was put in force.
        cert_updated: Counter,
        /// Secrets that are asked for or there.
        cert_active: Gauge,
    }
}

/// Where certificates come from, and which it is.
pub(super) struct Selector {
    source: ConfigSource,
    mapper: Mapper,
    prefetched: Vec<String>,
}

/// How the name of the secret is found.
#[derive(Debug)]
enum Mapper {
    /// It is what the client asks for, or this.
    ServerName(Box<str>),
    /// It is always this.
    Fixed(Box<str>),
    /// It is what filters say, or this.
    FilterState(Box<str>),
}

/// Something of which a side has a certificate.
pub(super) trait HasCertificate {
    fn certificate(&self) -> Option<&Arc<Certificate>>;
}

/// Sides of a context by the names of their certificates.
pub(super) struct OnDemand<T> {
    selector: Selector,
    /// What the context refers to besides.
    references: References,
    recipe: Recipe<T>,
    /// Held for one look-up by handshakes, and to note a name that is new.
    named: Mutex<HashMap<Arc<str>, Arc<Named<T>>>>,
    teller: Arc<Notify>,
    stats: OnDemandStats,
    /// `on_demand_secret.ssl`
    scope: Scope,
    /// Kept so that it is found there.
    _all: Arc<AllOnDemand>,
}

/// The side with one certificate.
struct Named<T> {
    name: Arc<str>,
    parent: Weak<OnDemand<T>>,
    /// It has come, or does not exist.
    ready: Arc<Readiness>,
    made: ArcSwapOption<T>,
    references: OnceLock<References>,
    /// Until when it holds. Taken by those who make it, never on the data path.
    end: Mutex<Option<GaugeHandle>>,
}

/// Who asks on demand, for those who look what is wanted.
trait Asks: Send + Sync {
    /// Subscribes to what is asked for.
    fn subscribe(&self, env: &LowerEnv);
}

#[derive(Default)]
struct AllOnDemand(Mutex<Vec<Weak<dyn Asks>>>);

/// Subscribes to the secrets that handshakes have asked for.
pub fn subscribe_on_demand(env: &LowerEnv) {
    let all: Vec<_> = {
        let all = AllOnDemand::of(&env.slots);
        // As in `OnDemand::lock`.
        let mut all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    all.iter().for_each(|asks| asks.subscribe(env));
}

// === impl Selector ===

impl Selector {
    /// Takes the selector out of what both sides have; `peer` is who is shown the certificates.
    pub(super) fn take(
        common: &mut CommonTlsContext,
        peer: Peer,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        let selector = common.custom_tls_certificate_selector.take();
        cx.opt("custom_tls_certificate_selector", selector, |selector, cx| Self::lower(selector, peer, cx))
    }

    fn lower(proto: TypedExtensionConfig, peer: Peer, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let any = typed_config(proto, cx)?;
        cx.at("typed_config", |cx| {
            let (found, known) = (message_name(&any), pb::Config::full_name());
            if found != known {
                return Err(extension::refuse_unknown("certificate selector", found, [known.as_str()], cx));
            }
            let pb::Config { config_source, certificate_mapper, prefetch_secret_names } = any_as(&any, cx)?;
            let Some(source) = config_source else {
                return Err(cx.at("config_source", |cx| cx.invalid("is required")));
            };
            // Whether it can be asked is seen at once.
            let checked = cx.at("config_source", |cx| crate::discovery::ConfigSource::lower(source.clone(), cx));
            let mapper = cx.at("certificate_mapper", |cx| match certificate_mapper {
                Some(mapper) => Mapper::lower(mapper, peer, cx),
                None => Err(cx.invalid("is required")),
            });
            checked?;
            Ok(Self { source, mapper: mapper?, prefetched: prefetch_secret_names })
        })
    }
}

fn typed_config(proto: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Any, Refused> {
    // name: it is the type that tells.
    let TypedExtensionConfig { name: _, typed_config } = proto;
    typed_config.ok_or_else(|| cx.at("typed_config", |cx| cx.invalid("is required")))
}

impl Mapper {
    fn lower(proto: TypedExtensionConfig, peer: Peer, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let any = typed_config(proto, cx)?;
        let own = match peer {
            Peer::Client => Sni::full_name(),
            Peer::Server => ByFilterState::full_name(),
        };
        let known = [StaticName::full_name(), own];
        cx.at("typed_config", |cx| {
            let found = message_name(&any);
            if !known.iter().any(|known| known == found) {
                return Err(extension::refuse_unknown(
                    "certificate mapper",
                    found,
                    known.iter().map(String::as_str),
                    cx,
                ));
            }
            if found == known[0] {
                let StaticName { name } = any_as(&any, cx)?;
                return Ok(Self::Fixed(filled("name", name, cx)?));
            }
            match peer {
                Peer::Client => {
                    let Sni { default_value } = any_as(&any, cx)?;
                    Ok(Self::ServerName(filled("default_value", default_value, cx)?))
                }
                Peer::Server => {
                    let ByFilterState { default_value } = any_as(&any, cx)?;
                    Ok(Self::FilterState(filled("default_value", default_value, cx)?))
                }
            }
        })
    }
}

fn filled(field: &'static str, value: String, cx: &mut LowerCx<'_>) -> Result<Box<str>, Refused> {
    match value.is_empty() {
        true => Err(cx.at(field, |cx| cx.invalid("must not be empty"))),
        false => Ok(value.into()),
    }
}

// === impl OnDemand ===

impl<T: HasCertificate + Send + Sync + 'static> OnDemand<T> {
    /// `references` are those of the context without certificates, `recipe` makes it of those with one.
    pub(super) fn new(
        selector: Selector,
        references: References,
        recipe: Recipe<T>,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Arc<Self> {
        let scope = scope.scope("on_demand_secret");
        let all = AllOnDemand::of(&cx.env.slots);
        let made = Arc::new(Self {
            selector,
            references,
            recipe,
            named: Mutex::default(),
            teller: cx.env.slots.teller(),
            stats: OnDemandStats::new(&scope),
            scope: scope.scope("ssl"),
            _all: all.clone(),
        });
        let asks: Arc<dyn Asks> = made.clone();
        // As in `OnDemand::lock`.
        all.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&asks));
        for name in &made.selector.prefetched {
            made.demand(name);
        }
        made.subscribe(cx.env);
        made
    }

    /// The side whose certificate is shown to a client that asks for this server; `None`: it does not exist.
    pub(super) async fn for_client(self: &Arc<Self>, server_name: Option<&str>) -> Option<Arc<T>> {
        match &self.selector.mapper {
            Mapper::ServerName(default) => {
                self.side(server_name.filter(|name| !name.is_empty()).unwrap_or(default)).await
            }
            Mapper::Fixed(name) | Mapper::FilterState(name) => self.side(name).await,
        }
    }

    /// The side whose certificate is shown to a server, where filters may say which.
    pub(super) async fn for_server(self: &Arc<Self>, said: Option<&str>) -> Option<Arc<T>> {
        match &self.selector.mapper {
            Mapper::FilterState(default) => self.side(said.unwrap_or(default)).await,
            Mapper::Fixed(name) | Mapper::ServerName(name) => self.side(name).await,
        }
    }

    async fn side(self: &Arc<Self>, name: &str) -> Option<Arc<T>> {
        let named = self.demand(name)?;
        if !named.ready.is_set() {
            named.ready.wait().await;
        }
        named.made.load_full()
    }

    /// Asks for the secret of this name, unless too many are asked for.
    fn demand(self: &Arc<Self>, name: &str) -> Option<Arc<Named<T>>> {
        let mut all = self.lock();
        if let Some(named) = all.get(name) {
            return Some(named.clone());
        }
        if all.len() >= MOST_UNANSWERED {
            // Those that nobody waits for any more make room.
            let before = all.len();
            all.retain(|_, named| named.made.load().is_some() || Arc::strong_count(named) > 1);
            self.stats.cert_active().sub((before - all.len()) as u64);
            if all.values().filter(|named| named.made.load().is_none()).count() >= MOST_UNANSWERED {
                return None;
            }
        }
        let named = Arc::new(Named {
            name: name.into(),
            parent: Arc::downgrade(self),
            ready: Readiness::new(format!("on-demand secret {name}")),
            made: ArcSwapOption::empty(),
            references: OnceLock::new(),
            end: Mutex::default(),
        });
        all.insert(named.name.clone(), named.clone());
        self.stats.cert_requested().inc();
        self.stats.cert_active().inc();
        self.teller.notify_one();
        Some(named)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Named<T>>>> {
        // Nothing that is done with it held can panic half way.
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: HasCertificate + Send + Sync + 'static> Asks for OnDemand<T> {
    fn subscribe(&self, env: &LowerEnv) {
        let new: Vec<_> = self.lock().values().filter(|named| named.references.get().is_none()).cloned().collect();
        for named in new {
            named.subscribe(self, env);
        }
    }
}

impl<T> Drop for OnDemand<T> {
    fn drop(&mut self) {
        let left = self.named.get_mut().unwrap_or_else(PoisonError::into_inner).len();
        self.stats.cert_active().sub(left as u64);
    }
}

impl<T> fmt::Debug for OnDemand<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on demand by {:?}", self.selector.mapper)
    }
}

// === impl Named ===

impl<T: HasCertificate + Send + Sync + 'static> Named<T> {
    fn subscribe(self: &Arc<Self>, parent: &OnDemand<T>, env: &LowerEnv) {
        let mut cx = LowerCx::new(env);
        let config = SdsSecretConfig { name: self.name.to_string(), sds_config: Some(parent.selector.source.clone()) };
        let Ok(slot) = SecretSlot::find(config, SecretKind::TlsCertificate, &mut cx) else {
            tracing::warn!(name = %self.name, reasons = ?cx.finish(), "a secret cannot be asked for");
            return self.leave();
        };
        let has_come = slot.secret().is_some();
        let references = parent.references.with_certificate(slot);
        let user: Arc<dyn SecretUser> = self.clone();
        references.slots().for_each(|slot| slot.attach(Arc::downgrade(&user)));
        if self.references.set(references).is_ok() && has_come {
            match self.remake(env) {
                Ok(()) => self.note_update(),
                Err(reasons) => {
                    tracing::warn!(name = %self.name, ?reasons, "a secret cannot be used");
                    // It is in force for others, who must be able to change it.
                    self.leave();
                }
            }
        }
    }

    /// There is no such certificate: those who wait are refused, and the next handshake asks anew.
    fn leave(&self) {
        if let Some(parent) = self.parent.upgrade() {
            let is_this = |known: &Arc<Self>| std::ptr::eq(&**known, self);
            let mut all = parent.lock();
            if all.get(&self.name).is_some_and(is_this) {
                all.remove(&self.name);
                parent.stats.cert_active().dec();
                // Nobody wants the secret any more.
                parent.teller.notify_one();
            }
        }
        self.ready.set();
    }

    fn tell(&self, side: &T, scope: &Scope) {
        // A poisoned lock means that telling panicked: the next time tells anew.
        let mut told = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = side.certificate().filter(|certificate| !certificate.is_pkcs12).and_then(|own| own.info.as_ref());
        *told = ends.map(|info| {
            let name = format!("{}.expiration_unix_time_seconds", self.name);
            let gauge = scope.scope("certificate").gauge(&name);
            gauge.set(seconds_since(info.not_after));
            gauge
        });
    }
}

impl<T: HasCertificate + Send + Sync + 'static> SecretUser for Named<T> {
    fn remake(&self, env: &LowerEnv) -> Result<(), Vec<Invalid>> {
        let (Some(parent), Some(references)) = (self.parent.upgrade(), self.references.get()) else { return Ok(()) };
        let secret = references.slots().next().and_then(|slot| slot.secret());
        if secret.is_some_and(|secret| secret.kind() != Some(SecretKind::TlsCertificate)) {
            // Clients choose the name: one that is no certificate's must not keep that secret from changing for others.
            self.made.store(None);
            self.leave();
            return Ok(());
        }
        let mut cx = LowerCx::new(env);
        let made = (parent.recipe)(references, &mut cx).map_err(|Refused| cx.finish())?;
        if let Some(side) = &made {
            self.tell(side, &parent.scope);
        }
        self.made.store(made);
        Ok(())
    }

    fn note_update(&self) {
        if self.made.load().is_none() {
            return;
        }
        if let Some(parent) = self.parent.upgrade() {
            parent.stats.cert_updated().inc();
        }
        self.ready.set();
    }

    fn note_removal(&self, slot: &SecretSlot) {
        // The other secrets stay in force where discovery drops them.
        let own = self.references.get().and_then(|references| references.slots().next());
        if own.is_some_and(|own| std::ptr::eq(&**own, slot)) {
            self.leave();
        }
    }
}

// === impl AllOnDemand ===

impl AllOnDemand {
    fn of(slots: &Slots) -> Arc<Self> {
        slots.share("certificates on demand", Self::default)
    }
}
