//! HTTP protocol options, the same messages for listeners and clusters.

mod settings;

use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::google::protobuf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use settings::CustomSettings;

use crate::load::type_name;
use crate::matcher::StringMatcher;

/// What becomes of a header whose name has an underscore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoresAction {
    /// It is forwarded.
    #[default]
    Allow,
    /// The request is refused with 400.
    RejectRequest,
    /// The header is dropped.
    DropHeader,
}

/// `envoy.config.core.v3.HttpProtocolOptions`.
#[derive(Clone, Debug)]
pub struct CommonOptions {
    /// A connection without streams is closed after this; `None`: never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// A connection drains after this.
    pub max_connection_duration: Option<Duration>,
    /// Per cent of it by which a downstream connection may live longer, at random. Envoy: no upstream one does.
    pub max_connection_duration_jitter: f64,
    /// Header fields of one message; default 100.
    pub max_headers_count: usize,
    /// A stream is ended after this.
    pub max_stream_duration: Option<Duration>,
    /// What to do with names that have an underscore.
    pub underscores: UnderscoresAction,
    /// A connection is closed after so many requests; `None`: no limit.
    pub max_requests_per_connection: Option<u64>,
    /// `max_response_headers_kb` in bytes, where set; for upstream connections.
    pub max_response_headers: Option<usize>,
}

/// Envoy's default of `common_http_protocol_options.idle_timeout`.
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
/// Envoy's default of `max_headers_count`.
const DEFAULT_HEADERS_COUNT: usize = 100;

impl Default for CommonOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(DEFAULT_IDLE),
            max_connection_duration: None,
            max_connection_duration_jitter: 0.0,
            max_headers_count: DEFAULT_HEADERS_COUNT,
            max_stream_duration: None,
            underscores: UnderscoresAction::Allow,
            max_requests_per_connection: None,
            max_response_headers: None,
        }
    }
}

impl CommonOptions {
    /// Lowers the message; the default stands for an absent one.
    pub fn lower(proto: Option<core::HttpProtocolOptions>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = proto;
        let idle_timeout = cx.opt("idle_timeout", idle_timeout, duration);
        let max_connection_duration = cx.opt("max_connection_duration", max_connection_duration, duration);
        let max_stream_duration = cx.opt("max_stream_duration", max_stream_duration, duration);
        let underscores = match headers_with_underscores_action {
            1 => UnderscoresAction::RejectRequest,
            2 => UnderscoresAction::DropHeader,
            _ => UnderscoresAction::Allow,
        };
        Ok(Self {
            idle_timeout: match idle_timeout? {
                None => Some(DEFAULT_IDLE),
                Some(d) => non_zero(d),
            },
            max_connection_duration: max_connection_duration?.and_then(non_zero),
            max_connection_duration_jitter: max_connection_duration_jitter.map_or(0.0, |p| p.value),
            max_headers_count: max_headers_count.map_or(DEFAULT_HEADERS_COUNT, |n| n.value as usize),
            max_stream_duration: max_stream_duration?.and_then(non_zero),
            underscores,
            max_requests_per_connection: max_requests_per_connection.map(|n| u64::from(n.value)).filter(|n| *n > 0),
            max_response_headers: max_response_headers_kb.map(|kb| kb.value as usize * 1024),
        })
    }
}

/// How HTTP/1 header names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// As in HTTP/2: lower case.
    #[default]
    Lower,
    /// `proper_case_words`: Each-Word-Begins-With-A-Capital.
    ProperCase,
    /// `preserve_case`: as the peer wrote them.
    Preserve {
        /// Also forwards the reason phrase as received.
        forward_reason_phrase: bool,
        /// How names that no peer wrote are written: proper case rather than lower case.
        proper_case_added: bool,
    },
}

