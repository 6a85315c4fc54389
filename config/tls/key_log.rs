//! `TlsKeyLog`: secrets of connections, for those who look into their packets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::access_log::{Destination, LogFile};

use super::info::hex;
use crate::matcher::Cidr;

/// A file for the secrets of connections between certain addresses.
#[derive(Clone, Debug)]
pub(super) struct KeyLog {
    pub(super) file: Arc<KeyLogFile>,
    /// Of ours; none: all.
    local: Vec<Cidr>,
    /// Of the peers; none: all.
    remote: Vec<Cidr>,
}

/// Writes in the form of NSS.
pub(super) struct KeyLogFile(Arc<LogFile>);

impl KeyLog {
    pub(super) fn lower(proto: pb::TlsKeyLog, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::TlsKeyLog { path, local_address_range, remote_address_range } = proto;
        let local = cx.each("local_address_range", local_address_range, Cidr::lower);
        let remote = cx.each("remote_address_range", remote_address_range, Cidr::lower);
        let file = cx.env.files.open(&Destination::from_path(path));
        let file = file.map_err(|e| cx.at("path", |cx| cx.invalid(e.to_string())))?;
        Ok(Self { file: Arc::new(KeyLogFile(file)), local: local?, remote: remote? })
    }

    /// Whether connections between these are logged; such as have no address are where no range is asked for.
    pub(super) fn covers(&self, local: Option<IpAddr>, remote: Option<IpAddr>) -> bool {
        let within = |ranges: &[Cidr], ip: Option<IpAddr>| {
            ranges.is_empty() || ip.is_some_and(|ip| ranges.iter().any(|range| range.contains(ip)))
        };
        within(&self.local, local) && within(&self.remote, remote)
    }
}

impl rustls::KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        self.0.write(format!("{label} {} {}\n", hex(client_random), hex(secret)).as_bytes());
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a log of keys")
    }
}
