use nuncio_filter_api::{LowerCx, RuntimeKey};
use nuncio_proto::envoy::config::core::v3::RuntimeDouble;

/// A number that the runtime may say otherwise: `RuntimeDouble`.
#[derive(Clone, Debug)]
pub struct RuntimeNumber {
    key: RuntimeKey,
    default: f64,
}

// === impl RuntimeNumber ===

impl RuntimeNumber {
    /// Without a message it is 1.
    pub(super) fn lower(proto: Option<RuntimeDouble>, cx: &LowerCx<'_>) -> Self {
        proto.map_or(Self::from(1.0), |RuntimeDouble { default_value, runtime_key }| Self {
            key: cx.runtime(&runtime_key),
            default: default_value,
        })
    }

    /// What it is now.
    pub fn get(&self) -> f64 {
        self.key.number(self.default)
    }
}

impl From<f64> for RuntimeNumber {
    fn from(default: f64) -> Self {
        Self { key: RuntimeKey::NONE, default }
    }
}

/// The same key and default, whatever the runtime says.
impl PartialEq for RuntimeNumber {
    fn eq(&self, other: &Self) -> bool {
        self.key.name() == other.key.name() && self.default == other.default
    }
}
