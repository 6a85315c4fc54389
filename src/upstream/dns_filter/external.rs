//! Answers from name servers.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::DnsFamily;
use nuncio_filter_api::UdpCx;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::config::{Config, ExternalConfig};
use super::message::{Answer, Kind, Question};
use super::send;
use crate::dns::Resolver;
use crate::worker::WorkerClusters;

/// Asks name servers.
pub(super) struct External(Rc<Asks>);

struct Asks {
    config: Arc<Config>,
    cx: UdpCx,
    resolver: Arc<Resolver>,
    /// Questions that wait.
    waiting: Cell<usize>,
    /// False once the filter is gone: then nobody is answered.
    runs: Cell<bool>,
}

/// A question that waits.
struct Waiting(Rc<Asks>);

impl External {
    /// To be made where there is a configuration of it.
    pub(super) fn new(config: Arc<Config>, cx: UdpCx, clusters: &WorkerClusters) -> Self {
        let own = config.external.as_ref().and_then(|external| external.resolver.as_ref());
        let resolver = clusters.env().clusters.resolvers().resolver(own);
        Self(Rc::new(Asks { config, cx, resolver, waiting: Cell::new(0), runs: Cell::new(true) }))
    }

    /// Asks, and answers `peer` when there is an answer. Envoy: where more questions wait than may, which one more makes
    /// them, there is no address for the next.
    pub(super) fn ask(&self, question: Question, peer: SocketAddr, local: SocketAddr) {
        let asks = self.0.clone();
        let Some(config) = &asks.config.external else { return };
        if asks.waiting.get() > config.most {
            return asks.answer(&question, &[], peer, local);
        }
        asks.waiting.set(asks.waiting.get() + 1);
        let waiting = Waiting(asks);
        spawn_local(async move {
            let asks = &waiting.0;
            let found = asks.resolve(&question).await;
            if asks.runs.get() {
                asks.answer(&question, &found, peer, local);
            }
        });
    }
}

impl Drop for External {
    fn drop(&mut self) {
        self.0.runs.set(false);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Asks {
    async fn resolve(&self, question: &Question) -> Vec<IpAddr> {
        let Some(ExternalConfig { timeout: limit, retries, .. }) = &self.config.external else { return Vec::new() };
        let family = match question.kind {
            Kind::A => DnsFamily::V4Only,
            Kind::Aaaa => DnsFamily::V6Only,
            Kind::Srv | Kind::Other(_) => return Vec::new(),
        };
        for _ in 0..=*retries {
            // Only silence is asked again.
            if let Ok(resolved) = timeout(*limit, self.resolver.resolve(&question.name, family)).await {
                return resolved.map(|answer| answer.addresses).unwrap_or_default();
            }
        }
        Vec::new()
    }

    fn answer(&self, question: &Question, found: &[IpAddr], peer: SocketAddr, local: SocketAddr) {
        let stats = &self.config.stats;
        stats.externally_resolved_queries().inc();
        match question.kind {
            Kind::A => stats.external_a_record_queries().inc(),
            Kind::Aaaa => stats.external_aaaa_record_queries().inc(),
            Kind::Srv | Kind::Other(_) => stats.external_unsupported_queries().inc(),
        }
        if found.is_empty() {
            stats.unanswered_queries().inc();
        }
        let ttl = self.config.table.ttl(&self.config.table.folded(&question.name));
        let mut answer = Answer::default();
        for ip in found {
            match question.kind {
                Kind::A => stats.external_a_record_answers().inc(),
                Kind::Aaaa => stats.external_aaaa_record_answers().inc(),
                Kind::Srv | Kind::Other(_) => stats.external_unsupported_answers().inc(),
            }
            answer.add_address(question.kind, ttl, *ip);
        }
        let bytes = answer.write(question, true, &self.cx.worker.rng);
        send(&self.config, &self.cx, peer, local, Some(question), &bytes);
    }
}
