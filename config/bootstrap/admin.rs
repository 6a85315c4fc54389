//! `bootstrap.v3.Admin`: where the admin server listens.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::accesslog::v3::AccessLog;
use nuncio_proto::envoy::config::bootstrap::v3 as proto;

use crate::access_log;
use crate::address::{ListenAddress, Sends};
use crate::listener::ListenSocket;
use crate::refuse_set;
use crate::socket::SocketOption;

/// The file that keeps nothing.
const NOWHERE: &str = "/dev/null";

/// The admin server.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Its one socket.
    pub socket: ListenSocket,
}

impl AdminConfig {
    /// Lowers the section; `None` without an address: then there is no admin server.
    pub(super) fn lower(
        admin: proto::Admin,
        without_effect: &mut Vec<String>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        // ignore_global_conn_limit: there is no such limit yet.
        let proto::Admin {
            access_log,
            access_log_path,
            profile_path,
            address,
            socket_options,
            ignore_global_conn_limit: _,
            allow_paths,
        } = admin;
        if !profile_path.is_empty() {
            without_effect.push(format!("{}.profile_path", cx.path()));
        }
        // The older way to ask for a log that says nothing.
        let access_log_path = access_log_path.as_str() != NOWHERE && !access_log_path.is_empty();
        let refused = refuse_set!(cx; access_log_path, allow_paths);
        let refused = refused.and(cx.each("access_log", access_log, check_log).map(drop));
        let options = cx.each("socket_options", socket_options, SocketOption::lower);
        let address = cx.opt("address", address, |proto, cx| {
            let address = ListenAddress::lower(proto, cx)?;
            match address.sends {
                Sends::Streams => Ok(address),
                Sends::Datagrams => Err(cx.invalid("the admin server takes connections, not datagrams")),
            }
        });
        refused?;
        let options = options?.into_iter().filter(|option| option.stream).collect();
        let socket =
            address?.map(|address| ListenSocket { address, options, keepalive: None, backlog: None, mptcp: false });
        Ok(socket.map(|socket| Self { socket }))
    }
}

/// Accepts a log of which nothing is kept, as most bootstraps have it.
fn check_log(log: AccessLog, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let is_kept = access_log::file_path(&log).is_none_or(|path| path != NOWHERE);
    access_log::lower(log, cx)?;
    match is_kept {
        true => Err(cx.not_implemented(format_args!("a log of the admin interface other than to {NOWHERE}"))),
        false => Ok(()),
    }
}
