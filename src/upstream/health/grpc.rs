use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nuncio_config::cluster::{GrpcHealthCheck, UpstreamProtocol};
use nuncio_filter_api::{Body, ByteStr, RequestHead, Response, Scheme, grpc_frame};
use nuncio_telemetry::Protocol;
use prost::Message;

use super::http::{HttpConnection, with_context};
use super::probe::{NO_ANSWER, Target};
use super::state::{CheckResult, Failure, FailureKind};

/// Bytes before each message: a flag for compression, and its length.
const PREFIX: usize = 5;
/// No answer of a health service is nearly as large.
const MAX_ANSWER: usize = 64 * 1024;
/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: i32 = 1;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Default)]
pub(super) struct GrpcProbe {
    connection: HttpConnection,
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

// === impl GrpcProbe ===

impl GrpcProbe {
    pub(super) async fn run(&mut self, target: &Target, config: &GrpcHealthCheck) -> CheckResult {
        let body = Body::full(frame(&HealthCheckRequest { service: config.service.to_string() }));
        let head = request(target, config);
        let Some(response) = self.connection.ask(target, UpstreamProtocol::Http2, head, body).await else {
            return NO_ANSWER;
        };
        let answer = read(response).await;
        if !target.config.reuse_connection {
            self.close();
        }
        match answer {
            Answer::Serving => CheckResult::Passed { degraded: false },
            Answer::NotServing => {
                CheckResult::Failed(Failure { kind: FailureKind::Active, retriable: false, status: 0 })
            }
            // Whether the connection has ended as well is found out by the next check.
            Answer::Broken => NO_ANSWER,
        }
    }

    pub(super) fn close(&mut self) {
        self.connection.close();
    }
}

fn request(target: &Target, config: &GrpcHealthCheck) -> RequestHead {
    const PATH: ByteStr = ByteStr::from_static("/grpc.health.v1.Health/Check");
    let mut head = RequestHead::new(Method::POST, Scheme::Http, target.authority(&config.authority), PATH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    head.headers.insert(USER_AGENT, HeaderValue::from_static("Envoy/HC"));
    head.headers.insert(&GRPC_TIMEOUT, grpc_timeout(target.config.timeout));
    with_context(target, Protocol::Http2, |cx| config.metadata.apply_request(&mut head, cx));
    head
}

/// The time as the header has it: no more than eight digits of the finest unit that they do for.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let units = [(1, 'm'), (1_000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let in_unit = |&(millis, unit): &(u128, char)| {
        let value = timeout.as_millis() / millis;
        (value <= MAX).then(|| format!("{value}{unit}"))
    };
    let text = units.iter().find_map(in_unit).unwrap_or_else(|| format!("{MAX}H"));
    HeaderValue::try_from(text).expect("digits and a letter are a header value")
}

fn frame(message: &impl Message) -> Bytes {
    grpc_frame(&message.encode_to_vec())
}

/// What a host says of a service.
enum Answer {
    Serving,
    /// That, or anything else.
    NotServing,
    /// The stream broke off.
    Broken,
}

async fn read(response: Response) -> Answer {
    let Response { head, mut body } = response;
    let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if head.status != StatusCode::OK || !is_grpc {
        return Answer::NotServing;
    }
    let (mut data, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.next().await {
        match frame.map(http_body::Frame::into_data) {
            Err(_) => return Answer::Broken,
            Ok(Ok(bytes)) if data.len() + bytes.len() > MAX_ANSWER => return Answer::NotServing,
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let is_ok = trailers.get(&GRPC_STATUS).is_some_and(|status| status == "0");
    if is_ok && is_serving(&data) { Answer::Serving } else { Answer::NotServing }
}

/// Whether `data` is one message that says so.
fn is_serving(data: &[u8]) -> bool {
    let Some((&[0, a, b, c, d], message)) = data.split_first_chunk::<PREFIX>() else { return false };
    u32::from_be_bytes([a, b, c, d]) as usize == message.len()
        && HealthCheckResponse::decode(message).is_ok_and(|answer| answer.status == SERVING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_whole_message_that_says_serving_will_do() {
        let message = |status| frame(&HealthCheckResponse { status });
        assert!(is_serving(&message(SERVING)));
        assert!(!is_serving(&message(2)));
        assert!(!is_serving(&message(0)), "UNKNOWN is encoded as nothing");
        assert!(!is_serving(b""));
        assert!(!is_serving(&message(SERVING)[..6]));
        assert!(!is_serving(&[message(SERVING), message(SERVING)].concat()));
        let mut compressed = message(SERVING).to_vec();
        compressed[0] = 1;
        assert!(!is_serving(&compressed));
    }

    #[test]
    fn a_timeout_has_eight_digits_at_most() {
        let value = |seconds| grpc_timeout(Duration::from_secs(seconds)).to_str().unwrap().to_owned();
        assert_eq!([1, 99_999, 100_000].map(value), ["1000m", "99999000m", "100000S"]);
    }

    #[test]
    fn a_request_names_its_service() {
        let request = frame(&HealthCheckRequest { service: "s".to_owned() });
        assert_eq!(request[..], [0, 0, 0, 0, 3, 0x0a, 1, b's']);
    }
}