/// `envoy.config.core.v3.Http1ProtocolOptions`.
#[derive(Clone, Debug)]
pub struct Http1Options {
    /// Requests in absolute-form are accepted. Default true.
    pub allow_absolute_url: bool,
    /// HTTP/1.0 requests are served rather than answered with 426.
    pub accept_http_10: bool,
    /// Authority of HTTP/1.0 requests without Host; empty: they are refused.
    pub default_host_for_http_10: String,
    /// How header names are written.
    pub header_case: HeaderCase,
    /// Trailers are passed on rather than dropped.
    pub enable_trailers: bool,
    /// A message with content-length and chunked coding is read as chunked rather than refused.
    pub allow_chunked_length: bool,
    /// Requests are written in absolute-form.
    pub send_fully_qualified_url: bool,
    /// Any token is accepted as a method.
    pub allow_custom_methods: bool,
    /// A malformed message does not end its connection.
    pub spares_connection_of_malformed: bool,
    /// Upgrades that clients ask for in vain: they are served as if they had not asked.
    pub ignored_upgrades: Vec<StringMatcher>,
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: String::new(),
            header_case: HeaderCase::Lower,
            enable_trailers: false,
            allow_chunked_length: false,
            send_fully_qualified_url: false,
            allow_custom_methods: false,
            spares_connection_of_malformed: false,
            ignored_upgrades: Vec::new(),
        }
    }
}

impl Http1Options {
    /// Lowers the message; the default stands for an absent one.
    pub fn lower(proto: Option<core::Http1ProtocolOptions>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        let core::Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            // Which parser Envoy uses changes nothing that a user can rely on.
            use_balsa_parser: _,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = proto;
        let ignored_upgrades = cx.each("ignore_http_11_upgrade", ignore_http_11_upgrade, StringMatcher::lower);
        let header_case = cx.opt("header_key_format", header_key_format, header_case);
        let header_case = header_case?.unwrap_or_default();
        Ok(Self {
            allow_absolute_url: allow_absolute_url.is_none_or(|b| b.value),
            accept_http_10,
            default_host_for_http_10,
            header_case,
            enable_trailers,
            allow_chunked_length,
            send_fully_qualified_url,
            allow_custom_methods,
            spares_connection_of_malformed: override_stream_error_on_invalid_http_message.is_some_and(|b| b.value),
            ignored_upgrades: ignored_upgrades?,
        })
    }
}

fn header_case(
    proto: core::http1_protocol_options::HeaderKeyFormat,
    cx: &mut LowerCx<'_>,
) -> Result<HeaderCase, Refused> {
    use core::http1_protocol_options::header_key_format::{HeaderFormat, ProperCaseWords};
    use nuncio_proto::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
    match proto.header_format {
        None => Err(cx.invalid("one of proper_case_words and stateful_formatter is required")),
        Some(HeaderFormat::ProperCaseWords(ProperCaseWords {})) => Ok(HeaderCase::ProperCase),
        Some(HeaderFormat::StatefulFormatter(ext)) => cx.at("stateful_formatter", |cx| {
            let config: PreserveCaseFormatterConfig = extension(ext, cx)?;
            let PreserveCaseFormatterConfig { forward_reason_phrase, formatter_type_on_envoy_headers } = config;
            Ok(HeaderCase::Preserve { forward_reason_phrase, proper_case_added: formatter_type_on_envoy_headers == 1 })
        }),
    }
}

/// Decodes the configuration of an extension point that has one implementation, `T`; refuses any other.
pub fn extension<T: prost::Message + prost::Name + Default>(
    ext: core::TypedExtensionConfig,
    cx: &mut LowerCx<'_>,
) -> Result<T, Refused> {
    let core::TypedExtensionConfig { name: _, typed_config } = ext;
    cx.at("typed_config", |cx| {
        let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
        any_as(&any, cx)
    })
}

/// Decodes `any`, which must hold a `T`.
pub fn any_as<T: prost::Message + prost::Name + Default>(
    any: &protobuf::Any,
    cx: &mut LowerCx<'_>,
) -> Result<T, Refused> {
    let found = message_name(any);
    if found != T::full_name() {
        return Err(cx.not_implemented(format_args!("{found} here (only {} is)", T::full_name())));
    }
    T::decode(&any.value[..]).map_err(|e| cx.invalid(format!("does not decode: {e}")))
}

