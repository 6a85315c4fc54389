use nuncio_config::cluster::TcpHealthCheck;
use nuncio_filter_api::Io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::probe::{NO_ANSWER, Target};
use super::state::CheckResult;

/// An answer longer than this without what is looked for has it no more.
const MAX_ANSWER: usize = 1 << 20;

/// A connection, over which bytes may go.
#[derive(Default)]
pub(super) struct TcpProbe {
    kept: Option<Io>,
}

// === impl TcpProbe ===

impl TcpProbe {
    pub(super) async fn run(&mut self, target: &Target, config: &TcpHealthCheck) -> CheckResult {
        let is_new = self.kept.is_none();
        let mut io = match self.kept.take() {
            Some(io) => io,
            None => match target.connect().await {
                Some(io) => io,
                None => return NO_ANSWER,
            },
        };
        // Envoy: where nothing is expected the connection is all, and is closed without a word.
        if config.receive.is_empty() && is_new {
            return CheckResult::Passed { degraded: false };
        }
        if io.write_all(&config.send).await.is_err() {
            return NO_ANSWER;
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
            self.kept = Some(io);
        }
        CheckResult::Passed { degraded: false }
    }

    pub(super) fn close(&mut self) {
        self.kept = None;
    }
}
