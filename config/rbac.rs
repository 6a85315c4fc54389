//! `envoy.config.rbac.v3.RBAC`: who may do what. What asks about HTTP is refused where there is none of it.

mod audit;
mod beyond;
mod engine;

use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::rbac::v3 as proto;
use nuncio_proto::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};
use nuncio_proto::envoy::r#type::v3::Int32Range;
use nuncio_telemetry::{ConnectionInfo, TlsInfo};

use crate::matcher::{Cidr, FilterStateMatcher, MetadataMatcher, StringMatcher};

use beyond::{Condition, MtlsPeer, sourced};

pub use engine::{Engine, RbacTree};

/// Why rules about headers are refused, in Envoy too.
const ABOUT_HTTP: &str = "is about HTTP, which the network filter knows nothing of";

/// Policies and what they mean, compiled.
#[derive(Debug)]
pub struct Rbac {
    action: Action,
    /// In order of name, as Envoy has them.
    policies: Box<[Policy]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Log,
}

#[derive(Debug)]
struct Policy {
    name: Arc<str>,
    permissions: Box<[Rule]>,
    principals: Box<[Rule]>,
    condition: Option<Condition>,
}

/// What [`Rbac::decide`] has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may go on.
    pub is_allowed: bool,
    /// The policy or action that matched.
    pub policy: Option<Arc<str>>,
    /// Whether the connection is to be logged, where there is anything that logs.
    pub is_logged: Option<bool>,
}

/// A permission or a principal.
#[derive(Debug)]
enum Rule {
    Any,
    All(Box<[Rule]>),
    One(Box<[Rule]>),
    Not(Box<Rule>),
    DestinationIp(Cidr),
    /// From the first port to the one after the last.
    DestinationPort(i64, i64),
    ServerName(StringMatcher),
    Metadata(MetadataMatcher),
    FilterState(FilterStateMatcher),
    /// The peer has a certificate; one of these names, if it is asked for.
    Authenticated(Option<StringMatcher>),
    /// The peer has a certificate that is believed.
    Mtls(MtlsPeer),
    /// What is asked about is there in HTTP alone.
    Never,
    /// The peer of the socket.
    DirectIp(Cidr),
    /// The client, as far as it is known.
    RemoteIp(Cidr),
}

// === impl Rbac ===

impl Rbac {
    /// Compiles the message, for connections without HTTP.
    pub fn lower_network(message: proto::Rbac, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::Rbac { action, policies, audit_logging_options } = message;
        let refused = cx.opt("audit_logging_options", audit_logging_options, audit::check);
        let action = cx.at("action", |cx| Action::lower(action, cx))?;
        let mut policies: Vec<_> = policies.into_iter().collect();
        policies.sort_by(|(a, _), (b, _)| a.cmp(b));
        let policies: Vec<Result<Policy, Refused>> = cx.at("policies", |cx| {
            let lower = |(name, policy): (String, proto::Policy)| {
                cx.at_key(&name.clone(), |cx| Policy::lower(name, policy, cx))
            };
            policies.into_iter().map(lower).collect()
        });
        refused?;
        Ok(Self { action, policies: policies.into_iter().collect::<Result<_, _>>()? })
    }

    /// Whether a connection may go on. Envoy: the first policy that matches decides.
    pub fn decide(&self, info: &Rc<ConnectionInfo>) -> Decision {
        let policy = self.policies.iter().find(|policy| policy.matches(info)).map(|policy| policy.name.clone());
        let is_allowed = match self.action {
            Action::Allow => policy.is_some(),
            Action::Deny => policy.is_none(),
            Action::Log => true,
        };
        let is_logged = (self.action == Action::Log).then_some(policy.is_some());
        Decision { is_allowed, policy, is_logged }
    }
}

// === impl Action ===

impl Action {
    fn lower(action: i32, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match proto::rbac::Action::try_from(action) {
            Ok(proto::rbac::Action::Allow) => Ok(Self::Allow),
            Ok(proto::rbac::Action::Deny) => Ok(Self::Deny),
            Ok(proto::rbac::Action::Log) => Ok(Self::Log),
            Err(_) => Err(cx.invalid("is not an action")),
        }
    }
}

// === impl Policy ===

