//! Ports that a test names before anybody binds them.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Those that the kernel gives to whoever names none: `first last`.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// How many ports below them are ours to take.
const OURS: u32 = 20_000;

/// A port that nothing listens on at any address, for TCP and UDP. The kernel gives it to none who binds port 0 or connects, so
/// that it is still free when the proxy binds it; no other test of this process is given it.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string(EPHEMERAL).unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768_u32);
    assert!(first > OURS + 1024, "the kernel gives away all ports from {first} on");
    // Processes beside this one begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    let ports = std::iter::repeat_with(|| TAKEN.fetch_add(1, Ordering::Relaxed)).take(OURS as usize);
    let ports = ports.map(|taken| (first - 1 - begin.wrapping_add(taken) % OURS) as u16);
    let is_free = |port: &u16| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
    };
    ports.into_iter().find(is_free).expect("one of so many ports is free")
}
