//! What decides whether a connection may go on: policies, or a tree of matchers whose leaves are actions.

use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::rbac::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use nuncio_telemetry::ConnectionInfo;

use super::{Action, Decision, Rbac};
use crate::matching::{HostData, Inputs, Tree, TreeRules};
use crate::protocol::{any_as, message_name};

/// What decides about connections.
#[derive(Debug)]
pub enum Engine {
    /// By policies.
    Policies(Rbac),
    /// By a tree of matchers.
    Tree(RbacTree),
}

/// A tree whose leaves are actions.
#[derive(Debug)]
pub struct RbacTree {
    tree: Tree,
    outcomes: Vec<Outcome>,
}

#[derive(Debug)]
struct Outcome {
    name: Arc<str>,
    action: Action,
}

// === impl Engine ===

impl Engine {
    /// Of two fields by their names, for connections without HTTP.
    pub fn lower_network(
        policies: (&str, Option<proto::Rbac>),
        tree: (&str, Option<Matcher>),
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        // Envoy: where there is a tree, policies beside it are passed over.
        match tree {
            (name, Some(tree)) => cx.at(name, |cx| RbacTree::lower(tree, cx)).map(|tree| Some(Self::Tree(tree))),
            (_, None) => cx.opt(policies.0, policies.1, |rules, cx| Rbac::lower_network(rules, cx).map(Self::Policies)),
        }
    }

    /// Whether a connection may go on.
    pub fn decide(&self, info: &Rc<ConnectionInfo>) -> Decision {
        match self {
            Self::Policies(rules) => rules.decide(info),
            Self::Tree(tree) => tree.decide(info),
        }
    }
}

// === impl RbacTree ===

