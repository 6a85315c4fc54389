//! `envoy.filters.network.ext_authz`: asks a service whether a connection may go on, when it brings its first bytes.

mod checked;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_config::address::to_proto;
use nuncio_config::grpc::GrpcServiceConfig;
use nuncio_config::matcher::MetadataMatcher;
use nuncio_config::metadata::object;
use nuncio_filter_api::{Connection, Flow, Io, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as Proto;
use nuncio_proto::envoy::service::auth::v3::check_response::HttpResponse;
use nuncio_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse, attribute_context};
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::{Address, CertificateInfo, ConnectionInfo, FilterValue, LifeSpan, ResponseFlag, TypedMessage};

use crate::grpc_call::{GrpcCall, check_version};
use checked::Checked;

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.ext_authz",
    config: "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    lower,
};

nuncio_telemetry::stats! {
    /// `ext_authz.<stat_prefix>`
    struct ExtAuthzStats {
        total: Counter,
        error: Counter,
        denied: Counter,
        disabled: Counter,
        failure_mode_allowed: Counter,
        ok: Counter,
        cx_closed: Counter,
        active: Gauge,
    }
}

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Envoy's default where the service has none.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Where what the service says is among the metadata of a connection.
const METADATA: &str = "envoy.filters.network.ext_authz";

struct ExtAuthz {
    stats: ExtAuthzStats,
    call: GrpcCall,
    allows_on_failure: bool,
    tells_certificate: bool,
    tells_server_name: bool,
    /// Clients that speak TLS are told why they are closed.
    tells_denial: bool,
    /// What of the metadata of a connection is told.
    namespaces: Vec<String>,
    /// Which of the messages among it are.
    typed_namespaces: Vec<String>,
    enabled: Option<MetadataMatcher>,
    /// What is told of ourselves.
    labels: HashMap<String, String>,
    /// `shadow_mode`: what the service says is noted, and not obeyed.
    is_shadow: bool,
}

enum Verdict {
    Allowed,
    /// With this status of HTTP.
    Denied(i32),
    Failed,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto {
        stat_prefix,
        grpc_service,
        failure_mode_allow,
        include_peer_certificate,
        transport_api_version,
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        include_tls_session,
        send_tls_alert_on_denial,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        shadow_mode,
    } = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    // Envoy: what is not said is v3.
    let version = if transport_api_version == 0 { Ok(()) } else { check_version(transport_api_version, cx) };
    let enabled = cx.opt("filter_enabled_metadata", filter_enabled_metadata, MetadataMatcher::lower);
    let service = cx.opt("grpc_service", grpc_service, GrpcServiceConfig::lower)?;
    let service = service.ok_or_else(|| cx.at("grpc_service", |cx| cx.invalid("is required")))?;
    version?;
    Ok(Arc::new(ExtAuthz {
        stats: ExtAuthzStats::new(&cx.env.stats.scope("ext_authz").scope(&stat_prefix)),
        call: GrpcCall::new(service, METHOD, TIMEOUT),
        allows_on_failure: failure_mode_allow,
        tells_certificate: include_peer_certificate,
        tells_server_name: include_tls_session,
        tells_denial: send_tls_alert_on_denial,
        namespaces: metadata_context_namespaces,
        typed_namespaces: typed_metadata_context_namespaces,
        enabled: enabled?,
        labels: labels(&bootstrap_metadata_labels_key, cx),
        is_shadow: shadow_mode,
    }))
}

impl NetworkFilter for ExtAuthz {
    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        let Connection { io, info } = connection;
        let (asked, tells_denial) = (info.clone(), self.tells_denial);
        let check = Box::pin(async move { self.allows(&asked, &cx).await });
        let io = Io::new(Checked::new(io, info.clone(), tells_denial, check));
        Box::pin(std::future::ready(Flow::Next(Connection { io, info })))
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

// === impl ExtAuthz ===

impl ExtAuthz {
    async fn allows(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> bool {
        if self.enabled.as_ref().is_some_and(|enabled| !enabled.matches(info.metadata.borrow().as_deref())) {
            self.stats.disabled().inc();
            return true;
        }
        let verdict = self.ask(info, cx).await;
        if self.is_shadow {
            info.filter_state.borrow_mut().set(METADATA, verdict.noted(), LifeSpan::Connection);
        }
        let details = match verdict {
            Verdict::Allowed => {
                self.stats.ok().inc();
                return true;
            }
            Verdict::Denied(_) => {
                self.stats.denied().inc();
                "ext_authz_denied"
            }
            Verdict::Failed => {
                self.stats.error().inc();
                if self.allows_on_failure && !self.is_shadow {
                    self.stats.failure_mode_allowed().inc();
                    return true;
                }
                "ext_authz_error"
            }
        };
        if self.is_shadow {
            return true;
        }
        self.stats.cx_closed().inc();
        info.flags.set(info.flags.get().union(ResponseFlag::UnauthorizedExternalService.into()));
        info.details.set(Some(details));
        info.local_close_reason.set(Some("ext_authz_close"));
        false
    }

    async fn ask(&self, info: &ConnectionInfo, cx: &NetworkCx) -> Verdict {
        self.stats.total().inc();
        let begun = cx.worker.clock.now();
        let Ok(answer) = self.call.call::<CheckResponse>(&self.request(info), self.stats.active(), cx).await else {
            return Verdict::Failed;
        };
        let is_allowed = answer.status.as_ref().is_none_or(|status| status.code == 0);
        let mut fields = answer.dynamic_metadata.map(object).unwrap_or_default();
        if is_allowed {
            let took = cx.worker.clock.now().saturating_duration_since(begun);
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            fields.insert("ext_authz_duration".to_owned(), millis.into());
        }
        if !fields.is_empty() {
            info.metadata.borrow_mut().get_or_insert_default().insert(METADATA.into(), fields);
        }
        let denied = match answer.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => denied.status.map(|status| status.code),
            _ => None,
        };
        match is_allowed {
            true => Verdict::Allowed,
            false => Verdict::Denied(denied.filter(|code| *code != 0).unwrap_or(403)),
        }
    }

