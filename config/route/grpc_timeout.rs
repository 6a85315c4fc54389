use std::time::Duration;

use http::HeaderValue;
use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::google::protobuf;

use crate::protocol::{duration, non_zero};

/// `max_grpc_timeout` and `grpc_timeout_offset`: what control planes wrote before `max_stream_duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LegacyGrpcTimeout {
    /// Zero: no bound.
    max: Duration,
    offset: Duration,
}

impl LegacyGrpcTimeout {
    pub(super) fn lower(
        max: Option<protobuf::Duration>,
        offset: Option<protobuf::Duration>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        let max = cx.opt("max_grpc_timeout", max, duration);
        let offset = cx.opt("grpc_timeout_offset", offset, duration);
        let (max, offset) = (max?, offset?.unwrap_or_default());
        Ok(max.map(|max| Self { max, offset }))
    }

    /// The time-out of a gRPC request, in place of the route's. None and zero are "for ever" all through.
    pub(super) fn timeout(&self, head: &RequestHead) -> Option<Duration> {
        let mut timeout = grpc_timeout(head).unwrap_or_default();
        if self.offset < timeout {
            timeout -= self.offset;
        }
        match (timeout.is_zero(), self.max.is_zero()) {
            (true, _) => non_zero(self.max),
            (false, true) => Some(timeout),
            (false, false) => Some(timeout.min(self.max)),
        }
    }
}

/// The grpc-timeout header: up to eight digits and a unit.
pub fn grpc_timeout(head: &RequestHead) -> Option<Duration> {
    let (unit, digits) = head.headers.get("grpc-timeout")?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = digits.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    // Envoy counts in milliseconds, rounded up.
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_millis(n.div_ceil(1000)),
        b'n' => Duration::from_millis(n.div_ceil(1_000_000)),
        _ => return None,
    })
}

/// The header's value that says `timeout`: milliseconds, or where they have more than eight digits the next larger unit.
pub fn grpc_timeout_value(timeout: Duration) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let mut n = timeout.as_millis();
    let mut unit = 'm';
    for (larger, of) in [('S', 1000), ('M', 60), ('H', 60)] {
        if n > MAX {
            (n, unit) = (n / of, larger);
        }
    }
    HeaderValue::try_from(format!("{}{unit}", n.min(MAX))).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use http::Method;
    use nuncio_filter_api::Scheme;

    use super::*;

    fn head(timeout: &'static str) -> RequestHead {
        let mut head = RequestHead::new(Method::POST, Scheme::Http, "a".into(), "/".into());
        head.headers.insert("grpc-timeout", HeaderValue::from_static(timeout));
        head
    }

    #[test]
    fn the_header_is_up_to_eight_digits_and_a_unit() {
        let millis = |s| grpc_timeout(&head(s)).map(|d| d.as_millis());
        assert_eq!(millis("1H"), Some(3_600_000));
        assert_eq!(millis("2M"), Some(120_000));
        assert_eq!(millis("99999999m"), Some(99_999_999));
        assert_eq!(millis("1u"), Some(1));
        assert_eq!(millis("0n"), Some(0));
        for malformed in ["", "S", "1", "-1S", "123456789S", "1s", "1.5S"] {
            assert_eq!(millis(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_value_has_eight_digits_at_most() {
        let value = |secs| grpc_timeout_value(Duration::from_millis(secs)).to_str().unwrap().to_owned();
        assert_eq!(
            [0, 99_999_999, 100_000_500, 100_000_000_000, 6_000_000_000_000].map(value),
            ["0m", "99999999m", "100000S", "1666666M", "1666666H"]
        );
    }

    #[test]
    fn the_route_bounds_and_shortens_it() {
        let timeout = |max, offset, header| {
            let (max, offset) = (Duration::from_secs(max), Duration::from_secs(offset));
            LegacyGrpcTimeout { max, offset }.timeout(&head(header)).map(|d| d.as_secs())
        };
        assert_eq!(timeout(10, 0, "3S"), Some(3));
        assert_eq!(timeout(10, 0, "30S"), Some(10));
        assert_eq!(timeout(10, 1, "3S"), Some(2));
        assert_eq!(timeout(10, 3, "3S"), Some(3));
        assert_eq!(timeout(0, 0, "3S"), Some(3));
        assert_eq!(timeout(10, 0, "x"), Some(10));
        assert_eq!(timeout(0, 0, "x"), None);
    }
}
