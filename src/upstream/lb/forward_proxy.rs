//! Requests go to the host that they name, whose addresses a DNS cache knows.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_config::cluster::{Endpoint, SubClusters};
use nuncio_filter_api::RequestHead;
use nuncio_filter_api::filter_state::{DYNAMIC_HOST, DYNAMIC_PORT};
use nuncio_telemetry::{FilterValue, StreamInfo};

use super::{ClusterBalancer, PickContext};
use crate::cluster::Cluster;
use crate::dns_cache::{DnsCache, Lookup, normalize};
use crate::dynamic::{DynamicHosts, KnownHosts};
use crate::failure::Failure;
use crate::host::Host;
use crate::sub_clusters::config_of;
use crate::worker::{ClusterShare, WorkerHost};

/// What all workers share of such a cluster.
pub(crate) struct ForwardProxyShare {
    pub(crate) cache: Arc<DnsCache>,
    /// By `host:port`.
    pub(crate) hosts: DynamicHosts<String>,
}

/// The balancer of such a cluster, for one worker.
#[derive(Default)]
pub(super) struct ForwardProxyBalancer {
    known: KnownHosts<String>,
}
/// The port of a host that names none, over plain bytes.
pub(crate) const DEFAULT_PORT: u16 = 80;

impl ClusterBalancer for ForwardProxyBalancer {
    fn pick(&self, cx: &PickContext<'_>, share: &Rc<ClusterShare>) -> Option<Rc<WorkerHost>> {
        let key = key_of(cx)?;
        if let Some(clusters) = share.cluster.sub_clusters.get() {
            // A load is that of the priorities of another cluster.
            return share.env.cluster(clusters.find(&key)?)?.pick(&PickContext { load: None, ..*cx });
        }
        let proxy = share.cluster.forward_proxy.get()?;
        let addresses = proxy.cache.addresses(&key)?;
        proxy.cache.note_use(&key);
        Some(self.known.get(&*key, &proxy.hosts, share, |key| host(&share.cluster, key, &addresses)))
    }

    fn prepares(&self) -> bool {
        true
    }

    fn is_by_hash(&self, share: &ClusterShare) -> bool {
        config_of(&share.cluster).is_some_and(SubClusters::is_by_hash)
    }

    fn prepare(
        &self,
        cx: &PickContext<'_>,
        share: &Rc<ClusterShare>,
    ) -> Option<LocalBoxFuture<'static, Result<(), Failure>>> {
        // Envoy: of connections without HTTP, whoever asks counts.
        let note = || {
            if cx.head.is_some() {
                share.cluster.stats.upstream_cx_none_healthy().inc();
            }
        };
        let unresolved = |details: String| Some(failed(Failure::Unresolved(details.into())));
        let Some(key) = key_of(cx) else {
            note();
            return unresolved("empty_host_header".to_owned());
        };
        let proxy = share.cluster.forward_proxy.get()?;
        if !proxy.cache.may_wait() {
            note();
            return unresolved("dns_cache_pending_requests_overflow".to_owned());
        }
        match proxy.cache.look_up(&key) {
            Lookup::Known(found) if found.addresses.is_empty() => {
                note();
                unresolved(resolution_failure(&found.details))
            }
            Lookup::Known(_) => None,
            Lookup::Overflow => {
                note();
                unresolved("dns_cache_overflow".to_owned())
            }
            Lookup::Pending(name) => {
                let pending = proxy.cache.wait();
                Some(Box::pin(async move {
                    let found = name.found().await;
                    drop(pending);
                    match found.addresses.is_empty() {
                        true => Err(Failure::Unresolved(resolution_failure(&found.details).into())),
                        false => Ok(()),
                    }
                }))
            }
        }
    }
}

fn failed(failure: Failure) -> LocalBoxFuture<'static, Result<(), Failure>> {
    Box::pin(std::future::ready(Err(failure)))
}

/// The details of a reply to a request whose host was not found.
pub(crate) fn resolution_failure(details: &str) -> String {
    format!("dns_resolution_failure{{{}}}", details.replace(' ', "_"))
}

fn key_of<'a>(cx: &PickContext<'a>) -> Option<Cow<'a, str>> {
    match (cx.head, cx.info) {
        (Some(head), info) => key(head, info),
        (None, info) => key_of_connection(info?),
    }
}

/// What a connection without HTTP is to go to: the server that its client names in TLS, unless filters know better.
fn key_of_connection<'a>(info: &StreamInfo) -> Option<Cow<'a, str>> {
    let (host, port) = left_by_filters(info);
    let host = host.or_else(|| info.connection.server_name.borrow().as_deref().map(str::to_owned))?;
    (!host.is_empty()).then(|| Cow::Owned(normalize(&host, port.unwrap_or(DEFAULT_PORT)).into_owned()))
}

/// What a request is to go to, as `host:port`; `None` if it does not say.
fn key<'a>(head: &'a RequestHead, info: Option<&StreamInfo>) -> Option<Cow<'a, str>> {
    let (host, port) = info.map_or((None, None), left_by_filters);
    let port = port.unwrap_or(DEFAULT_PORT);
    match host {
        Some(host) => Some(Cow::Owned(normalize(&host, port).into_owned())),
        None if head.authority.is_empty() => None,
        None => Some(normalize(&head.authority, port)),
    }
}

/// The host and port that filters left.
pub(crate) fn left_by_filters(info: &StreamInfo) -> (Option<String>, Option<u16>) {
    let state = info.filter_state.borrow();
    let host = state.get(DYNAMIC_HOST).and_then(FilterValue::text).map(Cow::into_owned).filter(|host| !host.is_empty());
    let port = match state.get(DYNAMIC_PORT) {
        Some(FilterValue::Number(port)) => u16::try_from(*port).ok(),
        Some(FilterValue::Text(port)) => port.parse().ok(),
        _ => None,
    };
    (host, port.filter(|port| *port > 0))
}

/// The host `key` of `cluster`. There is at least one address.
fn host(cluster: &Cluster, key: &str, addresses: &[std::net::SocketAddr]) -> Host {
    let first = addresses.first().copied().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
    let endpoint = Endpoint::found(first.into(), key.into());
    let order = cluster.config.happy_eyeballs;
    Host::logical(&endpoint, addresses, &key.into(), order).unwrap_or_else(|| Host::new(&endpoint, first.into()))
}

// === impl ForwardProxyShare ===

impl ForwardProxyShare {
    pub(crate) fn new(cache: Arc<DnsCache>) -> Self {
        Self { cache, hosts: DynamicHosts::default() }
    }

    /// Makes the names that have addresses the hosts of the cluster, until it is dropped.
    pub(crate) async fn follow(&self, cluster: &Cluster) {
        let mut changes = self.cache.changes();
        loop {
            changes.mark_unchanged();
            let names: std::collections::HashMap<String, _> = self
                .cache
                .names()
                .iter()
                .filter_map(|name| Some((name.key.to_string(), self.cache.addresses(&name.key)?)))
                .collect();
            let mut has_changed =
                self.hosts.retain(|key, known| names.get(key).is_some_and(|addresses| known.host.is_at(addresses)));
            for (key, addresses) in &names {
                has_changed |= self.hosts.ensure(key, || host(cluster, key, addresses));
            }
            if has_changed {
                self.hosts.publish(cluster);
            }
            tokio::select! {
                // The sender is in the cache, so that waiting cannot fail.
                _ = changes.changed() => {}
                () = self.hosts.added.notified() => self.hosts.publish(cluster),
            }
        }
    }
}

#[cfg(test)]
mod tests;
