//! `envoy.filters.listener.proxy_protocol`: learns from the header that a proxy before this one sends who its client is.

mod header;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use nuncio_config::proxy_tlv::PassThrough;
use nuncio_filter_api::filter_state::{self, ProxyTlv, ProxyTlvs};
use nuncio_filter_api::{Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused, Rejected};
use nuncio_proto::envoy::config::core::v3::proxy_protocol_config::Version as VersionProto;
use nuncio_proto::envoy::data::core::v3::TlvsMetadata;
use nuncio_proto::envoy::extensions::filters::listener::proxy_protocol::v3 as proto;
use nuncio_telemetry::{FilterValue, LifeSpan, TypedMessage};
use prost::Message;
use proto::proxy_protocol::key_value_pair::ValueStringEncoding;
use proto::proxy_protocol::{KeyValuePair, Rule as RuleProto, TlvLocation};

use header::{Found, Header, Tlv, Version};

pub(crate) const ROW: ListenerFilterRow = ListenerFilterRow {
    name: "envoy.filters.listener.proxy_protocol",
    config: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    lower,
};

/// Where values are left that have no namespace of their own.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

/// The message that values are left as beside their text.
const TLVS_METADATA: &str = "envoy.data.core.v3.TlvsMetadata";

nuncio_telemetry::stats! {
    /// `proxy_proto` and `proxy_proto.<stat_prefix>`
    struct ProxyStats {
        not_found_disallowed: Counter,
        not_found_allowed: Counter,
    }

    /// At the root, since before the others were.
    struct LegacyStats {
        downstream_cx_proxy_proto_error: Counter,
    }

    /// `versions.v1` and `versions.v2` below
    struct VersionStats {
        found: Counter,
        disallowed: Counter,
        error: Counter,
    }
}

struct ProxyProtocol {
    rules: Vec<Rule>,
    /// The values that hosts may be told of.
    passed: PassThrough,
    /// What rules keep goes to the filter state, rather than to metadata.
    keeps_fields: bool,
    /// Connections may come without a header.
    is_optional: bool,
    disallowed: Vec<Version>,
    stats: ProxyStats,
    legacy: LegacyStats,
    v1: VersionStats,
    v2: VersionStats,
}

/// What is kept of a value.
struct Rule {
    kind: u8,
    namespace: Arc<str>,
    key: String,
    is_base64: bool,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let proto::ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let mut scope = cx.env.stats.scope("proxy_proto");
    if !stat_prefix.is_empty() {
        scope = scope.scope(&stat_prefix);
    }
    if [VersionProto::V1, VersionProto::V2].iter().all(|version| disallowed_versions.contains(&(*version as i32))) {
        return Err(cx.at("disallowed_versions", |cx| cx.invalid("no version is left that is allowed")));
    }
    let rules = cx.each("rules", rules, |rule, cx| Rule::lower(rule, cx))?;
    let disallowed = disallowed_versions.iter().map(|version| match VersionProto::try_from(*version) {
        Ok(VersionProto::V2) => Version::V2,
        _ => Version::V1,
    });
    Ok(Arc::new(ProxyProtocol {
        rules,
        passed: PassThrough::lower(pass_through_tlvs),
        keeps_fields: TlvLocation::try_from(tlv_location) == Ok(TlvLocation::FilterState),
        is_optional: allow_requests_without_proxy_protocol,
        disallowed: disallowed.collect(),
        stats: ProxyStats::new(&scope),
        legacy: LegacyStats::new(&cx.env.stats.scope("")),
        v1: VersionStats::new(&scope.scope("versions.v1")),
        v2: VersionStats::new(&scope.scope("versions.v2")),
    }))
}

/// Envoy: the rest of the number is of no account.
fn low_byte(kind: u32) -> u8 {
    kind.to_le_bytes()[0]
}

// === impl Rule ===

impl Rule {
    fn lower(proto: RuleProto, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let RuleProto { tlv_type, on_tlv_present } = proto;
        // Envoy: a rule that says nothing keeps the value under an empty key.
        let is_said = on_tlv_present.is_some();
        let KeyValuePair { metadata_namespace, key, value_string_encoding } = on_tlv_present.unwrap_or_default();
        if is_said && key.is_empty() {
            return Err(cx.at("on_tlv_present", |cx| cx.at("key", |cx| cx.invalid("must not be empty"))));
        }
        let namespace = if metadata_namespace.is_empty() { NAMESPACE.into() } else { metadata_namespace.into() };
        let is_base64 = ValueStringEncoding::try_from(value_string_encoding) == Ok(ValueStringEncoding::Base64);
        Ok(Self { kind: low_byte(tlv_type), namespace, key, is_base64 })
    }

    fn text(&self, value: &[u8]) -> String {
        match self.is_base64 {
            true => base64::engine::general_purpose::STANDARD.encode(value),
            false => sanitized(value),
        }
    }
}

