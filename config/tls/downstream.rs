//! `DownstreamTlsContext`: we are the server.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::stats::Scope;
use prost::Message;

use super::context::Common;
use super::live::{Live, Recipe};
use super::ocsp::Policy;
use super::on_demand::{OnDemand, Selector};
use super::parameters::Version;
use super::references::References;
use super::server_side::ServerSide;
use super::sessions::DEFAULT_LIFETIME;
use super::tickets::Tickets;
use super::validation::{Peer, sha256};
use crate::fingerprint::fingerprint;

/// Where a listener counts what its contexts went through.
const FACTORY: &str = "server_ssl_socket_factory";

/// A listener's side of TLS.
#[derive(Debug)]
pub struct DownstreamTls {
    live: Arc<Live<ServerSide>>,
    /// Where certificates are asked for as handshakes want them: the other side has none then.
    on_demand: Option<Arc<OnDemand<ServerSide>>>,
}

/// What a server's context says.
pub(super) struct Parts {
    pub(super) common: Common,
    pub(super) tickets: Tickets,
    /// Seconds that a session is good for.
    pub(super) lifetime: u32,
    pub(super) staples: Policy,
    pub(super) scans_all: bool,
    pub(super) requires_certificate: bool,
    pub(super) requires_sni: bool,
    pub(super) is_stateful: bool,
    pub(super) ignores_client_order: bool,
    pub(super) needs: Needs,
    /// Of all that the message says.
    pub(super) fingerprint: u64,
    /// Of what it says clients are held against.
    pub(super) rules: [u8; 32],
}

/// Whether a side shows certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Certificates,
    /// They are asked for by each handshake.
    Nothing,
}

impl DownstreamTls {
    /// Lowers the message.
    pub fn lower(mut proto: pb::DownstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let scope = cx.listener().unwrap_or_else(|| cx.scope()).clone();
        let common = proto.common_tls_context.get_or_insert_default();
        if !common.tls_certificates.is_empty() && !common.tls_certificate_sds_secret_configs.is_empty() {
            let refuse = |cx: &mut LowerCx<'_>| cx.invalid("a server has either these or tls_certificates");
            return Err(cx.at("common_tls_context", |cx| cx.at("tls_certificate_sds_secret_configs", refuse)));
        }
        let taken = cx.at("common_tls_context", |cx| {
            let selector = Selector::take(common, Peer::Client, cx);
            Ok((References::take(common, cx)?, selector?))
        });
        let (mut references, selector) = taken?;
        references.take_ticket_keys(&mut proto.session_ticket_keys_type, cx)?;
        let Some(selector) = selector else {
            let live = Self::live(proto, references, Needs::Certificates, &scope, cx)?;
            return Ok(Self { live, on_demand: None });
        };
        check_resumption(&proto, cx)?;
        let others = references.without_certificates();
        let live = Self::live(proto.clone(), references, Needs::Nothing, &scope, cx)?;
        proto.common_tls_context.get_or_insert_default().tls_certificates.clear();
        let recipe = recipe(proto, Needs::Certificates);
        let on_demand = OnDemand::new(selector, others, recipe, &scope, cx);
        Ok(Self { live, on_demand: Some(on_demand) })
    }

    fn live(
        proto: pb::DownstreamTlsContext,
        references: References,
        needs: Needs,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Live<ServerSide>>, Refused> {
        if references.is_empty() {
            let side = ServerSide::shared(Parts::lower(proto, needs, cx)?, cx)?;
            return Ok(Live::fixed(side, FACTORY, scope, cx));
        }
        Live::following(references, recipe(proto, needs), FACTORY, scope, cx)
    }

    /// What handshakes are made with now; `None` while secrets are missing.
    pub fn current(&self) -> Option<Arc<ServerSide>> {
        self.live.current()
    }

    /// Whether handshakes ask for their certificates.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// The side that a client is shown which asks for this server, once its certificate has come; `None`: there is none.
    pub async fn on_demand(&self, server_name: Option<&str>) -> Option<Arc<ServerSide>> {
        self.on_demand.as_ref()?.for_client(server_name).await
    }

    /// A connection was closed for the lack of secrets.
    pub fn note_not_ready(&self) {
        self.live.stats.downstream_context_secrets_not_ready().inc();
    }
}

fn recipe(proto: pb::DownstreamTlsContext, needs: Needs) -> Recipe<ServerSide> {
    Box::new(move |references: &References, cx: &mut LowerCx<'_>| {
        let mut proto = proto.clone();
        let common = proto.common_tls_context.get_or_insert_default();
        cx.at("common_tls_context", |cx| references.resolve(common, cx))?;
        references.resolve_ticket_keys(&mut proto.session_ticket_keys_type, cx)?;
        // What is wrong beside the secrets is so before they come.
        let parts = Parts::lower(proto, needs, cx)?;
        references.are_there().then(|| ServerSide::shared(parts, cx)).transpose()
    })
}

/// Envoy: what a session is bound to does not tell certificates that are asked for.
fn check_resumption(proto: &pb::DownstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    use pb::downstream_tls_context::SessionTicketKeysType as Type;
    let is_stateless = proto.session_ticket_keys_type != Some(Type::DisableStatelessSessionResumption(true));
    if !is_stateless && proto.disable_stateful_session_resumption {
        return Ok(());
    }
    let reason = "needs disable_stateless_session_resumption and disable_stateful_session_resumption";
    Err(cx.at("common_tls_context", |cx| cx.at("custom_tls_certificate_selector", |cx| cx.invalid(reason))))
}

impl Parts {
    fn lower(proto: pb::DownstreamTlsContext, needs: Needs, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // prefer_client_ciphers: ours is the order of preference unless set.
        let rules = rules(&proto);
        let fingerprint = fingerprint(&proto, &[]);
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = proto;
        // As BoringSSL does, which takes 0 for nothing.
        let seconds = session_timeout.map(|timeout| u32::try_from(timeout.seconds).unwrap_or(u32::MAX));
        let tickets = Tickets::lower(session_ticket_keys_type, cx);
        let common =
            cx.at("common_tls_context", |cx| Common::lower(common_tls_context.unwrap_or_default(), Version::Tls13, cx));
        Ok(Self {
            common: common?,
            tickets: tickets?,
            lifetime: seconds.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_LIFETIME),
            staples: Policy::lower(ocsp_staple_policy),
            scans_all: full_scan_certs_on_sni_mismatch.is_some_and(|v| v.value),
            requires_certificate: require_client_certificate.is_some_and(|v| v.value),
            requires_sni: require_sni.is_some_and(|v| v.value),
            is_stateful: !disable_stateful_session_resumption,
            ignores_client_order: !prefer_client_ciphers,
            needs,
            fingerprint,
            rules,
        })
    }
}

/// Of all that the message says of what clients are held against.
fn rules(proto: &pb::DownstreamTlsContext) -> [u8; 32] {
    let common = proto.common_tls_context.as_ref();
    let validation = pb::CommonTlsContext {
        validation_context_type: common.and_then(|common| common.validation_context_type.clone()),
        ..pb::CommonTlsContext::default()
    };
    let is_required = proto.require_client_certificate.is_some_and(|v| v.value);
    sha256(&[validation.encode_to_vec(), vec![u8::from(is_required)]].concat())
}
