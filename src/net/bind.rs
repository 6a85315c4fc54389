//! Sockets that listen.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use nuncio_config::address::{ListenAddress, Sends};
use nuncio_config::listener::ListenSocket;
use nuncio_config::socket::{SocketOption, SocketPhase};
use nuncio_telemetry::Address;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::option::{set_flag, set_option, tcp_keepalive};

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {address}: {source}")]
pub struct BindError {
    /// The address, as configured.
    pub address: Address,
    /// What failed.
    pub step: &'static str,
    /// The kernel's reason.
    pub source: io::Error,
}

/// An address, bound: by one socket for each worker, or by one that all share.
#[derive(Debug)]
pub struct BoundSocket {
    local: Address,
    sockets: Vec<Socket>,
    config: ListenSocket,
}

impl BoundSocket {
    /// Binds one socket to the address of `config`, which is shared with nobody.
    pub fn bind(config: &ListenSocket) -> Result<Self, BindError> {
        Self::bind_all(config, 1, false)
    }

    /// Binds `count` sockets to the address of `config`, all to the same port where the kernel chooses it. Others may
    /// bind it too: another process, or the listener that takes the place of this one. A unix-domain address always has
    /// but one socket.
    pub fn bind_shared(config: &ListenSocket, count: usize) -> Result<Self, BindError> {
        Self::bind_all(config, count, true)
    }

    fn bind_all(config: &ListenSocket, count: usize, reuse_port: bool) -> Result<Self, BindError> {
        let Address::Ip(wanted) = config.address.address else {
            let socket = bind_pipe(&config.address, config)?;
            return Ok(Self { local: config.address.address.clone(), sockets: vec![socket], config: config.clone() });
        };
        let first = bind_there(wanted, config, reuse_port)?;
        let local = first.local_addr().and_then(|a| a.as_socket().ok_or(io::ErrorKind::Unsupported.into()));
        let local = local.map_err(|source| error(config, "read the bound address of", source))?;
        let mut sockets = vec![first];
        for _ in 1..count {
            sockets.push(bind_there(local, config, reuse_port)?);
        }
        Ok(Self { local: local.into(), sockets, config: config.clone() })
    }

    /// Begins to listen: from now on connections are queued, and accepted once a worker asks for them.
    pub fn listen(&self) -> Result<(), BindError> {
        // The kernel cuts the backlog down to net.core.somaxconn, which is Envoy's default too.
        let backlog = self.config.backlog.map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX));
        for socket in &self.sockets {
            if self.config.address.sends == Sends::Streams {
                socket.listen(backlog).map_err(|source| error(&self.config, "listen on", source))?;
            }
            set_options(socket, &self.config, SocketPhase::Listening)?;
        }
        Ok(())
    }

    /// Whether it is what `config` asks for, bound `count` times.
    pub(crate) fn is_of(&self, config: &ListenSocket, count: usize) -> bool {
        let is_pipe = matches!(self.local, Address::Pipe(_));
        self.config == *config && (is_pipe || self.sockets.len() == count)
    }

    /// The same sockets by other descriptors: connections that wait are accepted by whoever comes first.
    pub(crate) fn share(&self) -> Result<Self, BindError> {
        let sockets = self.sockets.iter().map(Socket::try_clone).collect::<io::Result<_>>();
        let sockets = sockets.map_err(|source| error(&self.config, "share the socket of", source))?;
        Ok(Self { local: self.local.clone(), sockets, config: self.config.clone() })
    }

    /// The address bound, with the port that the kernel chose for port 0.
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// The address as configured.
    pub fn configured(&self) -> &ListenAddress {
        &self.config.address
    }

    /// Another descriptor of the socket that `worker` accepts from.
    pub fn socket_of(&self, worker: usize) -> io::Result<Socket> {
        self.sockets[worker % self.sockets.len()].try_clone()
    }
}

fn error(config: &ListenSocket, step: &'static str, source: io::Error) -> BindError {
    BindError { address: config.address.address.clone(), step, source }
}

