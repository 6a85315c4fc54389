//! The connection manager's configuration, lowered.

use super::client_cert::ForwardClientCert;
use super::deadline::Expired;
use super::proxy_status::ProxyStatus;
use super::trace::Tracing;
use std::sync::OnceLock;
use std::time::Duration;

use http::HeaderValue;
use nuncio_config::matcher::Cidr;
use nuncio_config::protocol::{CommonOptions, Http1Options, Http2Options};
use nuncio_filter_api::{LowerCx, RuntimeKey, Scheme};

use crate::path::{EscapedSlashes, PathOptions};
use crate::request_id::TraceOptions;

/// `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodecType {
    /// HTTP/2 if the connection begins with its preface, else HTTP/1.
    Auto,
    Http1,
    Http2,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// `strip_matching_host_port` and `strip_any_host_port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StripPort {
    Never,
    /// The port the connection came to.
    Matching,
    Any,
}

/// The time-outs of connections and streams; `None` is never.
#[derive(Clone, Debug)]
pub(crate) struct Timeouts {
    /// Without a byte of a stream moving, default 5 min.
    pub(crate) stream_idle: Option<Duration>,
    /// `stream_flush_timeout`: for the client to take what is left of a response; that of `stream_idle` if not set.
    pub(crate) stream_flush: Option<Option<Duration>>,
    /// For the whole request to arrive.
    pub(crate) request: Option<Duration>,
    /// For the request's head to arrive.
    pub(crate) request_headers: Option<Duration>,
    /// Between the drain notice (GOAWAY) and the end, default 5 s.
    pub(crate) drain: Duration,
    /// Whether an HTTP/1 connection that has reached its age goes on until the response to its next request
    /// (`http1_safe_max_connection_duration`).
    pub(crate) http1_ends_with_request: bool,
    /// Per cent of it by which a connection may drain longer, at random.
    pub(crate) drain_jitter: f64,
    /// For the peer to close after we asked it to, default 1 s; zero closes at once.
    pub(crate) delayed_close: Duration,
}

impl Timeouts {
    /// For the head of a request that has begun to arrive, and what it is that strikes then.
    pub(crate) fn of_head(&self) -> Option<(Duration, Expired)> {
        let all = [
            (self.request_headers, Expired::Headers),
            (self.request, Expired::Request),
            (self.stream_idle, Expired::Idle),
        ];
        all.into_iter().filter_map(|(timeout, expired)| Some((timeout?, expired))).min_by_key(|(timeout, _)| *timeout)
    }
}

/// Who is believed about the client's address, and what is told about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientAddress {
    pub(crate) use_remote_address: bool,
    pub(crate) xff_num_trusted_hops: u32,
    pub(crate) skip_xff_append: bool,
    pub(crate) append_x_forwarded_port: bool,
    /// `internal_address_config`; no range is internal unless given.
    pub(crate) internal_ranges: Vec<Cidr>,
    pub(crate) internal_unix_sockets: bool,
}

/// What becomes of x-request-id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIdOptions {
    pub(crate) trace: TraceOptions,
    pub(crate) generate: bool,
    pub(crate) preserve_external: bool,
    pub(crate) always_set_in_response: bool,
}

/// What shapes a request head before routing and a response head after the filters.
#[derive(Clone, Debug)]
pub(crate) struct HeadOptions {
    pub(crate) client: ClientAddress,
    pub(crate) request_id: RequestIdOptions,
    pub(crate) path: PathRules,
    pub(crate) strip_port: StripPort,
    pub(crate) strip_trailing_dot: bool,
    pub(crate) via: Option<HeaderValue>,
    pub(crate) server_name: HeaderValue,
    pub(crate) server_header: ServerHeader,
    /// `scheme_header_transformation.scheme_to_overwrite`.
    pub(crate) scheme_overwrite: Option<Scheme>,
    /// What becomes of x-forwarded-client-cert.
    pub(crate) client_certificate: ForwardClientCert,
    /// `add_user_agent`: the service cluster's name, to send as user-agent where there is none.
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) service_node: Option<HeaderValue>,
    pub(crate) proxy_100_continue: bool,
    pub(crate) proxy_status: Option<ProxyStatus>,
    /// `tracing`, without anybody who is told of it.
    pub(crate) tracing: Option<Tracing>,
}

/// What is done to paths. Envoy: what the runtime says of it is asked when the listener is made, when the runtime is
/// known; here with the first request, as configuration may be lowered before.
#[derive(Clone, Debug)]
pub(crate) struct PathRules {
    configured: PathOptions,
    /// Where `normalize_path` is not set.
    normalize: Option<RuntimeKey>,
    /// Where `path_with_escaped_slashes_action` is not set.
    escaped_slashes: Option<RuntimeKey>,
    /// Whether anything is done to escaped slashes.
    minds_escaped_slashes: RuntimeKey,
    decided: OnceLock<PathOptions>,
}

impl PathRules {
    /// `None` leaves a step to the runtime.
    pub(crate) fn lower(normalize: Option<bool>, merge_slashes: bool, escaped_slashes: i32, cx: &LowerCx<'_>) -> Self {
        let key = |name: &str| cx.runtime(&format!("http_connection_manager.{name}"));
        let action = u64::try_from(escaped_slashes).unwrap_or(0);
        Self {
            configured: PathOptions {
                escaped_slashes: escaped_slashes_action(action),
                normalize: normalize.unwrap_or(false),
                merge_slashes,
            },
            normalize: normalize.is_none().then(|| key("normalize_path")),
            escaped_slashes: (action == 0).then(|| key("path_with_escaped_slashes_action")),
            minds_escaped_slashes: key("path_with_escaped_slashes_action_enabled"),
            decided: OnceLock::new(),
        }
    }

    #[inline]
    pub(crate) fn options(&self) -> PathOptions {
        *self.decided.get_or_init(|| self.decide())
    }

    fn decide(&self) -> PathOptions {
        let random = || fastrand::u64(..);
        let (minding, all) = self.minds_escaped_slashes.share((100, 100));
        let escaped_slashes = match &self.escaped_slashes {
            _ if random() % u64::from(all) >= u64::from(minding) => EscapedSlashes::Keep,
            Some(key) => escaped_slashes_action(key.integer(0)),
            None => self.configured.escaped_slashes,
        };
        let by_runtime = self.normalize.as_ref().is_some_and(|key| key.holds_for_percent(0, random));
        PathOptions { escaped_slashes, normalize: self.configured.normalize || by_runtime, ..self.configured }
    }
}

/// By the numbers of the message, which are those of the runtime too.
fn escaped_slashes_action(number: u64) -> EscapedSlashes {
    match number {
        2 => EscapedSlashes::Reject,
        3 => EscapedSlashes::UnescapeAndRedirect,
        4 => EscapedSlashes::UnescapeAndForward,
        _ => EscapedSlashes::Keep,
    }
}

/// Everything about codecs.
#[derive(Clone, Debug)]
pub(crate) struct CodecOptions {
    pub(crate) codec: CodecType,
    pub(crate) common: CommonOptions,
    pub(crate) http1: Http1Options,
    pub(crate) http2: Http2Options,
    /// `max_request_headers_kb` in bytes, default 60 KiB.
    pub(crate) max_request_headers: usize,
}