impl Policy {
    fn lower(name: String, message: proto::Policy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::Policy { permissions, principals, condition, checked_condition, cel_config } = message;
        // Envoy: the types of an expression are for others.
        let _ = checked_condition;
        let condition = Condition::lower(condition, cel_config, cx);
        let permissions = cx.each("permissions", permissions, Rule::permission);
        let principals = cx.each("principals", principals, Rule::principal);
        Ok(Self {
            name: name.into(),
            permissions: permissions?.into(),
            principals: principals?.into(),
            condition: condition?,
        })
    }

    fn matches(&self, info: &Rc<ConnectionInfo>) -> bool {
        self.permissions.iter().any(|rule| rule.matches(info))
            && self.principals.iter().any(|rule| rule.matches(info))
            && self.condition.as_ref().is_none_or(|condition| condition.holds(info))
    }
}

// === impl Rule ===

impl Rule {
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    fn permission(message: proto::Permission, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use proto::permission::{Rule as Kind, Set};
        let proto::Permission { rule } = message;
        let Some(rule) = rule else { return Err(cx.invalid("a rule is required")) };
        let set = |name: &str, Set { rules }: Set, cx: &mut LowerCx<'_>| {
            cx.at(name, |cx| cx.each("rules", rules, Self::permission)).map(Vec::into_boxed_slice)
        };
        match rule {
            Kind::AndRules(rules) => set("and_rules", rules, cx).map(Self::All),
            Kind::OrRules(rules) => set("or_rules", rules, cx).map(Self::One),
            Kind::Any(_) => Ok(Self::Any),
            Kind::NotRule(rule) => {
                cx.at("not_rule", |cx| Self::permission(*rule, cx)).map(|rule| Self::Not(Box::new(rule)))
            }
            Kind::DestinationIp(range) => cx.at("destination_ip", |cx| Cidr::lower(range, cx)).map(Self::DestinationIp),
            Kind::DestinationPort(port) => Ok(Self::DestinationPort(port.into(), i64::from(port) + 1)),
            Kind::DestinationPortRange(Int32Range { start, end }) => {
                Ok(Self::DestinationPort(start.into(), end.into()))
            }
            Kind::RequestedServerName(name) => {
                cx.at("requested_server_name", |cx| StringMatcher::lower(name, cx)).map(Self::ServerName)
            }
            Kind::Metadata(metadata) => {
                cx.at("metadata", |cx| MetadataMatcher::lower(metadata, cx)).map(Self::Metadata)
            }
            Kind::SourcedMetadata(metadata) => cx.at("sourced_metadata", |cx| sourced(metadata, cx)),
            Kind::Header(_) => Err(cx.at("header", |cx| cx.invalid(ABOUT_HTTP))),
            Kind::UrlPath(path) => cx.at("url_path", |cx| never_path(path, cx)),
            Kind::Matcher(matcher) => cx.at("matcher", |cx| beyond::permission(matcher, cx)),
            Kind::UriTemplate(template) => cx.at("uri_template", |cx| beyond::template(template, cx)),
        }
    }

    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    fn principal(message: proto::Principal, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use proto::principal::{Authenticated, Identifier as Kind, Set};
        let proto::Principal { identifier } = message;
        let Some(identifier) = identifier else { return Err(cx.invalid("an identifier is required")) };
        let set = |name: &str, Set { ids }: Set, cx: &mut LowerCx<'_>| {
            cx.at(name, |cx| cx.each("ids", ids, Self::principal)).map(Vec::into_boxed_slice)
        };
        match identifier {
            Kind::AndIds(ids) => set("and_ids", ids, cx).map(Self::All),
            Kind::OrIds(ids) => set("or_ids", ids, cx).map(Self::One),
            Kind::Any(_) => Ok(Self::Any),
            Kind::NotId(id) => cx.at("not_id", |cx| Self::principal(*id, cx)).map(|id| Self::Not(Box::new(id))),
            Kind::Authenticated(Authenticated { principal_name }) => cx
                .at("authenticated", |cx| cx.opt("principal_name", principal_name, StringMatcher::lower))
                .map(Self::Authenticated),
            // Deprecated: the client, as `remote_ip`. Without HTTP both are the same.
            Kind::SourceIp(range) => cx.at("source_ip", |cx| Cidr::lower(range, cx)).map(Self::RemoteIp),
            Kind::RemoteIp(range) => cx.at("remote_ip", |cx| Cidr::lower(range, cx)).map(Self::RemoteIp),
            Kind::DirectRemoteIp(range) => cx.at("direct_remote_ip", |cx| Cidr::lower(range, cx)).map(Self::DirectIp),
            Kind::Metadata(metadata) => {
                cx.at("metadata", |cx| MetadataMatcher::lower(metadata, cx)).map(Self::Metadata)
            }
            Kind::SourcedMetadata(metadata) => cx.at("sourced_metadata", |cx| sourced(metadata, cx)),
            Kind::FilterState(state) => {
                cx.at("filter_state", |cx| FilterStateMatcher::lower(state, cx)).map(Self::FilterState)
            }
            Kind::Header(_) => Err(cx.at("header", |cx| cx.invalid(ABOUT_HTTP))),
            Kind::UrlPath(path) => cx.at("url_path", |cx| never_path(path, cx)),
            Kind::Custom(custom) => cx.at("custom", |cx| beyond::principal(custom, cx)),
        }
    }

    fn matches(&self, info: &ConnectionInfo) -> bool {
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.matches(info)),
            Self::One(rules) => rules.iter().any(|rule| rule.matches(info)),
            Self::Not(rule) => !rule.matches(info),
            Self::DestinationIp(range) => info.local.ip().is_some_and(|ip| range.contains(ip)),
            Self::DestinationPort(start, end) => {
                info.local.port().is_some_and(|port| (*start..*end).contains(&i64::from(port)))
            }
            Self::ServerName(name) => name.matches(info.server_name.borrow().as_deref().unwrap_or_default().as_bytes()),
            Self::Metadata(matcher) => matcher.matches(info.metadata.borrow().as_deref()),
            Self::FilterState(matcher) => matcher.matches(&info.filter_state.borrow()),
            Self::Authenticated(name) => info.tls.borrow().as_ref().is_some_and(|tls| is_named(tls, name.as_ref())),
            Self::Mtls(peer) => peer.is(info),
            Self::Never => false,
            Self::DirectIp(range) => info.direct_remote.ip().is_some_and(|ip| range.contains(ip)),
            Self::RemoteIp(range) => info.remote.ip().is_some_and(|ip| range.contains(ip)),
        }
    }
}

