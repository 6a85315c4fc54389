//! L4 on both sides: sockets that listen and accept, the filter-chain runner, and connections to hosts.
//!
//! In: a lowered listener and the workers it runs on; a host's address. Out: each accepted connection handed to the
//! network filters of its chain, as a task of the worker that serves it; connections to hosts.
//! Invariants: a listener's sockets are bound once and shared by all workers of the process, so that a worker can be
//! restarted without losing a connection that waits; a connection is one task, whose end, panic or abort gives back
//! all that the connection took; running out of file descriptors slows accepting down and nothing else.
//! Start reading at [`Listener`], then [`ActiveListener`].

mod accept;
mod active;
mod balance;
mod bind;
mod connect;
mod datagram;
mod directory;
mod http_tunnel;
mod inspect;
mod internal;
mod listener;
mod logged;
mod option;
mod pipe;
mod proxy_protocol;
mod tapped;
mod tcp_info;
mod tls;
mod tls_stats;
mod transport;
mod udp;
mod udp_listener;

pub use active::ActiveListener;
pub use bind::{BindError, BoundSocket};
pub use connect::{ConnectError, ConnectOptions, Connected, connect, connect_first};
pub use datagram::{DatagramSocket, Readiness, Received, Receiver, Sender};
pub use directory::Directory;
pub use http_tunnel::HttpTunnel;
pub use internal::{InternalTransport, connect_internal};
pub use listener::{ConnectionIds, Listener};
pub(crate) use logged::Logged;
pub use pipe::Pipe;
pub use proxy_protocol::{ProxiedEnds, Tlv, proxy_v1, proxy_v2};
pub use tapped::Tapped;
pub use tcp_info::CountedTcp;
pub use tls::{TlsError, connect as connect_tls};
pub use tls_stats::TlsStats;
pub use transport::{TcpTransport, UnixTransport};
pub use udp::connect_udp;
