//! `envoy.filters.udp.dns_filter`: answers questions for the addresses of names, out of a table, with the hosts of
//! clusters, or with what name servers say.
//!
//! In: datagrams, each a question. Out: an answer to each; no other filter gets them. Invariants: whatever is sent, an
//! answer is no longer than 512 bytes; no more questions wait for name servers than may. Start reading at
//! [`DnsServer::receive`](UdpFilter::receive).

mod config;
mod external;
mod log;
mod lookup;
mod message;
mod table;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{Datagrams, LowerCx, Refused, UdpCx, UdpFilter, UdpFilterRow, UdpFlow, UdpListenerFilter};
use nuncio_proto::envoy::extensions::filters::udp::dns_filter::v3 as proto;
use prost::Message;

use crate::worker::WorkerClusters;
use config::Config;
use external::External;
use lookup::Lookup;
use message::{Answer, Question, QuestionError, read};

/// The filter's row in the table of UDP listener filters.
pub const ROW: UdpFilterRow = UdpFilterRow {
    name: "envoy.filters.udp.dns_filter",
    config: "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
    lower,
};

/// The filter as configured; shared by all workers.
struct DnsFilter(Arc<Config>);

/// The filter as one worker runs it on one address.
struct DnsServer {
    config: Arc<Config>,
    cx: UdpCx,
    clusters: Rc<WorkerClusters>,
    /// Where name servers may be asked.
    external: Option<External>,
}

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn UdpListenerFilter>, Refused> {
    let message = proto::DnsFilterConfig::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    Ok(Arc::new(DnsFilter(Arc::new(Config::lower(message, cx)?))))
}

impl UdpListenerFilter for DnsFilter {
    fn start(self: Arc<Self>, cx: UdpCx) -> Box<dyn UdpFilter> {
        let clusters = WorkerClusters::of(&cx.worker);
        let external = self.0.external.as_ref().map(|_| External::new(self.0.clone(), cx.clone(), &clusters));
        Box::new(DnsServer { config: self.0.clone(), cx, clusters, external })
    }
}

impl UdpFilter for DnsServer {
    fn receive(&mut self, datagrams: &Datagrams<'_>) -> UdpFlow {
        for payload in datagrams.payloads {
            if let Some((question, answer)) = self.answer(payload, datagrams) {
                send(&self.config, &self.cx, datagrams.peer, datagrams.local, question.as_ref(), &answer);
            }
        }
        UdpFlow::Done
    }

    fn receive_failed(&mut self) {
        self.config.stats.downstream_rx_errors().inc();
    }
}

impl DnsServer {
    /// The answer, and the question where it was one; `None` where it is to come from a name server.
    fn answer(&self, payload: &[u8], datagrams: &Datagrams<'_>) -> Option<(Option<Question>, Vec<u8>)> {
        let stats = &self.config.stats;
        stats.downstream_rx_bytes().record(payload.len() as u64);
        stats.downstream_rx_queries().inc();
        let recursion = self.external.is_some();
        let question = match read(payload) {
            Ok(question) => question,
            Err((head, error)) => {
                match error {
                    QuestionError::TooShort => stats.query_buffer_underflow().inc(),
                    QuestionError::Malformed => stats.query_parsing_failure().inc(),
                    QuestionError::IsAnswer => stats.queries_with_ans_or_authority_rrs().inc(),
                    QuestionError::NotOne => {}
                }
                stats.downstream_rx_invalid_queries().inc();
                return Some((None, Answer::malformed(head, recursion)));
            }
        };
        if question.has_additional {
            stats.queries_with_additional_rrs().inc();
        }
        self.config.count_question(question.kind);
        let lookup = Lookup { config: &self.config, clusters: &self.clusters };
        let mut answer = Answer::default();
        let is_known = lookup.is_known(&question);
        let is_found = (is_known || !recursion) && lookup.answer(&question, &mut answer);
        if let Some(external) = self.external.as_ref().filter(|_| !is_found) {
            external.ask(question, datagrams.peer, datagrams.local);
            return None;
        }
        if answer.is_empty() {
            stats.unanswered_queries().inc();
        }
        let answer = answer.write(&question, recursion, &self.cx.worker.rng);
        Some((Some(question), answer))
    }
}

/// Sends an answer, and logs it.
fn send(config: &Config, cx: &UdpCx, peer: SocketAddr, local: SocketAddr, question: Option<&Question>, answer: &[u8]) {
    config.stats.downstream_tx_responses().inc();
    config.stats.downstream_tx_bytes().record(answer.len() as u64);
    // One that the kernel does not take is lost, and asked for again.
    cx.replies.send(peer, local, &[answer]);
    log::write(&config.logs, cx, peer, local, question, answer);
}
