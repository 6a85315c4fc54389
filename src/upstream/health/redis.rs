use std::sync::Arc;

use nuncio_config::cluster::RedisHealthCheck;
use nuncio_filter_api::Io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::probe::{NO_ANSWER, Target};
use super::state::{CheckResult, Failure, FailureKind};
use crate::cluster::Cluster;
use crate::host::Host;

/// No line that is looked for is nearly as long.
const MAX_ANSWER: usize = 64 * 1024;

/// A command and its answer.
#[derive(Default)]
pub(super) struct RedisProbe {
    kept: Option<Connection>,
}

/// A connection. Envoy counts those to Redis as it counts those of requests.
struct Connection {
    io: Io,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
}

// === impl RedisProbe ===

impl RedisProbe {
    pub(super) async fn run(&mut self, target: &Target, config: &RedisHealthCheck) -> CheckResult {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => match target.connect().await {
                Some(io) => Connection::new(io, target),
                None => return NO_ANSWER,
            },
        };
        let Some(line) = connection.ask(&command(&config.key)).await else { return NO_ANSWER };
        // More than a line would be taken for the answer to the next command.
        if target.config.reuse_connection && matches!(line.first(), Some(b'+' | b'-' | b':')) {
            self.kept = Some(connection);
        }
        let expected: &[u8] = if config.key.is_empty() { b"+PONG" } else { b":0" };
        match line == expected {
            true => CheckResult::Passed { degraded: false },
            false => CheckResult::Failed(Failure { kind: FailureKind::Active, retriable: false, status: 0 }),
        }
    }

    pub(super) fn close(&mut self) {
        self.kept = None;
    }
}

fn command(key: &str) -> Vec<u8> {
    match key.len() {
        0 => b"*1\r\n$4\r\nPING\r\n".to_vec(),
        len => format!("*2\r\n$6\r\nEXISTS\r\n${len}\r\n{key}\r\n").into_bytes(),
    }
}

// === impl Connection ===

impl Connection {
    fn new(io: Io, target: &Target) -> Self {
        let (cluster, host) = (target.cluster.clone(), target.host.clone());
        cluster.stats.upstream_cx_total().inc();
        cluster.stats.upstream_cx_active().inc();
        host.stats.cx_total.inc();
        host.stats.cx_active.inc();
        Self { io, cluster, host }
    }

    /// The first line of the answer. `None` if there is none.
    async fn ask(&mut self, command: &[u8]) -> Option<Vec<u8>> {
        self.cluster.stats.upstream_rq_total().inc();
        self.host.stats.rq_total.inc();
        self.io.write_all(command).await.ok()?;
        let mut answer = Vec::new();
        loop {
            if let Some(end) = answer.windows(2).position(|pair| pair == b"\r\n") {
                answer.truncate(end);
                return Some(answer);
            }
            match self.io.read_buf(&mut answer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) if answer.len() > MAX_ANSWER => return None,
                Ok(_) => {}
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.cluster.stats.upstream_cx_active().dec();
        self.host.stats.cx_active.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_asked_for_by_its_length() {
        assert_eq!(command(""), b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(command("down"), b"*2\r\n$6\r\nEXISTS\r\n$4\r\ndown\r\n");
    }
}
