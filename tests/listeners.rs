//! Where and how listeners accept.

use crate::support::bootstrap::Pieces;
use crate::support::client::get;
use crate::support::http1::{Kind, Reader};
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

const TCP: &str = "name: main\n    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";

/// The usual bootstrap with another address of its one listener.
async fn listening_at(address: &str) -> Running {
    let yaml = Pieces::default().yaml().replacen(TCP, &format!("name: main\n    address: {address}"), 1);
    proxy(yaml).upstream(http1()).run().await
}

async fn status_over(stream: StdUnixStream) -> u16 {
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut stream = UnixStream::from_std(stream).expect("within a runtime");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
    let response = Reader::new(stream).message(Kind::Response).await.expect("the proxy answers");
    response.expect("a whole response").status()
}

#[tokio::test]
async fn a_unix_domain_socket_is_served() {
    let proxy = listening_at("{ pipe: { path: $DIR/socket, mode: 0600 } }").await;
    let path = proxy.dir().join("socket");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("it was bound").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(status_over(StdUnixStream::connect(path).expect("it accepts")).await, 200);
}

#[tokio::test]
async fn an_abstract_socket_is_served() {
    let name = format!("nuncio-test-{}", std::process::id());
    let _proxy = listening_at(&format!("{{ pipe: {{ path: \"@{name}\" }} }}")).await;
    let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a short name");
    assert_eq!(status_over(StdUnixStream::connect_addr(&address).expect("it accepts")).await, 200);
}

#[tokio::test]
async fn additional_addresses_are_served_too() {
    let listener = "additional_addresses:\n- address: { socket_address: { address: 127.0.0.2, port_value: 0 } }\n";
    let pieces = Pieces { listener: listener.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let text = get(proxy.admin, "/listeners").await.expect("admin answers").text();
    let second = text.split("127.0.0.2:").nth(1).expect("it is listed");
    let digits: String = second.chars().take_while(char::is_ascii_digit).collect();
    let second = std::net::SocketAddr::from(([127, 0, 0, 2], digits.parse().expect("a port")));
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
    assert_eq!(get(second, "/").await.expect("the proxy answers").status(), 200);
}

#[tokio::test]
async fn every_worker_accepts() {
    let listener = "connection_balance_config: { exact_balance: {} }\n";
    let pieces = Pieces { listener: listener.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).concurrency(2).upstream(http1()).run().await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut client = crate::support::client::Client::connect(proxy.addr(), crate::support::split::Split::Whole)
            .await
            .expect("the proxy accepts");
        client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
        open.push(client);
    }
    for worker in 0..2 {
        let name = format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_active");
        assert_eq!(proxy.stat(&name).await, 10, "{name}");
    }
}
