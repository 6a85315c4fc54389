//! `envoy.filters.network.rbac`: closes connections that policies do not allow, when they bring their first bytes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_config::protocol::{duration, non_zero};
use nuncio_config::rbac::{Decision, Engine};
use nuncio_filter_api::{
    Connection, Flow, Io, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused, Transport, forward_transport,
    forward_write,
};
use nuncio_proto::envoy::extensions::filters::network::rbac::v3 as proto;
use nuncio_telemetry::ConnectionInfo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.rbac",
    config: "envoy.extensions.filters.network.rbac.v3.RBAC",
    lower,
};

nuncio_telemetry::stats! {
    /// `<stat_prefix>rbac`
    struct RbacStats {
        allowed: Counter,
        denied: Counter,
    }

    /// `<stat_prefix>rbac.<shadow_rules_stat_prefix>`
    struct ShadowStats {
        shadow_allowed: Counter,
        shadow_denied: Counter,
    }
}

/// Where the outcome of shadow rules is among the metadata of a connection.
const METADATA: &str = "envoy.filters.network.rbac";

/// Where all filters leave what concerns logs.
const SHARED_METADATA: &str = "envoy.common";

struct Filter {
    stats: RbacStats,
    shadow_stats: ShadowStats,
    rules: Option<Engine>,
    shadow: Option<Engine>,
    /// Put before the keys of the metadata.
    shadow_prefix: String,
    enforcement: Enforcement,
    delay_deny: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enforcement {
    OnFirstByte,
    Continuous,
}

/// A connection whose bytes are looked for.
struct Guarded {
    io: Io,
    info: Rc<ConnectionInfo>,
    filter: Arc<Filter>,
    state: State,
}

enum State {
    /// Nothing has come yet.
    Waiting,
    Passed,
    /// It is closed when this is over.
    Denied(Option<Pin<Box<Sleep>>>),
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let proto::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let rules = Engine::lower_network(("rules", rules), ("matcher", matcher), cx);
    let shadow = Engine::lower_network(("shadow_rules", shadow_rules), ("shadow_matcher", shadow_matcher), cx);
    let delay_deny = cx.opt("delay_deny", delay_deny, duration)?.and_then(non_zero);
    // Envoy: the prefix may end with a dot of its own.
    let dot = if stat_prefix.is_empty() || stat_prefix.ends_with('.') { "" } else { "." };
    let scope = cx.env.stats.scope(&format!("{stat_prefix}{dot}rbac"));
    let shadow_scope = cx.env.stats.scope(&format!("{stat_prefix}{dot}rbac.{shadow_rules_stat_prefix}"));
    Ok(Arc::new(Filter {
        stats: RbacStats::new(&scope),
        shadow_stats: ShadowStats::new(&shadow_scope),
        rules: rules?,
        shadow: shadow?,
        shadow_prefix: shadow_rules_stat_prefix,
        enforcement: match proto::rbac::EnforcementType::try_from(enforcement_type) {
            Ok(proto::rbac::EnforcementType::Continuous) => Enforcement::Continuous,
            Ok(proto::rbac::EnforcementType::OneTimeOnFirstByte) | Err(_) => Enforcement::OnFirstByte,
        },
        delay_deny,
    }))
}

impl NetworkFilter for Filter {
    fn run(self: Arc<Self>, connection: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        let Connection { io, info } = connection;
        let io = Io::new(Guarded { io, info: info.clone(), filter: self, state: State::Waiting });
        Box::pin(std::future::ready(Flow::Next(Connection { io, info })))
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

// === impl Filter ===

impl Filter {
    /// Whether a connection may go on; counts it.
    fn allows(&self, info: &Rc<ConnectionInfo>) -> bool {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.decide(info);
            match decision.is_allowed {
                true => self.shadow_stats.shadow_allowed().inc(),
                false => self.shadow_stats.shadow_denied().inc(),
            }
            self.tell(info, &decision);
        }
        let Some(rules) = &self.rules else { return true };
        let Decision { is_allowed, policy, is_logged } = rules.decide(info);
        if let Some(is_logged) = is_logged {
            let mut metadata = info.metadata.borrow_mut();
            let fields = metadata.get_or_insert_default().entry(SHARED_METADATA.into()).or_default();
            fields.insert("access_log_hint".to_owned(), is_logged.into());
        }
        if is_allowed {
            self.stats.allowed().inc();
            return true;
        }
        self.stats.denied().inc();
        let policy = policy.as_deref().unwrap_or("none");
        *info.termination_details.borrow_mut() = Some(format!("rbac_access_denied_matched_policy[{policy}]").into());
        info.local_close_reason.set(Some("rbac_deny_close"));
        false
    }

    /// Leaves what the shadow rules have found for logs.
    fn tell(&self, info: &ConnectionInfo, decision: &Decision) {
        let mut metadata = info.metadata.borrow_mut();
        let fields = metadata.get_or_insert_default().entry(METADATA.into()).or_default();
        let key = |name: &str| format!("{}{name}", self.shadow_prefix);
        if let Some(policy) = &decision.policy {
            fields.insert(key("shadow_effective_policy_id"), policy.to_string().into());
        }
        let outcome = if decision.is_allowed { "allowed" } else { "denied" };
        fields.insert(key("shadow_engine_result"), outcome.into());
    }
}

// === impl Guarded ===

impl Guarded {
    /// Looks at the policies, if that is still to be done.
    fn check(&mut self) {
        let is_due = match self.state {
            State::Waiting => true,
            State::Passed => self.filter.enforcement == Enforcement::Continuous,
            State::Denied(_) => false,
        };
        if is_due {
            self.state = match self.filter.allows(&self.info) {
                true => State::Passed,
                false => State::Denied(self.filter.delay_deny.map(|delay| Box::pin(sleep(delay)))),
            };
        }
    }
}

impl Transport for Guarded {
    forward_transport!(io: reset_on_drop, poll_closed, moved, ended, deny);

    fn socket(&self) -> Option<&TcpStream> {
        let is_over = matches!(self.state, State::Passed) && self.filter.enforcement == Enforcement::OnFirstByte;
        if is_over { self.io.socket() } else { None }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.state, State::Denied(_)) {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            self.check();
            if matches!(self.state, State::Passed) {
                return Poll::Ready(Ok(()));
            }
            self.info.withheld.set((buf.filled().len() - before) as u64);
            buf.set_filled(before);
        }
        if let State::Denied(Some(delay)) = &mut self.state {
            ready!(delay.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

forward_write!(Guarded, io);
