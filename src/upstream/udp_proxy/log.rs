//! What is logged of sessions, and of all of them together.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::UdpSent;
use nuncio_telemetry::access_log::AccessLog;
use nuncio_telemetry::format::{AccessLogType, FormatCx};
use nuncio_telemetry::{Address, ConnectionInfo, Metadata, StreamInfo};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::sessions::{Key, Sessions, Target};
use crate::host::Host;

/// What passed in a session.
#[derive(Default)]
pub(super) struct SessionCounts {
    received: Cell<u64>,
    received_bytes: Cell<u64>,
    sent: Cell<UdpSent>,
}

/// The record of a session that is logged.
pub(super) struct SessionLog {
    pub(super) start: Instant,
    pub(super) info: StreamInfo,
}

// === impl SessionCounts ===

impl SessionCounts {
    /// Datagrams of the client.
    pub(super) fn received(&self, datagrams: u64, bytes: u64) {
        self.received.set(self.received.get() + datagrams);
        self.received_bytes.set(self.received_bytes.get() + bytes);
    }

    /// Datagrams to the client.
    pub(super) fn sent(&self, more: UdpSent) {
        let UdpSent { datagrams, bytes, errors } = self.sent.get();
        self.sent.set(UdpSent {
            datagrams: datagrams + more.datagrams,
            bytes: bytes + more.bytes,
            errors: errors + more.errors,
        });
    }
}

// === impl SessionLog ===

impl SessionLog {
    pub(super) fn new(id: u64, sessions: &Sessions, key: Key, now: Instant) -> Self {
        let mut connection = ConnectionInfo::new(id, key.peer.into(), key.local.into(), now);
        connection.listener = sessions.cx.listener.clone();
        let info = StreamInfo::new(Rc::new(connection), now, sessions.cx.worker.clock.wall(now));
        info.upstream.borrow_mut().connection_id = Some(0);
        Self { start: now, info }
    }

    /// The session is with this host.
    pub(super) fn note_host(&self, host: &Host) {
        let address = host.address();
        let mut upstream = self.info.upstream.borrow_mut();
        upstream.host = Some(address.clone());
        upstream.remote = Some(address);
        upstream.host_metadata = host.metadata();
    }

    /// Writes a record; `target` is known once the filters of the session are.
    pub(super) fn write(
        &self,
        sessions: &Sessions,
        target: Option<&Target>,
        counts: &SessionCounts,
        local: Option<Address>,
        why: AccessLogType,
    ) {
        let UdpSent { datagrams, bytes, errors } = counts.sent.get();
        let numbers = [
            ("bytes_sent", bytes),
            ("bytes_received", counts.received_bytes.get()),
            ("errors_sent", errors),
            ("datagrams_sent", datagrams),
            ("datagrams_received", counts.received.get()),
        ];
        let mut told = object(&numbers);
        if let Some(target) = target {
            let name = &target.share.cluster.config.name.name;
            told.insert("cluster_name".to_owned(), Value::String(name.to_string()));
        }
        self.info.upstream.borrow_mut().local = local;
        let logs = &sessions.config.logs;
        write(&self.info, sessions, logs, "udp.proxy.session", told, [counts.received_bytes.get(), bytes], why);
    }
}

/// Writes the record of all sessions of a worker, which end now.
pub(super) fn log_proxy(sessions: &Sessions, started: Instant) {
    if sessions.config.proxy_logs.is_empty() {
        return;
    }
    let stats = &sessions.config.stats;
    let sent = stats.downstream_sess_tx_bytes().value();
    let received = stats.downstream_sess_rx_bytes().value();
    let told = object(&[
        ("bytes_sent", sent),
        ("bytes_received", received),
        ("errors_sent", stats.downstream_sess_tx_errors().value()),
        ("errors_received", stats.downstream_sess_rx_errors().value()),
        ("datagrams_sent", stats.downstream_sess_tx_datagrams().value()),
        ("datagrams_received", stats.downstream_sess_rx_datagrams().value()),
        ("no_route", stats.downstream_sess_no_route().value()),
        ("session_total", stats.downstream_sess_total().value()),
        ("idle_timeout", stats.idle_timeout().value()),
    ]);
    let nobody = Address::Pipe("".into());
    let connection = ConnectionInfo::new(0, nobody.clone(), nobody, started);
    let info = StreamInfo::new(Rc::new(connection), started, sessions.cx.worker.clock.wall(started));
    let logs = &sessions.config.proxy_logs;
    // Envoy: those that no session took are counted here.
    write(&info, sessions, logs, "udp.proxy.proxy", told, [sessions.received.get(), sent], AccessLogType::NotSet);
}

fn object(numbers: &[(&str, u64)]) -> Map<String, Value> {
    numbers.iter().map(|(name, number)| ((*name).to_owned(), Value::from(*number))).collect()
}

fn write(
    info: &StreamInfo,
    sessions: &Sessions,
    logs: &[AccessLog],
    namespace: &str,
    told: Map<String, Value>,
    [received, sent]: [u64; 2],
    why: AccessLogType,
) {
    let clock = &sessions.cx.worker.clock;
    let now = clock.now();
    info.bytes_received.set(received);
    info.bytes_sent.set(sent);
    *info.metadata.borrow_mut() = Some(Box::new(Metadata::from([(Arc::from(namespace), told)])));
    let mut cx = FormatCx::new(info, now, clock.wall(now));
    cx.log_type = why;
    logs.iter().for_each(|log| log.log(&cx));
}
