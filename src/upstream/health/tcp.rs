use nuncio_config::cluster::TcpHealthCheck;
use nuncio_config::route::ProxyHeader;
use nuncio_net::{Connected, ProxiedEnds, proxy_v1, proxy_v2};
use nuncio_telemetry::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::probe::{NO_ANSWER, Target};
use super::state::CheckResult;

/// An answer longer than this without what is looked for has it no more.
const MAX_ANSWER: usize = 1 << 20;

/// A connection, over which bytes may go.
#[derive(Default)]
pub(super) struct TcpProbe {
    kept: Option<Connected>,
}

// === impl TcpProbe ===

impl TcpProbe {
    pub(super) async fn run(&mut self, target: &Target, config: &TcpHealthCheck) -> CheckResult {
        let is_new = self.kept.is_none();
        let mut connected = match self.kept.take() {
            Some(connected) => connected,
            None => match target.dial().await {
                Some(connected) => connected,
                None => return NO_ANSWER,
            },
        };
        let header = config.proxy_header.map(|version| header(version, connected.local.as_ref(), &target.address()));
        let io = &mut connected.io;
        // Envoy: where nothing is expected the connection is all, and is closed without a word.
        if config.receive.is_empty() && is_new {
            return CheckResult::Passed { degraded: false };
        }
        if !config.send.is_empty() {
            let sent = [header.unwrap_or_default(), config.send.to_vec()].concat();
            if io.write_all(&sent).await.is_err() {
                return NO_ANSWER;
            }
        }
        let mut answer = Vec::new();
        while !config.receive.are_in(&answer) {
            match io.read_buf(&mut answer).await {
                Ok(0) | Err(_) => return NO_ANSWER,
                Ok(_) if answer.len() > MAX_ANSWER => return NO_ANSWER,
                Ok(_) => {}
            }
        }
        if target.config.reuse_connection {
            self.kept = Some(connected);
        }
        CheckResult::Passed { degraded: false }
    }

    pub(super) fn close(&mut self) {
        self.kept = None;
    }
}

/// Envoy: the text speaks of the check's own connection, and the binary says that it is its own.
fn header(version: ProxyHeader, local: Option<&Address>, remote: &Address) -> Vec<u8> {
    match version {
        ProxyHeader::V1 => {
            let ends = match (local, remote) {
                (Some(Address::Ip(source)), Address::Ip(destination)) => {
                    Some(ProxiedEnds { source: *source, destination: *destination })
                }
                _ => None,
            };
            proxy_v1(ends)
        }
        // Without values there is room.
        ProxyHeader::V2 => proxy_v2(None, &[]),
    }
}
