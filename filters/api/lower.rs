//! How configuration is lowered: from messages to ready-to-run types, with every refusal recorded by its path.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};

use nuncio_telemetry::NodeInfo;
use nuncio_telemetry::stats::Scope;

use crate::{ClusterNames, Readiness, Registry, Runtime, RuntimeKey, Slots};

/// Which kind of refusal an [`Invalid`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidKind {
    /// The value breaks a rule of its field, or of Envoy.
    Value,
    /// A field no message of Envoy has.
    UnknownField,
    /// A type URL Envoy does not know.
    UnknownType,
    /// Envoy has it, nuncio does not implement it yet.
    NotImplemented,
}

/// One reason for which a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field from the root of the resource, such as `filter_chains[0].filters[1].typed_config.stat_prefix`.
    pub path: String,
    /// What is wrong, in one sentence without full stop.
    pub reason: String,
    /// Which kind of refusal.
    pub kind: InvalidKind,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.reason),
            false => write!(f, "{}: {}", self.path, self.reason),
        }
    }
}

/// Proof that the reason for a refusal was recorded in the [`LowerCx`]. Carries nothing, so that `?` is cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What lowering needs from outside: the tables of extensions and the names it resolves.
pub struct LowerEnv {
    /// Filters by type URL.
    pub registry: Registry,
    /// Interner of cluster names.
    pub clusters: Arc<ClusterNames>,
    /// Configurations that several places give under one name.
    pub shared: crate::SharedConfigs,
    /// Stats that lowered config resolves its handles in.
    pub stats: nuncio_telemetry::stats::Store,
    /// Opens access logs.
    pub files: Arc<nuncio_telemetry::access_log::FileManager>,
    /// Number of workers.
    pub concurrency: usize,
    /// The address of this host that others know: stands for loopback peers in X-Forwarded-For.
    pub local_ip: std::net::IpAddr,
    /// `node` of the bootstrap after the command line's overrides: id, cluster and zone.
    pub node: NodeNames,
    /// What discovery fills.
    pub slots: Slots,
    /// Services at addresses of their own, by all that is said of them.
    pub own_services: Slots,
    /// Values that may change at any time.
    pub runtime: Arc<Runtime>,
    /// Whether aggregated discovery tells changes, rather than the state of the world.
    pub is_ads_delta: bool,
    /// Bytes that a connection to an internal listener buffers in each direction, once the bootstrap allows any.
    pub internal_buffer: OnceLock<u32>,
}

impl LowerEnv {
    /// One in which nothing is known yet of what was lowered in this one, and nothing is counted.
    pub fn afresh(&self) -> Self {
        Self {
            registry: self.registry.clone(),
            clusters: Arc::default(),
            shared: crate::SharedConfigs::default(),
            stats: nuncio_telemetry::stats::Store::new(),
            files: self.files.clone(),
            concurrency: self.concurrency,
            local_ip: self.local_ip,
            node: self.node.clone(),
            slots: Slots::default(),
            own_services: Slots::default(),
            runtime: Arc::default(),
            is_ads_delta: self.is_ads_delta,
            internal_buffer: OnceLock::new(),
        }
    }
}

/// Names that identify this process; empty where not given.
#[derive(Clone, Debug, Default)]
pub struct NodeNames {
    /// node.id or `--service-node`
    pub id: String,
    /// node.cluster or `--service-cluster`
    pub cluster: String,
    /// node.locality.zone or `--service-zone`
    pub zone: String,
    /// All of it, for expressions.
    pub info: Arc<NodeInfo>,
}

/// The place lowering has reached, and the refusals so far. Lowering goes on after a refusal, to find all of them.
pub struct LowerCx<'a> {
    /// What lowering needs from outside.
    pub env: &'a LowerEnv,
    path: String,
    invalid: Vec<Invalid>,
    scope: Scope,
    listener: Option<Scope>,
    waits: Vec<Arc<Readiness>>,
}

impl<'a> LowerCx<'a> {
    /// A context at the root of a resource.
    pub fn new(env: &'a LowerEnv) -> Self {
        Self {
            env,
            path: String::new(),
            invalid: Vec::new(),
            scope: env.stats.scope(""),
            listener: None,
            waits: Vec::new(),
        }
    }

    /// Lowers a resource as a whole: what `lower` makes of it, or all that is wrong with it.
    pub fn whole<T>(env: &'a LowerEnv, lower: impl FnOnce(&mut Self) -> Result<T, Refused>) -> Result<T, Vec<Invalid>> {
        let mut cx = Self::new(env);
        let lowered = lower(&mut cx);
        let invalid = cx.finish();
        match lowered {
            Ok(lowered) if invalid.is_empty() => Ok(lowered),
            Ok(_) | Err(Refused) => Err(invalid),
        }
    }

