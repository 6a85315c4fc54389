use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Configurations that several places give under one name, and that must be the same in all of them.
#[derive(Debug, Default)]
pub struct SharedConfigs(Mutex<HashMap<(&'static str, String), Vec<u8>>>);

impl SharedConfigs {
    /// Whether the configuration of the `kind` named `name` is `encoded` wherever it was given before. For lowering, not
    /// for the data path.
    pub fn agree(&self, kind: &'static str, name: &str, encoded: Vec<u8>) -> bool {
        // A poisoned lock means that an insertion panicked: the table is whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry((kind, name.to_owned())).or_insert_with(|| encoded.clone()) == encoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_a_name_first_says_what_it_stands_for() {
        let shared = SharedConfigs::default();
        assert!(shared.agree("cache", "a", vec![1]) && shared.agree("cache", "a", vec![1]));
        assert!(!shared.agree("cache", "a", vec![2]));
        assert!(shared.agree("cache", "b", vec![2]) && shared.agree("other", "a", vec![2]));
    }
}
