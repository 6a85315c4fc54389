//! The layers of the runtime: read at the start, when files move and when admin changes something, and brought into
//! force one over the other.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nuncio_config::bootstrap::{
    RuntimeConfig, RuntimeFolder, RuntimeLayer, RuntimeLayerKind, RuntimeValues, runtime_value,
};
use nuncio_config::discovery::{ConfigSource, Origin};
use nuncio_config::followed::Change;
use nuncio_filter_api::{Runtime, RuntimeValue};
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::RuntimeStats;
use tokio::task::spawn_blocking;
use tracing::{error, warn};

use crate::files::Watch;

/// The runtime as control thread and admin share it.
pub(crate) struct Layers {
    runtime: Arc<Runtime>,
    stats: RuntimeStats,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    config: RuntimeConfig,
    /// What admin has set.
    overrides: RuntimeValues,
    /// What discovery has given, by resource.
    discovered: BTreeMap<(Arc<str>, Origin), RuntimeValues>,
    /// As they were read last, those without that had errors.
    loaded: Vec<(String, RuntimeValues)>,
}

/// Why admin cannot change anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModifyError {
    #[error("No admin layer specified")]
    NoAdminLayer,
    #[error("{key}: {reason}")]
    Value { key: String, reason: String },
}

/// What the layers have under a key, empty where there is nothing.
pub(crate) struct Entry {
    pub(crate) values: Vec<String>,
}

// === impl Layers ===

impl Layers {
    /// No layer.
    pub(crate) fn new(runtime: Arc<Runtime>, store: &Store) -> Self {
        Self { runtime, stats: RuntimeStats::new(&store.scope("runtime")), state: Mutex::default() }
    }

    /// Takes these layers instead of those that there are. What admin has set remains.
    pub(crate) fn configure(&self, config: RuntimeConfig) {
        let mut state = self.lock();
        state.config = config;
        let State { config, discovered, .. } = &mut *state;
        discovered.retain(|(name, origin), _| {
            config.discovered().any(|(wanted, source)| wanted == name && source.origin == *origin)
        });
        self.load(&mut state);
    }

    /// The resources that are to come by discovery.
    pub(crate) fn wanted(&self) -> Vec<(Arc<str>, ConfigSource)> {
        self.lock().config.discovered().map(|(name, source)| (name.clone(), source.clone())).collect()
    }

    /// Takes the values of a resource instead of those that it had.
    pub(crate) fn take(&self, resource: Arc<str>, origin: Origin, values: RuntimeValues) {
        let mut state = self.lock();
        state.discovered.insert((resource, origin), values);
        self.load(&mut state);
    }

    /// Reads all layers again.
    pub(crate) fn reload(&self) {
        self.load(&mut self.lock());
    }