/// The full message name in the type URL of `any`.
pub fn message_name(any: &protobuf::Any) -> &str {
    type_name(&any.type_url)
}

/// The name of an encoded resource: the string in the field numbered 1, which is the name in each kind of resource.
pub fn resource_name(mut bytes: &[u8]) -> Option<String> {
    let mut name = None;
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let mut value = bytes;
        skip_field(wire, number, &mut bytes, DecodeContext::default()).ok()?;
        if number == 1 && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut value).ok()?).ok()?;
            name = String::from_utf8(value.get(..length)?.to_vec()).ok();
        }
    }
    name
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, Debug)]
pub struct Http2Options {
    /// SETTINGS_HEADER_TABLE_SIZE, in bytes. Default 4096.
    pub hpack_table_size: u32,
    /// SETTINGS_MAX_CONCURRENT_STREAMS. Default 1024.
    pub max_concurrent_streams: u32,
    /// SETTINGS_INITIAL_WINDOW_SIZE, in bytes. Default 16 MiB.
    pub initial_stream_window_size: u32,
    /// Window of the connection, in bytes. Default 24 MiB.
    pub initial_connection_window_size: u32,
    /// Extended CONNECT (RFC 8441) is allowed.
    pub allow_connect: bool,
    /// Frames that may wait to be written. Default 10,000.
    pub max_outbound_frames: u32,
    /// PING, SETTINGS and RST_STREAM frames that may wait to be written. Default 1,000.
    pub max_outbound_control_frames: u32,
    /// Consecutive frames without payload or END_STREAM that are put up with. Default 1.
    pub max_consecutive_empty_frames: u32,
    /// PRIORITY frames for each stream opened that are put up with. Default 100.
    pub max_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame sent that are put up with. Default 10.
    pub max_window_updates_per_data_frame: u32,
    /// PING keep-alive.
    pub keepalive: Option<Keepalive>,
    /// SETTINGS_MAX_FRAME_SIZE, in bytes, where set.
    pub max_frame_size: Option<u32>,
    /// SETTINGS by identifier that no field here stands for.
    pub further_settings: Arc<[(u16, u32)]>,
    /// Bytes beyond ASCII in header values of requests are refused. Envoy: those of responses never are.
    pub disallow_obs_text: bool,
    /// For upstream connections: a malformed message ends its stream, and not the connection.
    pub spares_connection_of_malformed: bool,
    /// Header field limit, in bytes, where set.
    pub max_header_field_size: Option<usize>,
    /// Premature resets put up with at once. Default 1,000.
    pub stream_reset_burst: u64,
    /// Premature resets regained a second. Default 33.
    pub stream_reset_rate: u64,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 << 20,
            initial_connection_window_size: 24 << 20,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1_000,
            max_consecutive_empty_frames: 1,
            max_priority_frames_per_stream: 100,
            max_window_updates_per_data_frame: 10,
            keepalive: None,
            max_frame_size: None,
            further_settings: Arc::default(),
            disallow_obs_text: false,
            spares_connection_of_malformed: false,
            max_header_field_size: None,
            stream_reset_burst: 1_000,
            stream_reset_rate: 33,
        }
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// A PING is sent this often; `None`: only after idleness.
    pub interval: Option<Duration>,
    /// The connection is closed if it is not answered within this.
    pub timeout: Duration,
    /// Per cent of the interval by which it is lengthened at random. Default 15.
    pub interval_jitter: f64,
    /// A PING is sent before a request on a connection idle for this long.
    pub connection_idle_interval: Option<Duration>,
}

