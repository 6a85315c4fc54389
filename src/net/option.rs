//! Options of sockets that listen and of sockets that connect.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nuncio_config::socket::{SocketOption, SocketPhase, SocketValue, TcpKeepalive};

/// Keep-alive as configured.
pub(crate) fn tcp_keepalive(config: TcpKeepalive) -> socket2::TcpKeepalive {
    let seconds = |n: u32| Duration::from_secs(n.into());
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = config.time {
        keepalive = keepalive.with_time(seconds(time));
    }
    if let Some(interval) = config.interval {
        keepalive = keepalive.with_interval(seconds(interval));
    }
    if let Some(probes) = config.probes {
        keepalive = keepalive.with_retries(probes);
    }
    keepalive
}

/// One setsockopt(2) as configured.
pub(crate) fn set_option(socket: &impl AsRawFd, option: &SocketOption) -> io::Result<()> {
    let int;
    let bytes: &[u8] = match &option.value {
        SocketValue::Int(value) => {
            int = value.to_ne_bytes();
            &int
        }
        SocketValue::Bytes(bytes) => bytes,
    };
    let length = libc::socklen_t::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `length` bytes at the pointer, which are those of `bytes`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), option.level, option.name, bytes.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Turns an option on or off.
pub(crate) fn set_flag(socket: &impl AsRawFd, level: i32, name: i32, on: bool) -> io::Result<()> {
    let option = SocketOption {
        level,
        name,
        value: SocketValue::Int(on.into()),
        phase: SocketPhase::PreBind,
        stream: true,
        datagram: true,
        ipv4: true,
        ipv6: true,
    };
    set_option(socket, &option)
}
