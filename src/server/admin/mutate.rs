//! Endpoints that change something.

use http::StatusCode;

use super::endpoints::Outcome;
use super::{Admin, Params, Reply};
use crate::control::{DrainRequest, Request};
use crate::runtime::ModifyError;

/// What is told to those who change nothing.
const RUNTIME_USAGE: &str = "parameters are needed, in the query or as a form: key=value&key=value; \
    an empty value takes back an override";

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

/// `/runtime_modify`
pub(super) fn runtime(admin: &Admin, params: &Params) -> Reply {
    if params.0.is_empty() {
        return Reply::bad_request(RUNTIME_USAGE);
    }
    match admin.shared.runtime.modify(params.iter()) {
        Ok(()) => Reply::text("OK\n"),
        Err(error @ ModifyError::NoAdminLayer) => {
            Reply::text(error.to_string()).status(StatusCode::SERVICE_UNAVAILABLE)
        }
        Err(error @ ModifyError::Value { .. }) => Reply::bad_request(error.to_string()),
    }
}
