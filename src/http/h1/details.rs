//! Envoy's `%RESPONSE_CODE_DETAILS%` for what the HTTP/1 codec refuses, taken from the running Envoy 1.40.

use http::StatusCode;
use nuncio_filter_api::BodyError;
use nuncio_telemetry::ResponseFlag;

/// A request that was refused by the codec. The connection is closed after the reply; flag `DPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{details}")]
pub struct BadRequest {
    /// Status of the local reply; its body is the reason phrase.
    pub status: StatusCode,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
}

impl BadRequest {
    const fn new(status: StatusCode, details: &'static str) -> Self {
        Self { status, details }
    }

    /// The error of a request body with this fault.
    pub(super) fn body_error(self) -> BodyError {
        BodyError::new(ResponseFlag::DownstreamProtocolError, self.details)
    }
}

/// Not HTTP/1, or broken framing.
pub(super) const CODEC_ERROR: BadRequest = BadRequest::new(StatusCode::BAD_REQUEST, "http1.codec_error");
/// A control character in the target, a name or a value.
pub(super) const INVALID_CHARACTERS: BadRequest = BadRequest::new(StatusCode::BAD_REQUEST, "http1.invalid_characters");
/// A target that is no URI, or of a form the method does not allow.
pub(super) const INVALID_URL: BadRequest = BadRequest::new(StatusCode::BAD_REQUEST, "http1.invalid_url");
/// An absolute-form target that is neither http nor https.
pub(super) const INVALID_SCHEME: BadRequest = BadRequest::new(StatusCode::BAD_REQUEST, "http1.invalid_scheme");
/// A Host that is no authority, or more than one Host.
pub(super) const INVALID_AUTHORITY: BadRequest = BadRequest::new(StatusCode::BAD_REQUEST, "http.invalid_authority");
/// HTTP/1.0 that is not enabled, HTTP/0.9, or a version that is not of HTTP/1.
pub(super) const LOW_VERSION: BadRequest = BadRequest::new(StatusCode::UPGRADE_REQUIRED, "low_version");
/// Both Content-Length and Transfer-Encoding.
pub(super) const LENGTH_AND_CHUNKED: BadRequest =
    BadRequest::new(StatusCode::BAD_REQUEST, "http1.content_length_and_chunked_not_allowed");
/// A Transfer-Encoding other than `chunked`.
pub(super) const INVALID_TRANSFER_ENCODING: BadRequest =
    BadRequest::new(StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding");
/// A CONNECT with a body.
pub(super) const BODY_DISALLOWED: BadRequest = BadRequest::new(StatusCode::BAD_REQUEST, "http1.body_disallowed");
/// A Connection field that nominates what a client may not have removed.
pub(super) const CONNECTION_REJECTED: BadRequest =
    BadRequest::new(StatusCode::BAD_REQUEST, "http1.connection_header_rejected");
/// Head or trailers beyond `max_request_headers_kb`.
pub(super) const HEADERS_TOO_LARGE: BadRequest =
    BadRequest::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.headers_too_large");
/// More fields than `max_headers_count`.
pub(super) const TOO_MANY_HEADERS: BadRequest =
    BadRequest::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.too_many_headers");

/// The client went away.
pub(super) fn downstream_gone() -> BodyError {
    BodyError::new(ResponseFlag::DownstreamConnectionTermination, "downstream_remote_disconnect")
}

/// The upstream closed or reset the connection within its response.
pub(super) fn upstream_gone() -> BodyError {
    let details = "upstream_reset_after_response_started{connection_termination}";
    BodyError::new(ResponseFlag::UpstreamConnectionTermination, details)
}

/// The upstream's bytes are not HTTP/1, or its message broke off.
pub(super) fn upstream_protocol_error() -> BodyError {
    BodyError::new(ResponseFlag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}")
}
