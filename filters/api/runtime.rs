//! The runtime: values that may change while traffic flows, by keys that configuration names.
//!
//! Whoever is lowered asks once for its [`RuntimeKey`], which costs an atomic load where it is looked at and no layer
//! has a value for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;

/// A value, with every meaning that it has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeValue {
    /// As it was written.
    pub text: String,
    /// As a boolean.
    pub flag: Option<bool>,
    /// As a number.
    pub number: Option<f64>,
    /// As a number without sign, rounded down.
    pub integer: Option<u64>,
    /// As a `FractionalPercent`: numerator and denominator.
    pub share: Option<(u32, u32)>,
}

/// A key, and the value that it has now.
#[derive(Clone)]
pub struct RuntimeKey(Option<Arc<Place>>);

/// All values in force, and the places where those are looked at that somebody needs.
#[derive(Default)]
pub struct Runtime(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    values: HashMap<String, Arc<RuntimeValue>>,
    places: HashMap<String, Weak<Place>>,
    /// Called after each change.
    watchers: Vec<Box<dyn Fn() + Send>>,
}

/// Where the value of a key is.
struct Place {
    key: String,
    /// Whether there is one: what most requests look at is not set.
    is_set: AtomicBool,
    value: ArcSwapOption<RuntimeValue>,
}

/// Places that nobody needs any more are looked for when there are so many.
const SWEEP: usize = 1024;

// === impl RuntimeKey ===

impl RuntimeKey {
    /// No key: every value is the default.
    pub const NONE: Self = Self(None);

    /// Its name, empty for no key.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("", |place| &place.key)
    }

    /// The number without sign.
    #[inline]
    pub fn integer(&self, default: u64) -> u64 {
        self.read(|value| value.integer).unwrap_or(default)
    }

    /// The number without sign, where there is one.
    #[inline]
    pub fn set_integer(&self) -> Option<u64> {
        self.read(|value| value.integer)
    }

    /// The number.
    #[inline]
    pub fn number(&self, default: f64) -> f64 {
        self.read(|value| value.number).unwrap_or(default)
    }

    /// The boolean.
    #[inline]
    pub fn flag(&self, default: bool) -> bool {
        self.read(|value| value.flag).unwrap_or(default)
    }

    /// A share as numerator and denominator. Envoy: a plain number is a percentage.
    #[inline]
    pub fn share(&self, default: (u32, u32)) -> (u32, u32) {
        self.set_share().unwrap_or(default)
    }

    /// The share, where there is one.
    #[inline]
    pub fn set_share(&self) -> Option<(u32, u32)> {
        let percentage = |n: u64| (u32::try_from(n.min(100)).unwrap_or(100), 100);
        self.read(|value| value.share.or(value.integer.map(percentage)))
    }

    /// Whether what has these random bits is among so many percent of all.
    #[inline]
    pub fn holds_for_percent(&self, default: u64, random: impl FnOnce() -> u64) -> bool {
        match self.integer(default) {
            0 => false,
            100.. => true,
            percent => random() % 100 < percent,
        }
    }

    #[inline]
    fn read<T>(&self, of: impl FnOnce(&RuntimeValue) -> Option<T>) -> Option<T> {
        let place = self.0.as_ref().filter(|place| place.is_set.load(Ordering::Acquire))?;
        place.value.load().as_deref().and_then(of)
    }
}

impl PartialEq for RuntimeKey {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for RuntimeKey {}

impl Default for RuntimeKey {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Debug for RuntimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name())
    }
}

// === impl Place ===

impl Place {
    fn set(&self, value: Option<Arc<RuntimeValue>>) {
        let is_set = value.is_some();
        self.value.store(value);
        self.is_set.store(is_set, Ordering::Release);
    }
}

// === impl Runtime ===

impl Runtime {
    /// The key of this name; an empty name is no key.
    pub fn key(&self, name: &str) -> RuntimeKey {
        if name.is_empty() {
            return RuntimeKey::NONE;
        }
        let mut inner = self.lock();
        if let Some(place) = inner.places.get(name).and_then(Weak::upgrade) {
            return RuntimeKey(Some(place));
        }
        if inner.places.len() >= SWEEP && inner.places.len().is_power_of_two() {
            inner.places.retain(|_, place| place.strong_count() > 0);
        }
        let place =
            Arc::new(Place { key: name.to_owned(), is_set: AtomicBool::new(false), value: ArcSwapOption::empty() });
        place.set(inner.values.get(name).cloned());
        inner.places.insert(name.to_owned(), Arc::downgrade(&place));
        RuntimeKey(Some(place))
    }

