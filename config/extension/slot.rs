//! Configurations of filters that are given by discovery (ECDS), and those who follow them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use nuncio_filter_api::{Invalid, InvalidKind, LowerCx, LowerEnv, Readiness, Refused};
use nuncio_proto::envoy::config::core::v3::{ExtensionConfigSource, TypedExtensionConfig};
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::stats::catalogue::ExtensionStats;
use nuncio_telemetry::stats::{Scope, Store};

use crate::discovery::ConfigSource;
use crate::protocol::message_name;

/// What a configuration that is given by discovery is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// HTTP filters of listeners.
    HttpFilter,
    /// HTTP filters of clusters and routers.
    UpstreamHttpFilter,
    /// Network filters.
    NetworkFilter,
    /// Listener filters.
    ListenerFilter,
    /// Session filters of `udp_proxy`.
    UdpSessionFilter,
}

/// A configuration that is given by discovery, as those share it who ask for the same.
pub struct ExtensionSlot {
    /// What it is called.
    pub name: Arc<str>,
    /// What it is for.
    pub category: Category,
    /// Where it comes from.
    pub source: ConfigSource,
    /// Whether one has come, or is known not to.
    pub ready: Arc<Readiness>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    config: Option<Any>,
    followers: Vec<Weak<dyn Follower>>,
}

/// Somebody who makes something of a configuration.
trait Follower: Send + Sync {
    /// Makes it, to be put in force where all others can do so too.
    fn prepare(self: Arc<Self>, config: &Any, env: &LowerEnv) -> Result<Box<dyn FnOnce() + Send>, Vec<Invalid>>;
    /// There is no configuration; `keeps` says that one there was may stay.
    fn fall_back(&self, keeps: bool);
}

