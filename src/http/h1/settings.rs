use nuncio_filter_api::ByteStr;
use nuncio_telemetry::stats::catalogue::HttpStats;

/// How header names are written (`header_key_format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderFormat {
    /// Lower case, as they are held.
    #[default]
    Lower,
    /// `content-type` becomes `Content-Type` (`proper_case_words`).
    ProperCase,
    /// As they were received, where they were (`preserve_case`).
    PreserveCase {
        /// Forwards the upstream's reason phrase.
        forward_reason_phrase: bool,
        /// Case of names that were not received (`formatter_type_on_envoy_headers`).
        own: OwnHeaderCase,
    },
}

/// Case of the names that nuncio adds where received ones keep theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnHeaderCase {
    /// Lower case.
    #[default]
    Lower,
    /// See [`HeaderFormat::ProperCase`].
    ProperCase,
}

impl HeaderFormat {
    /// Whether received names must be kept.
    pub(super) fn keeps_names(self) -> bool {
        matches!(self, Self::PreserveCase { .. })
    }
}

/// Bytes of headers that Envoy accepts by default (`max_request_headers_kb`, `max_response_headers_kb`): 60 KiB.
const DEFAULT_MAX_HEADERS_BYTES: usize = 60 * 1024;
/// Envoy's default `max_headers_count`.
const DEFAULT_MAX_HEADERS_COUNT: usize = 100;

/// Options of the server side; fields are named as in `Http1ProtocolOptions` where it has them.
pub struct ServerSettings {
    /// Bytes of a request head, line and line ends included, and of trailers (`max_request_headers_kb`).
    pub max_headers_bytes: usize,
    /// Fields of a head or of trailers (`common_http_protocol_options.max_headers_count`).
    pub max_headers_count: usize,
    /// Accepts HTTP/1.0 and HTTP/0.9.
    pub accept_http_10: bool,
    /// Authority of an HTTP/1.0 request without Host; empty for none.
    pub default_host_for_http_10: ByteStr,
    /// Accepts absolute-form targets.
    pub allow_absolute_url: bool,
    /// Passes trailers on, both ways.
    pub enable_trailers: bool,
    /// Drops Content-Length where Transfer-Encoding is present, instead of refusing the request.
    pub allow_chunked_length: bool,
    /// Accepts every method that is a token.
    pub allow_custom_methods: bool,
    /// Upgrade values that are treated as if they were absent (`ignore_http_11_upgrade`).
    pub ignore_upgrade: Option<Box<dyn Fn(&str) -> bool + Send + Sync>>,
    /// Case of response header names, and whether those of requests are kept.
    pub header_format: HeaderFormat,
    /// Where the bytes that connections hold are counted.
    pub stats: Option<HttpStats>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_headers_bytes: DEFAULT_MAX_HEADERS_BYTES,
            max_headers_count: DEFAULT_MAX_HEADERS_COUNT,
            accept_http_10: false,
            default_host_for_http_10: ByteStr::EMPTY,
            allow_absolute_url: true,
            enable_trailers: false,
            allow_chunked_length: false,
            allow_custom_methods: false,
            ignore_upgrade: None,
            header_format: HeaderFormat::Lower,
            stats: None,
        }
    }
}

/// Options of the client side.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Bytes of a response head, and of trailers (`max_response_headers_kb`).
    pub max_headers_bytes: usize,
    /// Fields of a head or of trailers (`common_http_protocol_options.max_headers_count`).
    pub max_headers_count: usize,
    /// Passes trailers on, both ways.
    pub enable_trailers: bool,
    /// Drops Content-Length where Transfer-Encoding is present, instead of refusing the response.
    pub allow_chunked_length: bool,
    /// Writes the target in absolute form.
    pub send_fully_qualified_url: bool,
    /// Case of request header names, and whether those of responses are kept.
    pub header_format: HeaderFormat,
    /// Bytes that wait to be sent above which no more of a body is pulled, and bytes read of one at once, where this is
    /// less than the codec's own bounds (`per_connection_buffer_limit_bytes`).
    pub buffer_limit: usize,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            max_headers_bytes: DEFAULT_MAX_HEADERS_BYTES,
            max_headers_count: DEFAULT_MAX_HEADERS_COUNT,
            enable_trailers: false,
            allow_chunked_length: false,
            send_fully_qualified_url: false,
            header_format: HeaderFormat::Lower,
            buffer_limit: usize::MAX,
        }
    }
}