/// Envoy: without HTTP no path is one that is asked for.
fn never_path(message: PathMatcher, cx: &mut LowerCx<'_>) -> Result<Rule, Refused> {
    let Some(path_matcher::Rule::Path(path)) = message.rule else { return Err(cx.invalid("path is required")) };
    cx.at("path", |cx| StringMatcher::lower(path, cx)).map(|_| Rule::Never)
}

/// Envoy: the names are those of URIs, then those of DNS, or else the subject.
fn is_named(tls: &TlsInfo, name: Option<&StringMatcher>) -> bool {
    let Some(name) = name else { return true };
    let Some(peer) = &tls.peer else { return name.matches(b"") };
    let mut sans = peer.uri_sans.iter().chain(&peer.dns_sans);
    sans.any(|san| name.matches(san.as_bytes())) || name.matches(peer.subject.as_bytes())
}

#[cfg(test)]
mod tests {
    use nuncio_telemetry::Address;
    use tokio::time::Instant;

    use super::*;
    use crate::load::{Format, Loader, Source, UnknownFields};
    use crate::testing::env;

    fn lower(yaml: &str) -> Result<Rbac, Vec<String>> {
        let text = Source::new("test", Format::Yaml, yaml.as_bytes().to_vec());
        let message = Loader::new(UnknownFields::Reject).load(vec![text]).expect("loads").message;
        let env = env();
        let mut cx = LowerCx::new(&env);
        Rbac::lower_network(message, &mut cx).map_err(|Refused| cx.finish().iter().map(ToString::to_string).collect())
    }

    fn decide(yaml: &str) -> (bool, Option<String>) {
        let address = |ip: [u8; 4], port| Address::Ip((ip, port).into());
        let info = ConnectionInfo::new(1, address([10, 1, 2, 3], 5), address([127, 0, 0, 1], 80), Instant::now());
        let decision = lower(yaml).expect("is accepted").decide(&Rc::new(info));
        (decision.is_allowed, decision.policy.map(|name| name.to_string()))
    }