    /// Sets what admin was given; an empty value takes back what was set before.
    pub(crate) fn modify<'a>(&self, changes: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), ModifyError> {
        let mut state = self.lock();
        if !state.config.layers.iter().any(|layer| layer.kind == RuntimeLayerKind::Admin) {
            return Err(ModifyError::NoAdminLayer);
        }
        let mut overrides = state.overrides.clone();
        for (key, text) in changes {
            overrides.remove(key);
            if !text.is_empty() {
                let failed = |reason| ModifyError::Value { key: key.to_owned(), reason };
                overrides.insert(key.to_owned(), runtime_value(text).map_err(failed)?);
            }
        }
        self.stats.admin_overrides_active().set(u64::from(!overrides.is_empty()));
        state.overrides = overrides;
        self.load(&mut state);
        Ok(())
    }

    /// The names of the layers that are in force, and what they have under each key.
    pub(crate) fn entries(&self) -> (Vec<String>, BTreeMap<String, Entry>) {
        let state = self.lock();
        let keys = state.loaded.iter().flat_map(|(_, values)| values.keys());
        let text = |values: &RuntimeValues, key: &str| values.get(key).map_or_else(String::new, |v| v.text.clone());
        let entry = |key: &str| Entry { values: state.loaded.iter().map(|(_, values)| text(values, key)).collect() };
        let entries = keys.map(|key| (key.clone(), entry(key))).collect();
        (state.loaded.iter().map(|(name, _)| name.clone()).collect(), entries)
    }

    fn load(&self, state: &mut State) {
        let (mut loaded, mut failed, mut folders) = (Vec::new(), false, 0);
        for RuntimeLayer { name, kind } in &state.config.layers {
            let values = match kind {
                RuntimeLayerKind::Static(values) => values.clone(),
                RuntimeLayerKind::Admin => state.overrides.clone(),
                RuntimeLayerKind::Discovered { resource, source } => {
                    let values = state.discovered.get(&(resource.clone(), source.origin.clone()));
                    values.cloned().unwrap_or_default()
                }
                RuntimeLayerKind::Disk(folder) => match folder.read() {
                    None => continue,
                    Some(Ok(values)) => {
                        folders += 1;
                        values
                    }
                    Some(Err(reason)) => {
                        warn!(target: "runtime", "error loading runtime values for layer {name} from disk: {reason}");
                        failed = true;
                        continue;
                    }
                },
            };
            loaded.push((name.clone(), values));
        }
        let merged: HashMap<String, Arc<RuntimeValue>> = loaded
            .iter()
            .flat_map(|(_, values)| values.iter().map(|(key, value)| (key.clone(), Arc::new(value.clone()))))
            .collect();
        let count = if failed { self.stats.load_error() } else { self.stats.load_success() };
        count.inc();
        // Envoy takes any second folder for one that overrides the first.
        match folders {
            0 | 1 => self.stats.override_dir_not_exists().inc(),
            _ => self.stats.override_dir_exists().inc(),
        }
        self.stats.num_keys().set(merged.len() as u64);
        self.stats.num_layers().set(loaded.len() as u64);
        state.loaded = loaded;
        self.runtime.publish(merged);
    }

    /// The links whose replacement asks for another load, each as often as there are layers.
    fn links(&self) -> Vec<RuntimeFolder> {
        let state = self.lock();
        let folder = |layer: &RuntimeLayer| match &layer.kind {
            RuntimeLayerKind::Disk(folder) => Some(folder.clone()),
            RuntimeLayerKind::Static(_) | RuntimeLayerKind::Admin | RuntimeLayerKind::Discovered { .. } => None,
        };
        state.config.layers.iter().filter_map(folder).collect()
    }

    /// Held while layers are read, by the control thread and admin; never by those who look at values.
    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic leaves is what the load before it found.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the layers again whenever one of their links is replaced, until it is dropped.
pub(crate) async fn follow(layers: Arc<Layers>) {
    let mut watch = match Watch::new() {
        Ok(watch) => watch,
        Err(error) => return error!(target: "runtime", %error, "folders of the runtime cannot be watched"),
    };
    loop {
        let links = layers.links();
        let parent = |folder: &RuntimeFolder| folder.link.parent().map(Path::to_owned).unwrap_or_default();
        let parents: Vec<_> = links.iter().map(parent).collect();
        watch.reconcile(
            parents.iter().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }),
        );
        let Change { folder, name, is_write } = watch.next().await;
        if is_write {
            continue;
        }
        let moved = folder.join(name);
        let is_meant = |link: &Path| link == moved || (folder == Path::new(".") && Path::new(".").join(link) == moved);
        for _ in links.iter().filter(|folder| is_meant(&folder.link)) {
            let layers = layers.clone();
            // A panic was logged by the process's hook.
            let _ = spawn_blocking(move || layers.reload()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, kind: RuntimeLayerKind) -> RuntimeLayer {
        RuntimeLayer { name: name.to_owned(), kind }
    }

    fn values(key: &str, text: &str) -> RuntimeValues {
        RuntimeValues::from([(key.to_owned(), runtime_value(text).unwrap())])
    }

    #[test]
    fn later_layers_win_and_what_admin_takes_back_is_gone() {
        let (runtime, store) = (Arc::new(Runtime::default()), Store::new());
        let layers = Layers::new(runtime.clone(), &store);
        let key = runtime.key("a");
        let config = RuntimeConfig {
            layers: vec![
                layer("s", RuntimeLayerKind::Static(values("a", "1"))),
                layer("t", RuntimeLayerKind::Static(values("a", "2"))),
                layer("admin", RuntimeLayerKind::Admin),
            ],
        };
        layers.configure(config);
        assert_eq!(key.integer(0), 2);
        layers.modify([("a", "3"), ("b", "4")].into_iter()).unwrap();
        assert_eq!((key.integer(0), runtime.key("b").integer(0)), (3, 4));
        assert_eq!(layers.entries().1["a"].values, ["1", "2", "3"]);
        assert!(layers.modify([("a", ""), ("b", "x: [")].into_iter()).is_err());
        assert_eq!(key.integer(0), 3, "all or nothing");
        layers.modify([("a", "")].into_iter()).unwrap();
        assert_eq!(key.integer(0), 2);
    }

    #[test]
    fn without_a_layer_of_its_own_admin_changes_nothing() {
        let layers = Layers::new(Arc::default(), &Store::new());
        assert!(matches!(layers.modify([("a", "1")].into_iter()), Err(ModifyError::NoAdminLayer)));
    }
}
