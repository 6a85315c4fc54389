//! How much of header fields and trailers is taken of a host.

use http::HeaderMap;
use nuncio_config::protocol::CommonOptions;

use crate::h1::ExchangeFailure;

/// How large the head of a response may be.
#[derive(Clone, Copy, Debug)]
pub struct ResponseLimits {
    /// Bytes of names and values (`max_response_headers_kb`).
    pub bytes: usize,
    /// Fields (`max_headers_count`).
    pub count: usize,
}

impl From<&CommonOptions> for ResponseLimits {
    fn from(options: &CommonOptions) -> Self {
        /// Envoy's limit of a response's headers.
        const DEFAULT_BYTES: usize = 60 * 1024;
        Self { bytes: options.max_response_headers.unwrap_or(DEFAULT_BYTES), count: options.max_headers_count }
    }
}

impl Default for ResponseLimits {
    fn default() -> Self {
        (&CommonOptions::default()).into()
    }
}

impl ResponseLimits {
    /// What the h2 crate is to decode before it gives up. It does not tell why it does: what is beyond a limit by less
    /// than this is found here.
    pub(super) fn decoded(self) -> u32 {
        const MORE: usize = 64 * 1024;
        u32::try_from(self.bytes.saturating_mul(2).saturating_add(MORE)).unwrap_or(u32::MAX)
    }

    /// Why Envoy's codec would not take these fields beside what comes before them, if it would not.
    pub(super) fn fault(self, headers: &HeaderMap, before: Extent) -> Option<ExchangeFailure> {
        if headers.len() + before.count > self.count {
            return Some(ExchangeFailure::TooManyHeaders);
        }
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        (bytes + before.bytes > self.bytes).then_some(ExchangeFailure::HeadersTooLarge)
    }
}

/// Fields, and bytes of their names and values.
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    count: usize,
    bytes: usize,
}

/// Envoy: `:status` is one of the fields of a head.
pub(super) const STATUS: Extent = Extent { count: 1, bytes: ":status200".len() };
