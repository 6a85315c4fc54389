//! What configuration refers to by name and is given later.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Notify, watch};

/// Whether something that a part of the configuration waits for has come, or is known not to come.
#[derive(Debug)]
pub struct Readiness {
    name: String,
    ready: watch::Sender<bool>,
}

/// Places that discovery fills: one for all configuration that asks for the same thing. A place lives as long as some
/// configuration holds it, and so tells what is to be asked for.
#[derive(Default)]
pub struct Slots {
    slots: Mutex<HashMap<(TypeId, String), Weak<dyn Any + Send + Sync>>>,
    told: Arc<Notify>,
}

// === impl Readiness ===

impl Readiness {
    /// Not ready. `name` is for those who wonder what is waited for.
    pub fn new(name: String) -> Arc<Self> {
        Arc::new(Self { name, ready: watch::Sender::new(false) })
    }

    /// What is waited for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends the waiting.
    pub fn set(&self) {
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    /// Whether nobody needs to wait.
    pub fn is_set(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits.
    pub async fn wait(&self) {
        // The sender is in `self`, so that waiting cannot fail.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }
}

// === impl Slots ===

impl Slots {
    /// The slot of this key, made now if nobody holds it.
    pub fn share<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut slots = self.lock();
        let key = (TypeId::of::<T>(), key.to_owned());
        let held = slots.get(&key).and_then(Weak::upgrade).and_then(|slot| slot.downcast::<T>().ok());
        held.unwrap_or_else(|| {
            let made = Arc::new(make());
            let erased: Arc<dyn Any + Send + Sync> = made.clone();
            slots.insert(key, Arc::downgrade(&erased));
            made
        })
    }

    /// All slots of this type that somebody holds.
    pub fn all<T: Any + Send + Sync>(&self) -> Vec<Arc<T>> {
        let mut slots = self.lock();
        slots.retain(|_, slot| slot.strong_count() > 0);
        slots.values().filter_map(Weak::upgrade).filter_map(|slot| slot.downcast::<T>().ok()).collect()
    }

    /// Says that there are slots which nobody has looked for yet: while traffic flows, requests ask for some.
    pub fn tell(&self) {
        self.told.notify_one();
    }

    /// What says so, for those who ask while traffic flows.
    pub fn teller(&self) -> Arc<Notify> {
        self.told.clone()
    }

    /// Waits until that is said.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// Taken when configuration is lowered, and when a request asks for something for the first time.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(TypeId, String), Weak<dyn Any + Send + Sync>>> {
        // A poisoned lock means that making a slot panicked: it is not there, and the others are whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_for_the_same_share_a_slot_until_the_last_lets_go() {
        let slots = Slots::default();
        let first = slots.share("a", || 1_u32);
        assert!(Arc::ptr_eq(&first, &slots.share("a", || 2_u32)));
        assert_eq!(*slots.share("a", || 3_u64), 3, "of another type");
        assert_eq!(slots.all::<u32>().len(), 1);
        drop(first);
        assert!(slots.all::<u32>().is_empty());
        assert_eq!(*slots.share("a", || 4_u32), 4);
    }

    #[tokio::test]
    async fn waiting_ends_when_it_is_ready() {
        let readiness = Readiness::new("routes".to_owned());
        assert!(!readiness.is_set());
        let (waited, ()) = tokio::join!(
            async {
                readiness.wait().await;
                true
            },
            async { readiness.set() }
        );
        assert!(waited && readiness.is_set());
    }
}
