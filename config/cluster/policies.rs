//! What a cluster says of requests in place of their routes.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::route::v3::{RetryPolicy as RetryProto, route_action::RequestMirrorPolicy};

use crate::route::{MirrorPolicy, RetryPolicy};

/// Policies that take the place of those of routes, whole, where there are any.
#[derive(Debug)]
pub struct RequestPolicies {
    /// `retry_policy`. Envoy: the time of an attempt is that of the route's all the same.
    pub retry: Option<RetryPolicy>,
    /// `request_mirror_policies`
    pub mirrors: Box<[MirrorPolicy]>,
}

impl RequestPolicies {
    /// `None` where the cluster leaves it to the routes.
    pub(super) fn lower(
        retry: Option<RetryProto>,
        mirrors: Vec<RequestMirrorPolicy>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Arc<Self>>, Refused> {
        let retry = cx.opt("retry_policy", retry, RetryPolicy::lower);
        let mirrors = cx.each("request_mirror_policies", mirrors, MirrorPolicy::lower);
        let (retry, mirrors) = (retry?, mirrors?);
        Ok((retry.is_some() || !mirrors.is_empty()).then(|| Arc::new(Self { retry, mirrors: mirrors.into() })))
    }
}