    /// The value of a key now, for what is decided when configuration is lowered or changed.
    pub fn value(&self, name: &str) -> Option<Arc<RuntimeValue>> {
        self.lock().values.get(name).cloned()
    }

    /// The values now whose keys begin so, by the rest of their keys.
    pub fn below(&self, prefix: &str) -> Vec<(String, Arc<RuntimeValue>)> {
        let inner = self.lock();
        let rests = inner.values.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        rests.map(|(rest, value)| (rest.to_owned(), value.clone())).collect()
    }

    /// Brings these values into force, and no others.
    pub fn publish(&self, values: HashMap<String, Arc<RuntimeValue>>) {
        let mut inner = self.lock();
        inner.values = values;
        inner.places.retain(|_, place| place.strong_count() > 0);
        for (name, place) in &inner.places {
            if let Some(place) = place.upgrade() {
                place.set(inner.values.get(name).cloned());
            }
        }
        let watchers = std::mem::take(&mut inner.watchers);
        // They may ask for values.
        drop(inner);
        watchers.iter().for_each(|watcher| watcher());
        self.lock().watchers.extend(watchers);
    }

    /// Has `watcher` called after each change, on the thread that makes it.
    pub fn watch(&self, watcher: impl Fn() + Send + 'static) {
        self.lock().watchers.push(Box::new(watcher));
    }

    /// Taken when configuration is lowered or values change, never for a request.
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing that is done with it held can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, value: RuntimeValue) -> HashMap<String, Arc<RuntimeValue>> {
        HashMap::from([(name.to_owned(), Arc::new(value))])
    }

    #[test]
    fn a_key_has_the_value_of_now() {
        let runtime = Runtime::default();
        let (key, other) = (runtime.key("a"), runtime.key("b"));
        assert_eq!((key.integer(3), key.flag(true), key.number(0.5)), (3, true, 0.5));
        let number = RuntimeValue { integer: Some(7), number: Some(7.5), ..RuntimeValue::default() };
        runtime.publish(values("a", number));
        assert_eq!((key.integer(3), key.flag(true), key.number(0.5)), (7, true, 7.5));
        assert_eq!(other.integer(3), 3);
        assert_eq!(runtime.key("a").integer(0), 7, "asked for later");
        runtime.publish(HashMap::new());
        assert_eq!(key.integer(3), 3);
        assert_eq!(RuntimeKey::NONE.integer(1), 1);
    }

    #[test]
    fn a_plain_number_is_a_percentage_where_a_share_is_asked_for() {
        let runtime = Runtime::default();
        let key = runtime.key("a");
        assert_eq!(key.share((1, 10_000)), (1, 10_000));
        runtime.publish(values("a", RuntimeValue { integer: Some(200), ..RuntimeValue::default() }));
        assert_eq!(key.share((1, 10_000)), (100, 100));
        let share = RuntimeValue { share: Some((3, 1_000_000)), ..RuntimeValue::default() };
        runtime.publish(values("a", share));
        assert_eq!(key.share((1, 10_000)), (3, 1_000_000));
        assert!(!key.holds_for_percent(0, || 0), "a share is no percentage");
    }

    #[test]
    fn values_are_found_by_what_their_keys_begin_with() {
        let runtime = Runtime::default();
        let value = Arc::new(RuntimeValue { integer: Some(1), ..RuntimeValue::default() });
        runtime.publish(HashMap::from([("a.b".to_owned(), value.clone()), ("b.c".to_owned(), value.clone())]));
        assert_eq!(runtime.below("a."), [("b".to_owned(), value)]);
    }

    #[test]
    fn who_watches_may_ask_for_values() {
        let runtime = Arc::new(Runtime::default());
        let seen = Arc::new(Mutex::new(None));
        let (inner, set) = (runtime.clone(), seen.clone());
        runtime.watch(move || *set.lock().unwrap() = inner.value("a").and_then(|v| v.integer));
        runtime.publish(values("a", RuntimeValue { integer: Some(1), ..RuntimeValue::default() }));
        assert_eq!(*seen.lock().unwrap(), Some(1));
    }
}
