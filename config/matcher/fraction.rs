use nuncio_filter_api::{LowerCx, RuntimeKey};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::r#type::v3 as percent;

/// A share of all requests: `FractionalPercent`, or `RuntimeFractionalPercent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
    /// Under which the runtime may hold another share.
    key: RuntimeKey,
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
        Self { numerator, denominator, key: RuntimeKey::NONE }
    }

    /// The default share, which holds while the runtime has nothing under the key.
    pub fn lower_runtime(message: core::RuntimeFractionalPercent, cx: &LowerCx<'_>) -> Self {
        let core::RuntimeFractionalPercent { default_value, runtime_key } = message;
        Self { key: cx.runtime(&runtime_key), ..Self::lower(default_value.unwrap_or_default()) }
    }

    /// Whether the request with these random bits falls into the share.
    pub fn holds(&self, random: u64) -> bool {
        let (numerator, denominator) = self.key.share((self.numerator, self.denominator));
        random % u64::from(denominator) < u64::from(numerator)
    }
}

#[cfg(test)]
mod tests {
    use nuncio_filter_api::RuntimeValue;

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

    #[test]
    fn the_runtime_has_the_last_word() {
        let env = crate::testing::env();
        let default_value = Some(percent::FractionalPercent { numerator: 100, denominator: 0 });
        let message = core::RuntimeFractionalPercent { default_value, runtime_key: "k".to_owned() };
        let fraction = Fraction::lower_runtime(message, &LowerCx::new(&env));
        assert!(fraction.holds(5));
        let none = RuntimeValue { share: Some((0, 100)), ..RuntimeValue::default() };
        env.runtime.publish([("k".to_owned(), none.into())].into());
        assert!(!fraction.holds(5));
    }
}
