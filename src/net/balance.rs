//! Exact balance: each connection goes to the worker that has the fewest of this listener's connections.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{self, error::TrySendError};

/// Connections that may wait for a worker before the one that accepted them keeps them.
const QUEUE: usize = 1024;

/// An accepted socket on its way to another worker.
#[derive(Debug)]
pub(crate) struct Handoff {
    pub(crate) stream: HandoffStream,
    /// Which address of the listener it came in on.
    pub(crate) address: usize,
}

#[derive(Debug)]
pub(crate) enum HandoffStream {
    Tcp(std::net::TcpStream, std::net::SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// What the workers know of each other's load.
pub(crate) struct Balancer {
    /// Connections of each worker. A lock for each accepted connection: exactness is what the user asked for, and two
    /// workers that pick at the same time must not pick the same one.
    counts: Mutex<Vec<usize>>,
    queues: Vec<mpsc::Sender<Handoff>>,
    /// Held by the worker that runs; one that is restarted takes it up again.
    receivers: Vec<Arc<tokio::sync::Mutex<mpsc::Receiver<Handoff>>>>,
}

impl Balancer {
    pub(crate) fn new(concurrency: usize) -> Self {
        let (queues, receivers) = (0..concurrency).map(|_| mpsc::channel(QUEUE)).unzip::<_, _, Vec<_>, Vec<_>>();
        let receivers = receivers.into_iter().map(|r| Arc::new(tokio::sync::Mutex::new(r))).collect();
        Self { counts: Mutex::new(vec![0; concurrency]), queues, receivers }
    }

    /// The worker with the fewest connections, which now has one more. `own` wins a tie: moving a socket costs.
    pub(crate) fn pick(&self, own: usize) -> usize {
        let mut counts = self.lock();
        let fewest = counts.iter().copied().min().unwrap_or_default();
        let picked =
            if counts[own] == fewest { own } else { counts.iter().position(|&count| count == fewest).unwrap_or(own) };
        counts[picked] += 1;
        picked
    }

    /// `worker` has one more connection, picked or not.
    pub(crate) fn take(&self, worker: usize) {
        self.lock()[worker] += 1;
    }

    /// A connection of `worker` ended.
    pub(crate) fn release(&self, worker: usize) {
        let mut counts = self.lock();
        counts[worker] = counts[worker].saturating_sub(1);
    }

    /// Sends a connection to the worker that was picked; it comes back where that worker's queue is full.
    pub(crate) fn send(&self, worker: usize, handoff: Handoff) -> Result<(), Handoff> {
        self.queues[worker].try_send(handoff).map_err(|e| match e {
            TrySendError::Full(handoff) | TrySendError::Closed(handoff) => handoff,
        })
    }

    /// What other workers send to `worker`.
    pub(crate) fn receiver(&self, worker: usize) -> Arc<tokio::sync::Mutex<mpsc::Receiver<Handoff>>> {
        self.receivers[worker].clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_the_fewest_connections_is_picked_and_a_tie_stays_at_home() {
        let balancer = Balancer::new(3);
        let picks: Vec<usize> = (0..6).map(|_| balancer.pick(1)).collect();
        assert_eq!(picks, [1, 0, 2, 1, 0, 2]);
        balancer.release(2);
        assert_eq!(balancer.pick(1), 2);
    }

    #[test]
    fn a_full_queue_gives_the_connection_back() {
        let balancer = Balancer::new(2);
        let handoff = || {
            let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
            Handoff { stream: HandoffStream::Unix(stream), address: 0 }
        };
        let sent = (0..QUEUE + 1).filter(|_| balancer.send(0, handoff()).is_ok()).count();
        assert_eq!(sent, QUEUE);
    }
}
