//! Endpoints that change something.

use super::endpoints::Outcome;
use super::{Admin, Params, Reply};
use crate::control::{DrainRequest, Request};

/// `/drain_listeners`
pub(super) fn drain_listeners(params: &Params) -> Outcome {
    Outcome::Ask(Request::Drain(DrainRequest {
        graceful: params.has("graceful"),
        skip_exit: params.has("skip_exit"),
        inbound_only: params.has("inboundonly"),
    }))
}

/// `/reset_counters`
pub(super) fn reset_counters(admin: &Admin) -> Reply {
    admin.shared.store.reset_counters();
    Reply::text("OK\n")
}
