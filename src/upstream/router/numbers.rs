//! Numbers in headers, without formatting or allocation where they repeat.

use std::cell::RefCell;
use std::sync::LazyLock;

use http::HeaderValue;

/// Milliseconds that most responses take less than.
const SMALL: usize = 1000;

/// `n` as a header value.
pub(crate) fn small_number(n: u64) -> HeaderValue {
    static VALUES: LazyLock<Vec<HeaderValue>> =
        LazyLock::new(|| (0..SMALL).map(|n| HeaderValue::from_static(n.to_string().leak())).collect());
    match usize::try_from(n).ok().and_then(|n| VALUES.get(n)) {
        Some(value) => value.clone(),
        None => n.into(),
    }
}

/// The header value of the number asked for last.
#[derive(Default)]
pub(crate) struct LastNumber(RefCell<Option<(u64, HeaderValue)>>);

impl LastNumber {
    pub(crate) fn value(&self, n: u64) -> HeaderValue {
        let mut last = self.0.borrow_mut();
        match &*last {
            Some((known, value)) if *known == n => value.clone(),
            _ => {
                let value = HeaderValue::from(n);
                *last = Some((n, value.clone()));
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 999, 1000, u64::MAX] {
            assert_eq!(small_number(n).to_str().unwrap(), n.to_string());
        }
        let last = LastNumber::default();
        for n in [15_000, 15_000, 3] {
            assert_eq!(last.value(n).to_str().unwrap(), n.to_string());
        }
    }
}