    /// Runs `f` with `field` appended to the path.
    pub fn at<R>(&mut self, field: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        if len > 0 {
            self.path.push('.');
        }
        self.path.push_str(field);
        let result = f(self);
        self.path.truncate(len);
        result
    }

    /// Runs `f` with `[index]` appended to the path.
    pub fn at_index<R>(&mut self, index: usize, f: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        // Writing to a String cannot fail.
        let _ = write!(self.path, "[{index}]");
        let result = f(self);
        self.path.truncate(len);
        result
    }

    /// Runs `f` with `["key"]` appended to the path.
    pub fn at_key<R>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        let _ = write!(self.path, "[{key:?}]");
        let result = f(self);
        self.path.truncate(len);
        result
    }

    /// Runs `f` with filters counting in `scope`: a connection manager gives them `http.<stat_prefix>`.
    pub fn in_scope<R>(&mut self, scope: Scope, f: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.scope, scope);
        let result = f(self);
        self.scope = outer;
        result
    }

    /// Where a filter counts what it does; the root outside of every filter chain.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Runs `f` as part of a listener whose stats are in `scope`.
    pub fn in_listener<R>(&mut self, scope: Scope, f: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.listener.replace(scope);
        let result = f(self);
        self.listener = outer;
        result
    }

    /// The scope of the listener that is being lowered (`listener.<address>`), for filters that count there too.
    pub fn listener(&self) -> Option<&Scope> {
        self.listener.as_ref()
    }

    /// The listener that is being lowered is not to be used before this is ready.
    pub fn wait_for(&mut self, readiness: Arc<Readiness>) {
        self.waits.push(readiness);
    }

    /// What was to be waited for so far.
    pub fn take_waits(&mut self) -> Vec<Arc<Readiness>> {
        std::mem::take(&mut self.waits)
    }

    /// Lowers each element of the repeated `field`. All are lowered even if one is refused.
    pub fn each<T, R>(
        &mut self,
        field: &str,
        items: impl IntoIterator<Item = T>,
        mut f: impl FnMut(T, &mut Self) -> Result<R, Refused>,
    ) -> Result<Vec<R>, Refused> {
        self.at(field, |cx| {
            let items = items.into_iter();
            let mut all = Vec::with_capacity(items.size_hint().0);
            let mut refused = false;
            for (i, item) in items.enumerate() {
                match cx.at_index(i, |cx| f(item, cx)) {
                    Ok(r) => all.push(r),
                    Err(Refused) => refused = true,
                }
            }
            if refused { Err(Refused) } else { Ok(all) }
        })
    }

    /// Lowers the optional `field` if it is set.
    pub fn opt<T, R>(
        &mut self,
        field: &str,
        value: Option<T>,
        f: impl FnOnce(T, &mut Self) -> Result<R, Refused>,
    ) -> Result<Option<R>, Refused> {
        value.map(|v| self.at(field, |cx| f(v, cx))).transpose()
    }

    /// Records that the value at the current path is refused.
    pub fn invalid(&mut self, reason: impl Into<String>) -> Refused {
        self.record(InvalidKind::Value, reason.into())
    }

    /// Records that the value at the current path is something nuncio does not implement yet.
    pub fn not_implemented(&mut self, what: impl fmt::Display) -> Refused {
        self.record(InvalidKind::NotImplemented, format!("{what} is not implemented yet"))
    }

    /// Refuses `field` by name if it was set: Envoy has it, nuncio does not implement it yet.
    pub fn unsupported(&mut self, field: &str, value: &impl IsSet) -> Result<(), Refused> {
        if value.is_set() {
            return Err(self.at(field, |cx| cx.record(InvalidKind::NotImplemented, "not implemented yet".to_owned())));
        }
        Ok(())
    }

    /// Records an [`Invalid`] of the given kind at the current path.
    pub fn record(&mut self, kind: InvalidKind, reason: String) -> Refused {
        self.invalid.push(Invalid { path: self.path.clone(), reason, kind });
        Refused
    }

    /// The value that the runtime has under `name`; empty for none.
    pub fn runtime(&self, name: &str) -> RuntimeKey {
        self.env.runtime.key(name)
    }

    /// The current path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether anything was refused so far.
    pub fn is_refused(&self) -> bool {
        !self.invalid.is_empty()
    }

    /// Ends lowering: the refusals recorded, in the order in which they were found.
    pub fn finish(self) -> Vec<Invalid> {
        self.invalid
    }
}

/// Whether a protobuf field was set, in the sense of proto3: not its default.
pub trait IsSet {
    /// True if it was.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V, S> IsSet for HashMap<K, V, S> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

macro_rules! is_set_number {
    ($($t:ty),*) => { $(impl IsSet for $t {
        fn is_set(&self) -> bool {
            *self != <$t>::default()
        }
    })* };
}
is_set_number!(bool, i32, u32, i64, u64, f32, f64);
