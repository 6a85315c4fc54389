//! L4 on both sides.

mod connect;
mod transport;

pub use connect::{ConnectError, ConnectOptions, Connected, connect};
pub use transport::{TcpTransport, UnixTransport};