    #[test]
    fn the_first_policy_in_order_of_name_decides() {
        let any = "{permissions: [{any: true}], principals: [{any: true}]}";
        assert_eq!(decide(&format!("policies: {{b: {any}, a: {any}}}")), (true, Some("a".to_owned())));
        assert_eq!(decide(&format!("action: DENY\npolicies: {{a: {any}}}")), (false, Some("a".to_owned())));
        assert_eq!(decide("action: DENY"), (true, None));
        assert_eq!(decide("action: ALLOW"), (false, None));
        assert_eq!(decide("action: LOG"), (true, None));
    }

    #[test]
    fn each_rule_looks_at_its_own() {
        let is_met = |permission: &str, principal: &str| {
            decide(&format!("policies: {{a: {{permissions: [{permission}], principals: [{principal}]}}}}")).0
        };
        let range = "{address_prefix: 10.1.0.0, prefix_len: 16}";
        assert!(is_met("{destination_port: 80}", &format!("{{remote_ip: {range}}}")));
        assert!(!is_met("{destination_port: 81}", "{any: true}"));
        assert!(is_met("{destination_port_range: {start: 80, end: 81}}", &format!("{{direct_remote_ip: {range}}}")));
        assert!(!is_met("{destination_port_range: {start: 70, end: 80}}", "{any: true}"));
        assert!(is_met("{not_rule: {destination_port: 81}}", "{not_id: {authenticated: {}}}"));
        let local = "{destination_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}";
        assert!(is_met(&format!("{{and_rules: {{rules: [{{any: true}}, {local}]}}}}"), "{any: true}"));
        assert!(!is_met("{requested_server_name: {exact: a}}", "{any: true}"));
    }

    #[test]
    fn a_policy_holds_where_its_condition_does() {
        let port = "select_expr: {operand: {ident_expr: {name: destination}}, field: port}";
        let holds = |value: u16| {
            let equal = format!("function: _==_, args: [{{{port}}}, {{const_expr: {{int64_value: {value}}}}}]");
            let condition = format!("condition: {{call_expr: {{{equal}}}}}");
            let checked = "checked_condition: {expr: {const_expr: {bool_value: false}}}";
            let all = "permissions: [{any: true}], principals: [{any: true}]";
            decide(&format!("policies: {{a: {{{all}, {condition}, {checked}}}}}")).0
        };
        assert!(holds(80));
        assert!(!holds(81));
    }

    #[test]
    fn what_is_there_in_http_alone_never_is() {
        let is_met = |permission: &str| {
            decide(&format!("policies: {{a: {{permissions: [{permission}], principals: [{{any: true}}]}}}}")).0
        };
        let never = [
            "{url_path: {path: {prefix: /}}}",
            "{sourced_metadata: {metadata_source: ROUTE, metadata_matcher: {filter: a, path: [{key: b}], value: \
             {present_match: true}, invert: true}}}",
            "{uri_template: {name: u, typed_config: {'@type': \
             type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: /**}}}",
            "{matcher: {name: m, typed_config: {'@type': \
             type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher, \
             upstream_port_range: {start: 1, end: 9}}}}",
        ];
        for permission in never {
            assert!(!is_met(permission), "{permission}");
            assert!(is_met(&format!("{{not_rule: {permission}}}")), "{permission}");
        }
    }

    #[test]
    fn an_audit_logger_is_refused_unless_it_may_be_missing() {
        let logger = "{name: l, typed_config: {'@type': \
                      type.googleapis.com/envoy.extensions.rbac.audit_loggers.stream.v3.StdoutAuditLog}}";
        let options = |condition: &str, optional: bool| {
            let loggers = format!("logger_configs: [{{audit_logger: {logger}, is_optional: {optional}}}]");
            lower(&format!("audit_logging_options: {{audit_condition: {condition}, {loggers}}}")).map(drop)
        };
        assert_eq!(options("NONE", false), Ok(()));
        assert_eq!(options("ON_DENY", true), Ok(()));
        let refused = options("ON_DENY_AND_ALLOW", false).expect_err("is refused");
        assert!(refused[0].starts_with("audit_logging_options.logger_configs[0].audit_logger: "), "{refused:?}");
    }

    #[test]
    fn what_asks_about_http_is_refused_by_name() {
        let refused = lower("policies: {a: {permissions: [{header: {name: x}}], principals: [{any: true}]}}");
        let refused = refused.map(|_| ()).expect_err("is refused");
        let reason = "is about HTTP, which the network filter knows nothing of";
        assert_eq!(refused, [format!("policies[\"a\"].permissions[0].header: {reason}")]);
    }
}
