//! Which gRPC service to call, and how: `core.v3.GrpcService`.

mod google;

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue};
use nuncio_filter_api::{GrpcTarget, LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};

use crate::protocol::{duration, non_zero};
use crate::refuse_set;

/// Bytes of a message where configuration sets no bound. Envoy has none; a length of four bytes that a broken server
/// makes up must not become 4 GiB of memory.
const DEFAULT_MAX_MESSAGE: usize = 512 << 20;

/// A service, ready to be called.
#[derive(Clone, Debug)]
pub struct GrpcServiceConfig {
    /// Where calls go, and their metadata.
    pub target: GrpcTarget,
    /// How long a call with one answer may take; `None`: as long as it likes. Streams have no end of their own, as in
    /// Envoy.
    pub timeout: Option<Duration>,
    /// Pauses between attempts, where the service sets its own.
    pub backoff: Option<Backoff>,
}

/// Pauses that double, from `base` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first.
    pub base: Duration,
    /// The last.
    pub max: Duration,
}

impl GrpcServiceConfig {
    /// Lowers the message.
    pub fn lower(proto: core::GrpcService, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = proto;
        let refused = refuse_set!(cx; retry_policy);
        let timeout = cx.opt("timeout", timeout, duration);
        let metadata = cx.each("initial_metadata", initial_metadata, lower_metadata);
        let service = match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(envoy)) => cx.at("envoy_grpc", |cx| lower_envoy(envoy, cx)),
            Some(TargetSpecifier::GoogleGrpc(google)) => {
                cx.at("google_grpc", |cx| google::lower(google, cx)).map(|target| (target, None))
            }
            None => Err(cx.invalid("one of envoy_grpc and google_grpc is required")),
        };
        refused?;
        let (timeout, mut metadata, (target, backoff)) = (timeout?, metadata?, service?);
        metadata.extend(target.metadata.iter().cloned());
        Ok(Self { target: GrpcTarget { metadata, ..target }, timeout: timeout.and_then(non_zero), backoff })
    }
}

fn lower_envoy(proto: EnvoyGrpc, cx: &mut LowerCx<'_>) -> Result<(GrpcTarget, Option<Backoff>), Refused> {
    // skip_envoy_headers: calls carry none of them.
    let EnvoyGrpc { cluster_name, authority, retry_policy, max_receive_message_length, skip_envoy_headers: _ } = proto;
    let backoff = cx.opt("retry_policy", retry_policy, lower_retry);
    let authority = if authority.is_empty() { cluster_name.clone() } else { authority };
    if HeaderValue::from_str(&authority).is_err() {
        return Err(cx.at("authority", |cx| cx.invalid("is no authority")));
    }
    let max_message = max_receive_message_length.map_or(DEFAULT_MAX_MESSAGE, |max| max.value as usize);
    let cluster = cx.env.clusters.intern(&cluster_name);
    let target = GrpcTarget { cluster, authority: authority.into(), metadata: Vec::new(), max_message, own: None };
    Ok((target, backoff?.flatten()))
}

/// Streams are opened again for ever; of a retry policy only its pauses count, as in Envoy.
fn lower_retry(proto: core::RetryPolicy, cx: &mut LowerCx<'_>) -> Result<Option<Backoff>, Refused> {
    let core::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = proto;
    let without_effect = [
        ("num_retries", num_retries.is_some()),
        ("retry_on", !retry_on.is_empty()),
        ("retry_priority", retry_priority.is_some()),
        ("retry_host_predicate", !retry_host_predicate.is_empty()),
        ("host_selection_retry_max_attempts", host_selection_retry_max_attempts != 0),
    ];
    for (field, _) in without_effect.into_iter().filter(|(_, is_set)| *is_set) {
        tracing::info!(path = cx.path(), "{field} has no effect: streams are opened again for ever");
    }
    cx.opt("retry_back_off", retry_back_off, Backoff::lower)
}