impl Http2Options {
    /// Lowers the message; the default stands for an absent one.
    pub fn lower(proto: Option<core::Http2ProtocolOptions>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        let settings = CustomSettings::lower(&proto, cx);
        let core::Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            // A malformed request always ends its stream and no more (RFC 9113 §8.1.1); what makes Envoy end the
            // connection as well is not needed for safety here.
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
            custom_settings_parameters: _,
            connection_keepalive,
            // Which codec Envoy uses changes nothing that a peer must see.
            use_oghttp2_codec: _,
            max_metadata_size: _,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
            stream_reset_burst,
            stream_reset_rate,
        } = proto;
        let supported = crate::refuse_set!(cx; allow_metadata);
        let keepalive = cx.opt("connection_keepalive", connection_keepalive, Keepalive::lower);
        supported?;
        let settings = settings?;
        if enable_huffman_encoding.is_some_and(|enabled| !enabled.value) {
            tracing::info!(path = cx.path(), "enable_huffman_encoding has no effect: what is shorter so is sent so");
        }
        let default = Self::default();
        let or = |value: Option<protobuf::UInt32Value>, default: u32| value.map_or(default, |v| v.value);
        let mut options = Self {
            hpack_table_size: or(hpack_table_size, default.hpack_table_size),
            max_concurrent_streams: or(max_concurrent_streams, default.max_concurrent_streams),
            initial_stream_window_size: or(initial_stream_window_size, default.initial_stream_window_size),
            initial_connection_window_size: or(initial_connection_window_size, default.initial_connection_window_size),
            allow_connect,
            max_outbound_frames: or(max_outbound_frames, default.max_outbound_frames),
            max_outbound_control_frames: or(max_outbound_control_frames, default.max_outbound_control_frames),
            max_consecutive_empty_frames: or(
                max_consecutive_inbound_frames_with_empty_payload,
                default.max_consecutive_empty_frames,
            ),
            max_priority_frames_per_stream: or(
                max_inbound_priority_frames_per_stream,
                default.max_priority_frames_per_stream,
            ),
            max_window_updates_per_data_frame: or(
                max_inbound_window_update_frames_per_data_frame_sent,
                default.max_window_updates_per_data_frame,
            ),
            keepalive: keepalive?,
            spares_connection_of_malformed: override_stream_error_on_invalid_http_message
                .map_or(stream_error_on_invalid_http_messaging, |b| b.value),
            max_header_field_size: max_header_field_size_kb.map(|kb| kb.value as usize * 1024),
            stream_reset_burst: stream_reset_burst.map_or(default.stream_reset_burst, |v| v.value),
            stream_reset_rate: stream_reset_rate.map_or(default.stream_reset_rate, |v| v.value),
            max_frame_size: None,
            further_settings: Arc::default(),
            disallow_obs_text: disallow_obs_text.is_some_and(|b| b.value),
        };
        settings.apply(&mut options);
        Ok(options)
    }
}

impl Http2Options {
    /// Refuses a limit of one field that is above `headers`, the bytes that all fields may have: `name` sets it.
    pub fn check_field_size(&self, headers: usize, name: &str, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        match self.max_header_field_size.is_some_and(|field| field > headers) {
            true => {
                let reason = format!("must not exceed {name}");
                Err(cx.at("max_header_field_size_kb", |cx| cx.invalid(reason)))
            }
            false => Ok(()),
        }
    }
}

impl Keepalive {
    fn lower(proto: core::KeepaliveSettings, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval } = proto;
        let timeout = timeout.ok_or_else(|| cx.at("timeout", |cx| cx.invalid("is required")))?;
        Ok(Self {
            interval: cx.opt("interval", interval, duration)?,
            timeout: cx.at("timeout", |cx| duration(timeout, cx))?,
            interval_jitter: interval_jitter.map_or(15.0, |p| p.value),
            connection_idle_interval: cx.opt("connection_idle_interval", connection_idle_interval, duration)?,
        })
    }
}

/// Lowers a Duration, which must not be negative.
pub fn duration(proto: protobuf::Duration, cx: &mut LowerCx<'_>) -> Result<Duration, Refused> {
    read_duration(proto).ok_or_else(|| cx.invalid("must be a duration of at least 0s"))
}

/// What a message from outside tells; `None` for what is no duration, or below zero.
pub fn read_duration(proto: protobuf::Duration) -> Option<Duration> {
    match (u64::try_from(proto.seconds), u32::try_from(proto.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        _ => None,
    }
}

/// A duration as a message.
pub fn to_duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// `None` for the zero that switches a time-out off.
pub fn non_zero(d: Duration) -> Option<Duration> {
    (!d.is_zero()).then_some(d)
}
