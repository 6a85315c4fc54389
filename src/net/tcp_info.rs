//! Connections of which the kernel's knowledge is counted (TCP_INFO).

use std::io::{self};
use std::mem;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nuncio_config::transport_socket::{TcpStats, TcpStatsConfig};
use nuncio_filter_api::{Io, Transport, forward_transport, forward_write};
use nuncio_telemetry::stats::{Counter, Gauge};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// A connection that is counted while it lasts and when it ends.
pub struct CountedTcp {
    io: Io,
    config: TcpStatsConfig,
    next: Option<Pin<Box<Sleep>>>,
    last: Seen,
}

/// What was last seen, and so is counted.
#[derive(Debug, Default)]
struct Seen {
    tx_segments: u32,
    rx_segments: u32,
    tx_data_segments: u32,
    rx_data_segments: u32,
    retransmitted: u32,
    received: u64,
    sent: u64,
    unsent: u32,
    unacked: u32,
}

/// A millionth of this is a part of the whole.
const WHOLE: u64 = 1_000_000;

// === impl CountedTcp ===

impl CountedTcp {
    /// Counts the connection of `io`, which is that of a socket.
    pub fn wrap(io: Io, config: &TcpStatsConfig) -> Io {
        let next = config.period.map(|period| Box::pin(sleep(period)));
        Io::new(Self { io, config: config.clone(), next, last: Seen::default() })
    }

    /// Counts, where it is time.
    fn poll_count(&mut self, cx: &mut Context<'_>) {
        let Some(period) = self.config.period else { return };
        while self.next.as_mut().is_some_and(|next| next.as_mut().poll(cx).is_ready()) {
            self.count();
            self.again(period);
        }
    }

    fn again(&mut self, period: Duration) {
        if let Some(next) = &mut self.next {
            next.as_mut().reset(Instant::now() + period);
        }
    }

    fn count(&mut self) {
        if let Some(info) = self.io.socket().and_then(|socket| tcp_info(socket).ok()) {
            self.last.advance(&info, &self.config.stats);
        }
    }
}

// === impl Seen ===

impl Seen {
    fn advance(&mut self, info: &libc::tcp_info, stats: &TcpStats) {
        let data = info.tcpi_data_segs_out.wrapping_sub(self.tx_data_segments);
        let again = info.tcpi_total_retrans.wrapping_sub(self.retransmitted);
        if data > 0 {
            let share = u64::from(again) * WHOLE / u64::from(data);
            stats.cx_tx_percent_retransmitted_segments().record(share);
        }
        grow(stats.cx_tx_segments(), &mut self.tx_segments, info.tcpi_segs_out);
        grow(stats.cx_rx_segments(), &mut self.rx_segments, info.tcpi_segs_in);
        grow(stats.cx_tx_data_segments(), &mut self.tx_data_segments, info.tcpi_data_segs_out);
        grow(stats.cx_rx_data_segments(), &mut self.rx_data_segments, info.tcpi_data_segs_in);
        grow(stats.cx_tx_retransmitted_segments(), &mut self.retransmitted, info.tcpi_total_retrans);
        grow_bytes(stats.cx_rx_bytes_received(), &mut self.received, info.tcpi_bytes_received);
        grow_bytes(stats.cx_tx_bytes_sent(), &mut self.sent, info.tcpi_bytes_sent);
        set(stats.cx_tx_unsent_bytes(), &mut self.unsent, info.tcpi_notsent_bytes);
        set(stats.cx_tx_unacked_segments(), &mut self.unacked, info.tcpi_unacked);
        stats.cx_rtt_us().record(info.tcpi_rtt.into());
        stats.cx_rtt_variance_us().record(info.tcpi_rttvar.into());
    }
}

fn grow(counter: Counter<'_>, last: &mut u32, now: u32) {
    counter.add(u64::from(now.wrapping_sub(*last)));
    *last = now;
}

fn grow_bytes(counter: Counter<'_>, last: &mut u64, now: u64) {
    counter.add(now.saturating_sub(*last));
    *last = now;
}

fn set(gauge: Gauge<'_>, last: &mut u32, now: u32) {
    gauge.add(now.into());
    gauge.sub(mem::replace(last, now).into());
}

/// The round trip of a connection as the kernel has smoothed it.
pub(crate) fn round_trip(socket: &TcpStream) -> Option<Duration> {
    tcp_info(socket).ok().map(|info| Duration::from_micros(info.tcpi_rtt.into()))
}

fn tcp_info(socket: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes no more than `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

impl Transport for CountedTcp {
    forward_transport!(io: reset_on_drop, moved, ended);

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_count(cx);
        self.io.poll_closed(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        // Who moves the bytes by itself does not come by to count.
        if self.next.is_some() { None } else { self.io.socket() }
    }
}

impl AsyncRead for CountedTcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_count(cx);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

forward_write!(CountedTcp, io);

impl Drop for CountedTcp {
    fn drop(&mut self) {
        self.count();
        let (stats, last) = (&self.config.stats, &self.last);
        stats.cx_tx_unsent_bytes().sub(last.unsent.into());
        stats.cx_tx_unacked_segments().sub(last.unacked.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TcpTransport;
    use nuncio_telemetry::stats::Store;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_the_kernel_saw_is_counted_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let (mut peer, _) = listener.accept().await.expect("a connection waits");
        let stats = TcpStats::new(&Store::default().scope("tcp_stats"));
        let mut io = CountedTcp::wrap(
            Io::new(TcpTransport::new(stream)),
            &TcpStatsConfig { stats: stats.clone(), period: None },
        );
        io.write_all(b"hello").await.expect("it is connected");
        let mut got = [0; 5];
        peer.read_exact(&mut got).await.expect("they come");
        peer.write_all(b"hi").await.expect("it is connected");
        let mut got = [0; 2];
        io.read_exact(&mut got).await.expect("they come");
        assert_eq!(stats.cx_tx_bytes_sent().value(), 0);
        drop(io);
        assert_eq!((stats.cx_tx_bytes_sent().value(), stats.cx_rx_bytes_received().value()), (5, 2));
        assert_eq!((stats.cx_tx_data_segments().value(), stats.cx_tx_unacked_segments().value()), (1, 0));
    }
}
