//! What is made of a TLS context and of the secrets that it refers to.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use nuncio_filter_api::{Invalid, LowerCx, LowerEnv, Refused};
use nuncio_telemetry::stats::Scope;

use super::references::References;
use crate::secret::SecretUser;

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
type Recipe<T> = Box<dyn Fn(&References, &mut LowerCx<'_>) -> Result<Option<T>, Refused> + Send + Sync>;

/// The configuration of a side as it is now; another one takes its place when secrets change.
pub(super) struct Live<T> {
    made: ArcSwapOption<T>,
    recipe: Option<(References, Recipe<T>)>,
    /// Taken by those who make it, never on the data path.
    maker: Mutex<()>,
    pub(super) stats: SocketFactoryStats,
}

impl<T: Send + Sync + 'static> Live<T> {
    /// One that never changes.
    pub(super) fn fixed(made: T, scope: &Scope) -> Arc<Self> {
        Arc::new(Self {
            made: ArcSwapOption::from_pointee(made),
            recipe: None,
            maker: Mutex::default(),
            stats: SocketFactoryStats::new(scope),
        })
    }

    /// One that follows the secrets that it refers to.
    pub(super) fn following(
        references: References,
        recipe: Recipe<T>,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Self>, Refused> {
        let live = Arc::new(Self {
            made: ArcSwapOption::empty(),
            recipe: Some((references, recipe)),
            maker: Mutex::default(),
            stats: SocketFactoryStats::new(scope),
        });
        let user: Arc<dyn SecretUser> = live.clone();
        for slot in live.recipe.iter().flat_map(|(references, _)| references.slots()) {
            slot.attach(Arc::downgrade(&user) as Weak<dyn SecretUser>);
        }
        live.make(cx)?;
        Ok(live)
    }

    /// `None` while secrets are missing.
    #[inline]
    pub(super) fn current(&self) -> Option<Arc<T>> {
        self.made.load_full()
    }

    fn make(&self, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let Some((references, recipe)) = &self.recipe else { return Ok(()) };
        // A poisoned lock means that making panicked: what was made before is there.
        let _maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        self.made.store(recipe(references, cx)?.map(Arc::new));
        Ok(())
    }
}

impl<T: Send + Sync + 'static> SecretUser for Live<T> {
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