impl Backoff {
    /// Lowers the message; Envoy's default of the last pause is ten times the first.
    pub(crate) fn lower(proto: core::BackoffStrategy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::BackoffStrategy { base_interval, max_interval } = proto;
        let base = cx.opt("base_interval", base_interval, duration);
        let max = cx.opt("max_interval", max_interval, duration);
        let Some(base) = base?.and_then(non_zero) else {
            return Err(cx.at("base_interval", |cx| cx.invalid("must be more than 0")));
        };
        let max = max?.unwrap_or(base * 10);
        if max < base {
            return Err(cx.at("max_interval", |cx| cx.invalid("must not be less than base_interval")));
        }
        Ok(Self { base, max })
    }
}

fn lower_metadata(proto: core::HeaderValue, cx: &mut LowerCx<'_>) -> Result<(HeaderName, HeaderValue), Refused> {
    let core::HeaderValue { key, value, raw_value } = proto;
    let name = HeaderName::try_from(key.to_ascii_lowercase());
    let Ok(name) = name else { return Err(cx.at("key", |cx| cx.invalid(format!("{key:?} is no header name")))) };
    let bytes = if raw_value.is_empty() { value.into_bytes() } else { raw_value };
    // gRPC over HTTP/2: what is called so is bytes, which travel as base64.
    let is_binary = name.as_str().ends_with("-bin");
    let bytes = if is_binary { BASE64_STANDARD.encode(bytes).into_bytes() } else { bytes };
    match HeaderValue::try_from(bytes) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(cx.at("value", |cx| cx.invalid("has characters that no header may have"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_filter_api::Invalid;

    fn lower(proto: core::GrpcService) -> Result<GrpcServiceConfig, Vec<Invalid>> {
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        GrpcServiceConfig::lower(proto, &mut cx).map_err(|Refused| cx.finish())
    }

    fn service(envoy: EnvoyGrpc) -> core::GrpcService {
        core::GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }
    }

    #[test]
    fn the_authority_is_the_cluster_where_none_is_set() {
        let lowered = lower(service(EnvoyGrpc { cluster_name: "xds".into(), ..Default::default() })).unwrap();
        assert_eq!((&*lowered.target.cluster.name, &*lowered.target.authority), ("xds", "xds"));
        assert_eq!((lowered.timeout, lowered.backoff), (None, None));
    }

    #[test]
    fn of_a_retry_policy_the_pauses_count_alone() {
        let seconds = |seconds| Some(nuncio_proto::google::protobuf::Duration { seconds, nanos: 0 });
        let pauses = core::BackoffStrategy { base_interval: seconds(1), max_interval: None };
        let policy = core::RetryPolicy {
            retry_back_off: Some(pauses),
            num_retries: Some(nuncio_proto::google::protobuf::UInt32Value { value: 3 }),
            retry_on: "connect-failure".to_owned(),
            ..core::RetryPolicy::default()
        };
        let lowered = lower(service(EnvoyGrpc { retry_policy: Some(policy), ..EnvoyGrpc::default() })).unwrap();
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(10) };
        assert_eq!(lowered.backoff, Some(backoff));
    }

    #[test]
    fn metadata_goes_with_the_calls_or_is_refused_by_its_path() {
        let header =
            |key: &str, value: &str| core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        let with = |metadata| core::GrpcService { initial_metadata: metadata, ..service(EnvoyGrpc::default()) };
        let lowered = lower(with(vec![header("X-Token", "secret")])).unwrap();
        assert_eq!(lowered.target.metadata, [(HeaderName::from_static("x-token"), HeaderValue::from_static("secret"))]);
        let lowered = lower(with(vec![header("x-trace-bin", "AAEC")])).unwrap();
        assert_eq!(lowered.target.metadata[0].1, "QUFFQw==");
        let refused = lower(with(vec![header("a", "b"), header("a b", "c")])).unwrap_err();
        assert_eq!(refused[0].to_string(), "initial_metadata[1].key: \"a b\" is no header name");
    }
}
