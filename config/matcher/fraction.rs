use std::sync::Arc;

use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::r#type::v3 as percent;

/// A share of all requests: `FractionalPercent`, or `RuntimeFractionalPercent` with its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
    /// Key under which runtime may hold another value; empty if there is none.
    pub runtime_key: Arc<str>,
}

impl Fraction {
    /// The share as written.
    pub fn lower(message: percent::FractionalPercent) -> Self {
        let percent::FractionalPercent { numerator, denominator } = message;
        let denominator = match percent::fractional_percent::DenominatorType::try_from(denominator) {
            Ok(percent::fractional_percent::DenominatorType::TenThousand) => 10_000,
            Ok(percent::fractional_percent::DenominatorType::Million) => 1_000_000,
            Ok(percent::fractional_percent::DenominatorType::Hundred) | Err(_) => 100,
        };
        Self { numerator, denominator, runtime_key: Arc::from("") }
    }

    /// The default share, which holds while runtime has no value for the key. No layer of runtime exists yet, so it
    /// always holds.
    pub fn lower_runtime(message: core::RuntimeFractionalPercent) -> Self {
        let core::RuntimeFractionalPercent { default_value, runtime_key } = message;
        Self { runtime_key: runtime_key.into(), ..Self::lower(default_value.unwrap_or_default()) }
    }

    /// Whether the request with these random bits falls into the share.
    pub fn holds(&self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_random_numbers_holds() {
        let share = |numerator, denominator| Fraction::lower(percent::FractionalPercent { numerator, denominator });
        assert_eq!((0..100).filter(|r| share(30, 0).holds(*r)).count(), 30);
        assert_eq!((0..10_000).filter(|r| share(30, 1).holds(*r)).count(), 30);
        assert!(!share(0, 2).holds(0));
        assert!(share(100, 0).holds(u64::MAX));
        assert!(share(u32::MAX, 0).holds(7));
    }
}