    fn request(&self, info: &ConnectionInfo) -> CheckRequest {
        let tls = info.tls.borrow();
        let tls = tls.as_deref();
        let mut source = peer(&info.remote, tls.and_then(|tls| tls.peer.as_deref()));
        if self.tells_certificate {
            source.certificate = tls.and_then(|tls| tls.peer.as_deref()).map(pem).unwrap_or_default();
        }
        let server_name = info.server_name.borrow().as_deref().map(str::to_owned);
        let asked = tls.filter(|_| self.tells_server_name).and_then(|tls| tls.server_name.as_deref());
        let tls_session = asked.map(|sni| attribute_context::TlsSession { sni: sni.to_owned() });
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source),
                destination: Some(attribute_context::Peer {
                    labels: self.labels.clone(),
                    service: server_name.unwrap_or_default(),
                    ..peer(&info.local, tls.and_then(|tls| tls.local.as_deref()))
                }),
                tls_session,
                metadata_context: self.metadata(info),
                ..AttributeContext::default()
            }),
        }
    }

    fn metadata(&self, info: &ConnectionInfo) -> Option<core::Metadata> {
        let metadata = info.metadata.borrow();
        let told = metadata.as_deref().map(|metadata| {
            let told = metadata.iter().filter(|(name, _)| self.namespaces.iter().any(|n| **n == ***name));
            told.map(|(name, fields)| (name.clone(), fields.clone())).collect()
        });
        Some(core::Metadata {
            typed_filter_metadata: self.typed_metadata(info),
            ..nuncio_config::metadata::to_proto(&told.unwrap_or_default())
        })
    }

    fn typed_metadata(&self, info: &ConnectionInfo) -> HashMap<String, Any> {
        let Some(inspected) = &info.inspected else { return HashMap::new() };
        let told =
            inspected.typed_metadata.iter().filter(|(name, _)| self.typed_namespaces.iter().any(|n| **n == ***name));
        let any = |message: &TypedMessage| Any {
            type_url: format!("type.googleapis.com/{}", message.name),
            value: message.bytes.to_vec(),
        };
        told.map(|(name, message)| (name.to_string(), any(message))).collect()
    }
}

// === impl Verdict ===

impl Verdict {
    /// As Envoy's filter state tells it.
    fn noted(&self) -> FilterValue {
        FilterValue::Text(match self {
            Self::Allowed => r#"{"check_result":"OK"}"#.into(),
            Self::Denied(code) => format!(r#"{{"check_result":"DENIED","status_code":{code}}}"#).into(),
            Self::Failed => r#"{"check_result":"ERROR"}"#.into(),
        })
    }
}

/// The texts under `key` in the metadata of the node.
fn labels(key: &str, cx: &LowerCx<'_>) -> HashMap<String, String> {
    let metadata = cx.env.node.info.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.get(key)?.as_object());
    let labels = labels.into_iter().flatten();
    labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// Envoy: whose certificate it is, it is known by its URI, or else its subject.
fn peer(address: &Address, certificate: Option<&CertificateInfo>) -> attribute_context::Peer {
    let principal = certificate.map(|certificate| certificate.uri_sans.first().unwrap_or(&certificate.subject).clone());
    attribute_context::Peer {
        address: Some(to_proto(address)),
        principal: principal.unwrap_or_default(),
        ..attribute_context::Peer::default()
    }
}

/// A certificate as PEM, its signs escaped as in a URL.
fn pem(certificate: &CertificateInfo) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&certificate.der);
    let lines = encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>());
    let escape = |c: char| match c {
        '\n' => "%0A".to_owned(),
        ' ' => "%20".to_owned(),
        '+' => "%2B".to_owned(),
        '/' => "%2F".to_owned(),
        '=' => "%3D".to_owned(),
        other => other.to_string(),
    };
    pem.chars().map(escape).collect()
}
