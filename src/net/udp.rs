//! UDP sockets that talk to one host.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nuncio_config::socket::SocketPhase;
use nuncio_telemetry::Address;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::connect::{ConnectError, ConnectOptions};
use crate::option::set_option;

/// A socket whose datagrams go to `address` and come from there. The kernel asks nobody, so that nothing is waited for.
pub fn connect_udp(address: &Address, options: ConnectOptions<'_>) -> Result<UdpSocket, ConnectError> {
    let Address::Ip(to) = address else {
        let source = std::io::ErrorKind::Unsupported.into();
        return Err(ConnectError::Immediate { address: address.clone(), source });
    };
    let source = options.bind.and_then(|bind| bind.source);
    let socket = bound(*to, source, options).map_err(|error| ConnectError::Bind { address: source, source: error })?;
    let connected = socket.connect(&(*to).into()).and_then(|()| UdpSocket::from_std(socket.into()));
    connected.map_err(|source| ConnectError::Immediate { address: address.clone(), source })
}

fn bound(to: SocketAddr, source: Option<SocketAddr>, options: ConnectOptions<'_>) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    let set = |phase: SocketPhase| {
        let options = options.bind.map_or(&[][..], |bind| &bind.options);
        let applies = options.iter().filter(|option| {
            option.phase == phase && option.datagram && if to.is_ipv4() { option.ipv4 } else { option.ipv6 }
        });
        applies.into_iter().try_for_each(|option| set_option(&socket, option))
    };
    if let Some(freebind) = options.bind.and_then(|bind| bind.freebind) {
        socket.set_freebind_v4(freebind)?;
    }
    set(SocketPhase::PreBind)?;
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&source.unwrap_or(SocketAddr::new(any, 0)).into())?;
    set(SocketPhase::Bound)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_go_to_the_host_and_come_from_it() {
        let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let socket = connect_udp(&host.local_addr().unwrap().into(), ConnectOptions::default()).unwrap();
        socket.send(b"hi").await.unwrap();
        let mut buffer = [0; 8];
        let (len, from) = host.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"hi");
        host.send_to(b"ho", from).await.unwrap();
        assert_eq!(socket.recv(&mut buffer).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_pipe_takes_no_datagrams() {
        assert!(connect_udp(&Address::Pipe("/x".into()), ConnectOptions::default()).is_err());
    }
}