/// Makes a filter of its configuration message.
type Lower<T> = Box<dyn Fn(&Any, &mut LowerCx<'_>) -> Result<Arc<T>, Refused> + Send + Sync>;

/// A filter whose configuration is given by discovery.
pub struct Discovered<T: ?Sized> {
    slot: Arc<ExtensionSlot>,
    lower: Lower<T>,
    /// Full names of the messages that it may be configured by.
    messages: Box<[String]>,
    scope: Scope,
    listener: Option<Scope>,
    default: Option<Arc<Arc<T>>>,
    current: ArcSwapOption<Arc<T>>,
}

// === impl Category ===

impl Category {
    /// Where what is counted of such a configuration is kept.
    pub fn scope(self, name: &str, store: &Store) -> Scope {
        let prefix = match self {
            Self::HttpFilter => "http_filter",
            Self::UpstreamHttpFilter => "upstream_http_filter",
            Self::NetworkFilter => "network_filter",
            Self::ListenerFilter => "tcp_listener_filter",
            Self::UdpSessionFilter => "udp_session_filter",
        };
        store.scope("extension_config_discovery").scope(prefix).scope(name)
    }
}

/// The configuration of a resource of ECDS.
pub fn lower_extension(proto: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Any, Refused> {
    // name: by it the resource was asked for.
    let TypedExtensionConfig { name: _, typed_config } = proto;
    typed_config.ok_or_else(|| cx.at("typed_config", |cx| cx.invalid("is required")))
}

// === impl ExtensionSlot ===

impl ExtensionSlot {
    fn share(name: &str, category: Category, source: ConfigSource, env: &LowerEnv) -> Arc<Self> {
        env.slots.share(&format!("{category:?} {name} {source:?}"), || Self {
            name: name.into(),
            category,
            ready: Readiness::new(format!("shared target FilterConfigSubscription init {name}")),
            source,
            inner: Mutex::default(),
        })
    }

    /// Puts a configuration in force for all who follow it, or for none.
    pub fn update(&self, config: &Any, env: &LowerEnv) -> Result<(), Vec<Invalid>> {
        let (before, followers) = {
            let mut inner = self.lock();
            (inner.config.replace(config.clone()), inner.followers())
        };
        let prepared: Result<Vec<_>, _> = followers.into_iter().map(|f| f.prepare(config, env)).collect();
        match prepared {
            Ok(prepared) => prepared.into_iter().for_each(|put_in_force| put_in_force()),
            Err(reasons) => {
                self.lock().config = before;
                return Err(reasons);
            }
        }
        self.ready.set();
        Ok(())
    }

    /// It is not there any longer.
    pub fn remove(&self) {
        let followers = {
            let mut inner = self.lock();
            inner.config = None;
            inner.followers()
        };
        followers.iter().for_each(|follower| follower.fall_back(false));
    }

    /// It did not come; whoever has none does with the default, and nobody waits for it any longer.
    pub fn give_up(&self) {
        let followers = self.lock().followers();
        followers.iter().for_each(|follower| follower.fall_back(true));
        self.ready.set();
    }

    /// Taken when configuration is lowered and changes, never on the data path.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done with it held can panic half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn followers(&self) -> Vec<Arc<dyn Follower>> {
        self.followers.iter().filter_map(Weak::upgrade).collect()
    }
}

// === impl Discovered ===

impl<T: ?Sized + Send + Sync + 'static> Discovered<T> {
    /// The filter called `name`, whose listener or cluster waits for it unless it is to do with its default.
    pub fn lower(
        name: &str,
        category: Category,
        proto: ExtensionConfigSource,
        lower: impl Fn(&Any, &mut LowerCx<'_>) -> Result<Arc<T>, Refused> + Send + Sync + 'static,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Self>, Refused> {
        let ExtensionConfigSource { config_source, default_config, apply_default_config_without_warming, type_urls } =
            proto;
        let source = match config_source {
            Some(source) => cx.at("config_source", |cx| ConfigSource::lower(source, cx)),
            None => Err(cx.at("config_source", |cx| cx.invalid("is required"))),
        };
        let messages = cx.each("type_urls", type_urls, |url, _| Ok(url.rsplit('/').next().unwrap_or_default().into()));
        let messages: Box<[String]> = messages?.into();
        let default = cx.opt("default_config", default_config, |any, cx| {
            check_type(&any, &messages, cx)?;
            lower(&any, cx).map(Arc::new)
        })?;
        if apply_default_config_without_warming && default.is_none() {
            let reason = "needs a default_config";
            return Err(cx.at("apply_default_config_without_warming", |cx| cx.invalid(reason)));
        }
        let slot = ExtensionSlot::share(name, category, source?, cx.env);
        let this = Arc::new(Self {
            current: ArcSwapOption::new(default.clone().filter(|_| apply_default_config_without_warming)),
            lower: Box::new(lower),
            messages,
            scope: cx.scope().clone(),
            listener: cx.listener().cloned(),
            default,
            slot,
        });
        this.attach(cx.env);
        if !apply_default_config_without_warming {
            cx.wait_for(this.slot.ready.clone());
        }
        Ok(this)
    }

    /// The filter that is in force, if any.
    pub fn current(&self) -> Option<Arc<T>> {
        self.current.load().as_deref().cloned()
    }

    fn attach(self: &Arc<Self>, env: &LowerEnv) {
        let follower: Arc<dyn Follower> = self.clone();
        let config = {
            let mut inner = self.slot.lock();
            inner.followers.retain(|known| known.strong_count() > 0);
            inner.followers.push(Arc::downgrade(&follower));
            inner.config.clone()
        };
        match config.map(|config| follower.clone().prepare(&config, env)) {
            Some(Ok(put_in_force)) => put_in_force(),
            // Envoy: what others have is not for this one, and the listener comes up all the same.
            Some(Err(reasons)) => {
                let scope = self.slot.category.scope(&self.slot.name, &env.stats);
                ExtensionStats::new(&scope).config_conflict().inc();
                tracing::warn!(name = %self.slot.name, reason = ?reasons.first(), "discovered configuration is not for this filter");
                self.fall_back(true);
            }
            None if self.slot.ready.is_set() => self.fall_back(true),
            None => {}
        }
    }
}

impl<T: ?Sized + Send + Sync + 'static> Follower for Discovered<T> {
    fn prepare(self: Arc<Self>, config: &Any, env: &LowerEnv) -> Result<Box<dyn FnOnce() + Send>, Vec<Invalid>> {
        let lower = |cx: &mut LowerCx<'_>| {
            cx.at("typed_config", |cx| {
                check_type(config, &self.messages, cx)?;
                (self.lower)(config, cx)
            })
        };
        let lowered = LowerCx::whole(env, |cx| {
            cx.in_scope(self.scope.clone(), |cx| match &self.listener {
                Some(listener) => cx.in_listener(listener.clone(), lower),
                None => lower(cx),
            })
        })?;
        Ok(Box::new(move || self.current.store(Some(Arc::new(lowered)))))
    }

    fn fall_back(&self, keeps: bool) {
        if !keeps || self.current.load().is_none() {
            self.current.store(self.default.clone());
        }
    }
}

fn check_type(any: &Any, messages: &[String], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let message = message_name(any);
    if messages.iter().any(|expected| expected == message) {
        return Ok(());
    }
    let reason = format!("filter config has type URL {message} but expect {}", messages.join(", "));
    Err(cx.at("@type", |cx| cx.record(InvalidKind::UnknownType, reason)))
}
