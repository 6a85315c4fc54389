//! What the system says of names: /etc/resolv.conf and /etc/hosts, read again when they change.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hickory_proto::rr::Name;

use super::Family;

/// The standard port of DNS.
const DNS_PORT: u16 = 53;

/// Where the system's files are.
#[derive(Clone, Debug)]
pub(crate) struct SystemFiles {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hosts: PathBuf,
}

/// Tells whether files are still what they were when they were read. Looking at it costs two system calls, and so less
/// than the question that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature([Option<(u64, u64, i64, i64)>; 2]);

/// What /etc/resolv.conf says.
#[derive(Clone, Debug)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<Name>,
    pub(super) ndots: usize,
}

/// Of which families an interface has an address that others can reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interfaces {
    v4: bool,
    v6: bool,
}

// === impl SystemFiles ===

impl Default for SystemFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

impl SystemFiles {
    pub(super) fn signature(&self) -> Signature {
        Signature([&self.resolv_conf, &self.hosts].map(|path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
        }))
    }

    pub(super) fn resolv_conf(&self) -> ResolvConf {
        let text = read(&self.resolv_conf);
        let (parsed, errors) = resolv_conf::Config::parse_with_errors(&text);
        for error in errors {
            tracing::warn!(file = %self.resolv_conf.display(), %error, "a line is not understood");
        }
        let mut domains: Vec<String> = parsed.get_last_search_or_domain().cloned().collect();
        if domains.is_empty() {
            domains.extend(parsed.get_system_domain());
        }
        let absolute = |domain: &String| {
            let mut name = Name::from_str_relaxed(domain).ok()?;
            name.set_fqdn(true);
            Some(name)
        };
        ResolvConf {
            servers: parsed.nameservers.iter().map(|ip| SocketAddr::new(ip.into(), DNS_PORT)).collect(),
            search: domains.iter().filter(|domain| *domain != "--").filter_map(absolute).collect(),
            ndots: parsed.ndots as usize,
        }
    }

    /// Addresses by name, in lower case.
    pub(super) fn hosts(&self) -> HashMap<String, Vec<IpAddr>> {
        let text = read(&self.hosts);
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for name in words {
                hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default().push(ip);
            }
        }
        hosts
    }
}

/// A file that is not there says nothing.
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

// === impl Interfaces ===

impl Interfaces {
    pub(super) fn now() -> Self {
        match if_addrs::get_if_addrs() {
            Ok(all) => {
                let any = |family: Family| all.iter().any(|i| !i.is_loopback() && family.has(&i.ip()));
                Self { v4: any(Family::V4), v6: any(Family::V6) }
            }
            // Nothing is known: nothing is left out.
            Err(_) => Self { v4: true, v6: true },
        }
    }

    pub(super) fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}