/// Envoy puts `!` in the place of each byte that is no UTF-8.
fn sanitized(value: &[u8]) -> String {
    let mut text = String::new();
    for chunk in value.utf8_chunks() {
        text += chunk.valid();
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

// === impl ProxyProtocol ===

impl ListenerFilter for ProxyProtocol {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        Inspection::Wait(Box::pin(self.look(incoming)))
    }
}

impl ProxyProtocol {
    async fn look(&self, incoming: &mut Incoming) -> Result<(), Rejected> {
        let mut buffer = vec![0; header::FIRST_LOOK];
        let mut seen = 0;
        loop {
            let bytes = incoming.peek(&mut buffer, seen).await?;
            seen = bytes.len();
            if self.is_optional && !self.may_be_header(bytes) {
                self.stats.not_found_allowed().inc();
                return Ok(());
            }
            match header::parse(bytes) {
                Found::More(wanted) => {
                    if wanted > buffer.len() {
                        buffer.resize(wanted, 0);
                    }
                }
                Found::Nothing => {
                    self.stats.not_found_disallowed().inc();
                    self.legacy.downstream_cx_proxy_proto_error().inc();
                    return Err(Rejected::Refused("sent no PROXY header"));
                }
                Found::Broken(version) => {
                    if !self.is_disallowed(version) {
                        self.of(version).error().inc();
                        self.legacy.downstream_cx_proxy_proto_error().inc();
                        return Err(Rejected::Refused("sent a PROXY header that is malformed"));
                    }
                    return Err(self.disallow(version));
                }
                Found::Header(version, _) if self.disallowed.contains(&version) => return Err(self.disallow(version)),
                Found::Header(version, header) => return self.take(version, &header, incoming),
            }
        }
    }

    /// Whether these bytes may still become a header of a version that is looked for.
    fn may_be_header(&self, bytes: &[u8]) -> bool {
        let may_be = |version: Version| {
            let signature = version.signature();
            let length = signature.len().min(bytes.len());
            !self.disallowed.contains(&version) && bytes[..length] == signature[..length]
        };
        may_be(Version::V1) || may_be(Version::V2)
    }

    fn is_disallowed(&self, version: Version) -> bool {
        self.disallowed.contains(&version)
    }

    fn disallow(&self, version: Version) -> Rejected {
        self.of(version).found().inc();
        self.of(version).disallowed().inc();
        Rejected::Refused("sent a PROXY header of a version that is not allowed")
    }

    fn of(&self, version: Version) -> &VersionStats {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }

    fn take(&self, version: Version, header: &Header, incoming: &mut Incoming) -> Result<(), Rejected> {
        if let Some((source, destination)) = header.ends {
            if incoming.local != destination.into() {
                incoming.local = destination.into();
                incoming.is_local_restored = true;
            }
            incoming.remote = source.into();
            self.keep_fields(header, incoming);
            if !self.keeps_fields {
                header.tlvs.iter().for_each(|tlv| self.keep(tlv, incoming));
                self.keep_messages(header, incoming);
            }
        }
        self.pass_on(header, incoming);
        self.of(version).found().inc();
        incoming.consume(header.length)
    }

    /// Leaves for the sockets of hosts what they may tell.
    fn pass_on(&self, header: &Header, incoming: &mut Incoming) {
        let passed = header.tlvs.iter().filter(|tlv| header.ends.is_some() && self.passed.has(tlv.kind));
        let passed = passed.map(|tlv| ProxyTlv { kind: tlv.kind, value: tlv.value.clone() });
        let value = FilterValue::Object(Rc::new(ProxyTlvs(passed.collect())));
        incoming.inspected().filter_state.set(filter_state::PROXY_TLVS, value, LifeSpan::Connection);
    }

    /// Leaves what rules keep as fields of one value.
    fn keep_fields(&self, header: &Header, incoming: &mut Incoming) {
        let mut fields = BTreeMap::<Box<str>, Box<str>>::new();
        for tlv in header.tlvs.iter().filter(|_| self.keeps_fields) {
            if let Some(rule) = self.rule_of(tlv) {
                // Envoy: of values of one type, the last.
                fields.insert(rule.key.as_str().into(), rule.text(&tlv.value).into());
            }
        }
        if !fields.is_empty() {
            let value = FilterValue::Fields(Rc::new(fields));
            incoming.inspected().filter_state.set(filter_state::PROXY_FIELDS, value, LifeSpan::Connection);
        }
    }

    /// Envoy: of rules for one type, the last.
    fn rule_of(&self, tlv: &Tlv) -> Option<&Rule> {
        self.rules.iter().rfind(|rule| rule.kind == tlv.kind)
    }

    /// Leaves what rules keep as a message of each namespace too, as it came, whatever the rules say of text.
    fn keep_messages(&self, header: &Header, incoming: &mut Incoming) {
        let mut messages = BTreeMap::<_, TlvsMetadata>::new();
        for tlv in &header.tlvs {
            if let Some(rule) = self.rule_of(tlv) {
                let message = messages.entry(rule.namespace.clone()).or_default();
                // Envoy: of values of one type, the last, while the text is that of the first.
                message.typed_metadata.insert(rule.key.clone(), tlv.value.to_vec());
            }
        }
        for (namespace, message) in messages {
            let message = TypedMessage { name: TLVS_METADATA, bytes: message.encode_to_vec().into() };
            incoming.inspected().typed_metadata.insert(namespace, message);
        }
    }

    fn keep(&self, tlv: &Tlv, incoming: &mut Incoming) {
        if let Some(rule) = self.rule_of(tlv) {
            let values = incoming.inspected().metadata.entry(rule.namespace.clone()).or_default();
            values.entry(rule.key.clone()).or_insert_with(|| rule.text(&tlv.value).into());
        }
    }
}