/// As `bind_ip`, in the network namespace that the address is in.
fn bind_there(address: SocketAddr, config: &ListenSocket, reuse_port: bool) -> Result<Socket, BindError> {
    let Some(namespace) = config.address.namespace.as_deref() else { return bind_ip(address, config, reuse_port) };
    let failed = |source| error(config, "enter the network namespace of", source);
    let file = File::open(namespace).map_err(failed)?;
    // A thread of its own: what it has entered it need not leave.
    let bound = std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            // SAFETY: setns takes two integers, and the descriptor is open as long as `file` lives.
            match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => bind_ip(address, config, reuse_port),
                _ => Err(failed(io::Error::last_os_error())),
            }
        });
        there.join()
    });
    bound.unwrap_or_else(|_| Err(failed(io::Error::other("the thread panicked"))))
}

fn bind_ip(address: SocketAddr, config: &ListenSocket, reuse_port: bool) -> Result<Socket, BindError> {
    let made = (|| {
        let (kind, protocol) = match config.address.sends {
            Sends::Datagrams => (Type::DGRAM, Protocol::UDP),
            Sends::Streams if config.mptcp => (Type::STREAM, Protocol::MPTCP),
            Sends::Streams => (Type::STREAM, Protocol::TCP),
        };
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if config.address.sends == Sends::Datagrams {
            if reuse_port {
                socket.set_reuse_port(true)?;
            }
            set_up_datagrams(&socket, address, config)?;
            return Ok(socket);
        }
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(!config.address.ipv4_compat)?;
        }
        // Accepted sockets inherit both of the kernel, which saves two system calls for each connection.
        socket.set_tcp_nodelay(true)?;
        if let Some(keepalive) = config.keepalive {
            socket.set_tcp_keepalive(&tcp_keepalive(keepalive))?;
        }
        Ok(socket)
    })();
    let socket = made.map_err(|source| error(config, "make a socket for", source))?;
    bind(&socket, &address.into(), config)?;
    Ok(socket)
}

/// What is asked of a socket that takes datagrams. It is not bound to an address that others may have, as one with
/// SO_REUSEADDR could be.
fn set_up_datagrams(socket: &Socket, address: SocketAddr, config: &ListenSocket) -> io::Result<()> {
    set_flag(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!config.address.ipv4_compat)?;
    }
    // Answers leave from where the client sent to, which a wildcard does not say.
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => set_flag(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, true),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, true)
        }
        _ => Ok(()),
    }
}

fn bind_pipe(address: &ListenAddress, config: &ListenSocket) -> Result<Socket, BindError> {
    let Address::Pipe(path) = &address.address else { unreachable!("called for unix-domain addresses only") };
    let (name, is_file) = match path.strip_prefix('@') {
        // The abstract namespace: the name begins with a zero byte, and no file is made.
        Some(name) => (format!("\0{name}"), false),
        None => (path.to_string(), true),
    };
    if is_file {
        remove_stale(path).map_err(|source| error(config, "remove the stale socket", source))?;
    }
    let made = (|| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok((socket, SockAddr::unix(name)?))
    })();
    let (socket, name) = made.map_err(|source| error(config, "make a socket for", source))?;
    bind(&socket, &name, config)?;
    if let Some(mode) = address.mode {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&**path, permissions).map_err(|source| error(config, "set the mode of", source))?;
    }
    Ok(socket)
}

/// Removes what an earlier process left behind, as Envoy does; but never a file that is no socket.
fn remove_stale(path: &str) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

fn bind(socket: &Socket, address: &SockAddr, config: &ListenSocket) -> Result<(), BindError> {
    set_options(socket, config, SocketPhase::PreBind)?;
    socket.bind(address).map_err(|source| error(config, "bind", source))?;
    set_options(socket, config, SocketPhase::Bound)
}

fn set_options(socket: &Socket, config: &ListenSocket, phase: SocketPhase) -> Result<(), BindError> {
    let applies = |option: &&SocketOption| {
        option.phase == phase
            && match &config.address.address {
                Address::Ip(a) => {
                    if a.is_ipv4() {
                        option.ipv4
                    } else {
                        option.ipv6
                    }
                }
                Address::Pipe(_) | Address::Internal(_) => option.ipv4 && option.ipv6,
            }
    };
    for option in config.options.iter().filter(applies) {
        set_option(socket, option).map_err(|source| error(config, "set a socket option of", source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
