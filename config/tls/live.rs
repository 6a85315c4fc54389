//! What is made of a TLS context and of the secrets that it refers to.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use nuncio_filter_api::{Invalid, LowerCx, LowerEnv, Refused};
use nuncio_telemetry::stats::{GaugeHandle, Scope};

use super::in_use::{Contexts, HasCertificates, seconds_since};
use super::references::References;
use crate::secret::SecretUser;

/// What Envoy calls those that are no secrets: it hashes their name, which is empty.
const UNNAMED: &str = "unnamed_cert_e3b0c442";
const UNNAMED_AUTHORITY: &str = "unnamed_ca_cert_e3b0c442";

nuncio_telemetry::stats! {
    /// `server_ssl_socket_factory` of a listener, `client_ssl_socket_factory` of a cluster.
    pub(super) struct SocketFactoryStats {
        /// How often secrets from discovery made another context.
        ssl_context_update_by_sds: Counter,
        /// Connections to hosts that failed for the lack of secrets.
        upstream_context_secrets_not_ready: Counter,
        /// Connections of clients that were closed for the lack of secrets.
        downstream_context_secrets_not_ready: Counter,
    }
}

/// Makes the configuration of a side; `None` while secrets are missing.
pub(super) type Recipe<T> = Box<dyn Fn(&References, &mut LowerCx<'_>) -> Result<Option<Arc<T>>, Refused> + Send + Sync>;

/// The configuration of a side as it is now; another one takes its place when secrets change.
pub(super) struct Live<T> {
    made: ArcSwapOption<T>,
    recipe: Option<(References, Recipe<T>)>,
    /// What is told of its certificates. Taken by those who make it, never on the data path.
    maker: Mutex<Vec<GaugeHandle>>,
    pub(super) stats: SocketFactoryStats,
    /// `ssl` of the listener or cluster.
    scope: Scope,
    /// Kept so that it is found there.
    contexts: Arc<Contexts>,
}

impl<T: Send + Sync + 'static> Live<T>
where
    Self: HasCertificates,
{
    /// One that never changes; `factory` is where it counts in `scope`.
    pub(super) fn fixed(made: Arc<T>, factory: &str, scope: &Scope, cx: &LowerCx<'_>) -> Arc<Self> {
        let live = Self::new(Some(made), None, factory, scope, cx);
        live.tell();
        live
    }

    /// One that follows the secrets that it refers to.
    pub(super) fn following(
        references: References,
        recipe: Recipe<T>,
        factory: &str,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Self>, Refused> {
        let live = Self::new(None, Some((references, recipe)), factory, scope, cx);
        let user: Arc<dyn SecretUser> = live.clone();
        for slot in live.recipe.iter().flat_map(|(references, _)| references.slots()) {
            slot.attach(Arc::downgrade(&user) as Weak<dyn SecretUser>);
        }
        live.make(cx)?;
        Ok(live)
    }

    fn new(
        made: Option<Arc<T>>,
        recipe: Option<(References, Recipe<T>)>,
        factory: &str,
        scope: &Scope,
        cx: &LowerCx<'_>,
    ) -> Arc<Self> {
        let live = Arc::new(Self {
            made: ArcSwapOption::new(made),
            recipe,
            maker: Mutex::default(),
            stats: SocketFactoryStats::new(&scope.scope(factory)),
            scope: scope.scope("ssl"),
            contexts: Contexts::of(&cx.env.slots),
        });
        let context: Arc<dyn HasCertificates> = live.clone();
        live.contexts.add(Arc::downgrade(&context));
        live
    }

    fn make(&self, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let Some((references, recipe)) = &self.recipe else { return Ok(()) };
        self.made.store(recipe(references, cx)?);
        self.tell();
        Ok(())
    }

    /// Tells until when the certificates hold.
    fn tell(&self) {
        // A poisoned lock means that telling panicked: the next time tells all anew.
        let mut told = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((validation, own)) = self.certificates() else { return };
        let names = self.recipe.as_ref().map(|(references, _)| references);
        let authority = names.and_then(References::name_of_validation).unwrap_or(UNNAMED_AUTHORITY);
        let trusted = validation.trusted();
        let ends = trusted.iter().flat_map(|authorities| authorities.told()).map(|info| info.not_after);
        let authority = ends.min().map(|end| (authority, end));
        // Envoy tells nothing of what comes in PKCS#12, and of those without a name of the last.
        let own =
            own.iter().enumerate().filter(|(_, certificate)| !certificate.is_pkcs12).filter_map(|(i, certificate)| {
                let name = names.and_then(|names| names.name_of_certificate(i)).unwrap_or(UNNAMED);
                Some((name, certificate.info.as_ref()?.not_after))
            });
        told.clear();
        for (name, end) in own.chain(authority) {
            let gauge = self.scope.scope("certificate").gauge(&format!("{name}.expiration_unix_time_seconds"));
            gauge.set(seconds_since(end));
            told.push(gauge);
        }
    }
}

impl<T: Send + Sync + 'static> Live<T> {
    /// `None` while secrets are missing.
    #[inline]
    pub(super) fn current(&self) -> Option<Arc<T>> {
        self.made.load_full()
    }
}

impl<T: Send + Sync + 'static> SecretUser for Live<T>
where
    Self: HasCertificates,
{
    fn remake(&self, env: &LowerEnv) -> Result<(), Vec<Invalid>> {
        let mut cx = LowerCx::new(env);
        self.make(&mut cx).map_err(|Refused| cx.finish())
    }

    fn note_update(&self) {
        self.stats.ssl_context_update_by_sds().inc();
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.made.load() {
            Some(made) => made.fmt(f),
            None => f.write_str("waiting for secrets"),
        }
    }
}