impl RbacTree {
    fn lower(matcher: Matcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let mut outcomes = Vec::new();
        let mut leaf = |any: Any, cx: &mut LowerCx<'_>| {
            outcomes.push(Outcome::lower(&any, cx)?);
            Ok(u32::try_from(outcomes.len() - 1).unwrap_or(u32::MAX))
        };
        let mut rules = TreeRules { inputs: Inputs::Established, keep_matching: false, leaf: &mut leaf };
        let tree = Tree::lower(matcher, &mut rules, cx)?;
        Ok(Self { tree, outcomes })
    }

    /// Envoy: what finds no action is not allowed.
    fn decide(&self, info: &Rc<ConnectionInfo>) -> Decision {
        let leaf = self.tree.find_for_connection(info.clone(), HostData::default());
        let Some(Outcome { name, action }) = leaf.and_then(|leaf| self.outcomes.get(leaf as usize)) else {
            return Decision { is_allowed: false, policy: None, is_logged: None };
        };
        let has_logs = self.outcomes.iter().any(|outcome| outcome.action == Action::Log);
        Decision {
            is_allowed: *action != Action::Deny,
            policy: Some(name.clone()),
            is_logged: has_logs.then_some(*action == Action::Log),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn lower(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        const ACTION: &str = "envoy.config.rbac.v3.Action";
        if message_name(any) != ACTION {
            return Err(cx.invalid(format!("{} is no action of rbac, which has {ACTION}", message_name(any))));
        }
        let proto::Action { name, action } = any_as(any, cx)?;
        Ok(Self { name: name.into(), action: cx.at("action", |cx| Action::lower(action, cx))? })
    }
}

#[cfg(test)]
mod tests {
    use nuncio_telemetry::Address;
    use tokio::time::Instant;

    use super::*;
    use crate::load::{Format, Loader, Source, UnknownFields};
    use crate::testing::env;

    const INPUTS: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3";

    fn lower(yaml: &str) -> Result<Engine, Vec<String>> {
        let text = Source::new("test", Format::Yaml, yaml.as_bytes().to_vec());
        let message: Matcher = Loader::new(UnknownFields::Reject).load(vec![text]).expect("loads").message;
        let env = env();
        let mut cx = LowerCx::new(&env);
        match Engine::lower_network(("rules", None), ("matcher", Some(message)), &mut cx) {
            Ok(engine) => Ok(engine.expect("there is a tree")),
            Err(Refused) => Err(cx.finish().iter().map(ToString::to_string).collect()),
        }
    }

    fn action(name: &str, action: &str) -> String {
        format!(
            "{{ action: {{ name: a, typed_config: {{ '@type': type.googleapis.com/envoy.config.rbac.v3.Action, name: {name}, action: {action} }} }} }}"
        )
    }

    fn by(input: &str, value: &str, on_match: &str) -> String {
        format!(
            "matcher_tree: {{ input: {{ name: i, typed_config: {{ '@type': {INPUTS}.{input} }} }}, exact_match_map: {{ map: {{ '{value}': {on_match} }} }} }}"
        )
    }

    fn decide(yaml: &str) -> Decision {
        let address = |ip: [u8; 4], port| Address::Ip((ip, port).into());
        let info = ConnectionInfo::new(1, address([10, 1, 2, 3], 5), address([127, 0, 0, 1], 80), Instant::now());
        lower(yaml).expect("is accepted").decide(&Rc::new(info))
    }

    fn decision(is_allowed: bool, policy: Option<&str>, is_logged: Option<bool>) -> Decision {
        Decision { is_allowed, policy: policy.map(Into::into), is_logged }
    }

    #[test]
    fn a_connection_that_finds_no_action_is_denied() {
        assert_eq!(decide("{}"), decision(false, None, None));
        assert_eq!(decide(&by("SourceIPInput", "10.1.2.4", &action("p", "ALLOW"))), decision(false, None, None));
        assert_eq!(decide(&by("SourceIPInput", "10.1.2.3", &action("p", "ALLOW"))), decision(true, Some("p"), None));
        assert_eq!(decide(&by("SourceIPInput", "10.1.2.3", &action("p", "DENY"))), decision(false, Some("p"), None));
    }

    #[test]
    fn what_is_logged_is_told_where_anything_is() {
        let yaml = |port: u16| {
            format!(
                "{}\non_no_match: {}",
                by("DestinationPortInput", &port.to_string(), &action("p", "LOG")),
                action("rest", "ALLOW")
            )
        };
        assert_eq!(decide(&yaml(80)), decision(true, Some("p"), Some(true)));
        assert_eq!(decide(&yaml(81)), decision(true, Some("rest"), Some(false)));
    }

    #[test]
    fn inputs_that_envoy_does_not_take_are_refused() {
        for input in ["SourceTypeInput", "TransportProtocolInput", "ApplicationProtocolInput"] {
            let refused = lower(&by(input, "x", &action("p", "ALLOW"))).map(|_| ()).expect_err("is refused");
            let expected = format!(
                "matcher.matcher_tree.input.typed_config: {}.{input} is no input for the rules of a connection",
                INPUTS.trim_start_matches("type.googleapis.com/")
            );
            assert_eq!(refused, [expected]);
        }
    }

    #[test]
    fn expressions_and_requests_are_no_inputs() {
        for input in [
            "xds.type.matcher.v3.HttpAttributesCelMatchInput",
            "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput",
        ] {
            let predicate = format!(
                "{{ single_predicate: {{ input: {{ name: i, typed_config: {{ '@type': type.googleapis.com/{input} }} }}, value_match: {{ exact: a }} }} }}"
            );
            let yaml = format!(
                "matcher_list: {{ matchers: [{{ predicate: {predicate}, on_match: {} }}] }}",
                action("p", "ALLOW")
            );
            let refused = lower(&yaml).map(|_| ()).expect_err("is refused");
            assert!(refused[0].ends_with(&format!("{input} is no input for the rules of a connection")), "{refused:?}");
        }
    }

    #[test]
    fn actions_of_others_are_refused() {
        let route = "on_no_match: { action: { name: a, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route, cluster: c } } }";
        let refused = lower(route).map(|_| ()).expect_err("is refused");
        assert!(refused[0].contains("matcher.on_no_match.action.typed_config: envoy.extensions.filters.udp.udp_proxy.v3.Route is no action of rbac"), "{refused:?}");
    }
}
