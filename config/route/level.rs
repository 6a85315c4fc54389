//! What route configuration, virtual hosts, routes and weighted clusters have in common.

use std::collections::HashMap;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::HeaderValueOption;
use nuncio_proto::google::protobuf::{Any, UInt32Value, UInt64Value};

use super::filter_config::FilterConfigs;
use crate::header_rules::{HeaderRules, Side};

/// Header rules and per-filter configuration of one level.
#[derive(Default)]
pub(super) struct Level {
    pub(super) request: HeaderRules,
    pub(super) response: HeaderRules,
    pub(super) filters: FilterConfigs,
}

/// The fields of a level, as all its messages have them.
pub(super) struct LevelFields {
    pub(super) request_headers_to_add: Vec<HeaderValueOption>,
    pub(super) request_headers_to_remove: Vec<String>,
    pub(super) response_headers_to_add: Vec<HeaderValueOption>,
    pub(super) response_headers_to_remove: Vec<String>,
    pub(super) typed_per_filter_config: HashMap<String, Any>,
}

impl Level {
    pub(super) fn lower(fields: LevelFields, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let LevelFields {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
        } = fields;
        let request = HeaderRules::lower(Side::Request, request_headers_to_add, request_headers_to_remove, cx);
        let response = HeaderRules::lower(Side::Response, response_headers_to_add, response_headers_to_remove, cx);
        let filters = FilterConfigs::lower(typed_per_filter_config, cx);
        Ok(Self { request: request?, response: response?, filters: filters? })
    }
}

/// How much of a request body may be buffered, where a virtual host or route says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BufferLimit {
    /// `request_body_buffer_limit`
    Body(u64),
    /// `per_request_buffer_limit_bytes`, which only lowers the limit of the connection.
    AtMost(u32),
}

impl BufferLimit {
    /// Where both are set, Envoy takes the newer one.
    pub(super) fn lower(per_request: Option<UInt32Value>, body: Option<UInt64Value>) -> Option<Self> {
        match (per_request, body) {
            (_, Some(body)) => Some(Self::Body(body.value)),
            (Some(limit), None) => Some(Self::AtMost(limit.value)),
            (None, None) => None,
        }
    }

    /// The limit in bytes on a connection that allows `connection` bytes.
    pub(super) fn bytes(self, connection: u64) -> u64 {
        match self {
            Self::Body(bytes) => bytes,
            Self::AtMost(bytes) => connection.min(bytes.into()),
        }
    }
}
