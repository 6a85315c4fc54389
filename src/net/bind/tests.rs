use std::os::unix::net::{UnixListener, UnixStream};

use nuncio_config::socket::{SocketValue, TcpKeepalive};

use super::*;

fn socket(address: &str) -> ListenSocket {
    let address = match address.parse::<SocketAddr>() {
        Ok(ip) => Address::Ip(ip),
        Err(_) => Address::Pipe(address.into()),
    };
    ListenSocket {
        address: ListenAddress {
            sends: nuncio_config::address::Sends::Streams,
            address,
            ipv4_compat: false,
            mode: None,
            namespace: None,
        },
        options: vec![],
        keepalive: None,
        backlog: None,
        mptcp: false,
    }
}

fn option(level: i32, name: i32, value: i32, phase: SocketPhase) -> SocketOption {
    let value = SocketValue::Int(value);
    SocketOption { level, name, value, phase, stream: true, datagram: false, ipv4: true, ipv6: true }
}

/// A path that no other test uses, removed at the end.
struct Path(String);

impl Path {
    fn new(name: &str) -> Self {
        Self(format!("{}/nuncio-{}-{name}", std::env::temp_dir().display(), std::process::id()))
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn accepted_sockets_inherit_nodelay_and_keepalive() {
    let mut config = socket("127.0.0.1:0");
    config.keepalive = Some(TcpKeepalive { probes: Some(4), time: Some(70), interval: Some(8) });
    let bound = BoundSocket::bind(&config).unwrap();
    bound.listen().unwrap();
    let Address::Ip(address) = *bound.local() else { panic!("an IP address was bound") };
    let _client = std::net::TcpStream::connect(address).unwrap();
    let (accepted, _) = bound.socket_of(0).unwrap().accept().unwrap();
    assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
    assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 4);
    assert_eq!(accepted.tcp_keepalive_time().unwrap().as_secs(), 70);
    assert_eq!(accepted.tcp_keepalive_interval().unwrap().as_secs(), 8);
}

#[test]
fn socket_options_are_set_in_their_phase_and_on_their_ip_version() {
    let mut config = socket("127.0.0.1:0");
    config.options = vec![
        option(libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000, SocketPhase::PreBind),
        option(libc::SOL_TCP, libc::TCP_DEFER_ACCEPT, 5, SocketPhase::Listening),
        SocketOption { ipv4: false, ..option(libc::SOL_IPV6, libc::IPV6_V6ONLY, 1, SocketPhase::Bound) },
    ];
    let bound = BoundSocket::bind(&config).unwrap();
    bound.listen().unwrap();
    // The kernel doubles what is asked for.
    assert_eq!(bound.socket_of(0).unwrap().recv_buffer_size().unwrap(), 100_000);
}

#[test]
fn an_option_that_the_kernel_refuses_is_told() {
    let mut config = socket("127.0.0.1:0");
    config.options = vec![option(libc::SOL_TCP, 9999, 1, SocketPhase::Bound)];
    let error = BoundSocket::bind(&config).unwrap_err();
    assert!(error.to_string().starts_with("cannot set a socket option of 127.0.0.1:0: "), "{error}");
}

#[test]
fn nobody_can_connect_before_listening_begins() {
    let bound = BoundSocket::bind_shared(&socket("127.0.0.1:0"), 2).unwrap();
    let Address::Ip(address) = *bound.local() else { panic!("an IP address was bound") };
    assert!(std::net::TcpStream::connect(address).is_err());
    bound.listen().unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
}

#[test]
fn ipv6_takes_ipv4_connections_only_if_told_to() {
    for compat in [false, true] {
        let mut config = socket("[::]:0");
        config.address.ipv4_compat = compat;
        let Ok(bound) = BoundSocket::bind(&config) else { return };
        bound.listen().unwrap();
        let port = bound.local().port().unwrap();
        assert_eq!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), compat);
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let path = Path::new("stale");
    drop(UnixListener::bind(&path.0).unwrap());
    let mut config = socket(&path.0);
    config.address.mode = Some(0o640);
    let bound = BoundSocket::bind_shared(&config, 4).unwrap();
    bound.listen().unwrap();
    assert!(UnixStream::connect(&path.0).is_ok());
    assert_eq!(std::fs::metadata(&path.0).unwrap().permissions().mode() & 0o777, 0o640);
    drop(bound);
    std::fs::remove_file(&path.0).unwrap();
    std::fs::write(&path.0, "precious").unwrap();
    assert!(BoundSocket::bind(&socket(&path.0)).is_err());
    assert_eq!(std::fs::read_to_string(&path.0).unwrap(), "precious");
}

#[test]
fn a_path_that_cannot_be_made_is_named() {
    let error = BoundSocket::bind(&socket("/nowhere/at/all")).unwrap_err();
    assert!(error.to_string().starts_with("cannot bind /nowhere/at/all: "), "{error}");
}

#[test]
fn an_address_that_is_shared_may_be_bound_by_the_next_listener_too() {
    let bound = BoundSocket::bind_shared(&socket("127.0.0.1:0"), 1).unwrap();
    bound.listen().unwrap();
    let mut config = socket(&bound.local().to_string());
    config.backlog = Some(5);
    assert!(BoundSocket::bind_shared(&config, 1).is_ok() && BoundSocket::bind(&config).is_err());
}
