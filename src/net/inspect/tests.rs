use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// The two ends of a connection: the client's, and the one that listener filters look at.
async fn connection() -> (TcpStream, Incoming) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let local = stream.local_addr().unwrap();
    let socket = Peeked { stream, transport: |stream| Io::new(TcpTransport::peeked(stream)) };
    (client, Incoming::new(Box::new(socket), peer.into(), local.into()))
}

fn io(incoming: Incoming) -> Io {
    incoming.into_socket().downcast::<Peeked<TcpStream>>().unwrap().into_io()
}

#[tokio::test]
async fn bytes_are_waited_for_looked_at_and_left_there() {
    let (mut client, mut incoming) = connection().await;
    let mut buffer = [0; 8];
    client.write_all(b"ab").await.unwrap();
    assert_eq!(incoming.peek(&mut buffer, 0).await.unwrap(), b"ab");
    let more = tokio::time::timeout(Duration::from_millis(50), incoming.peek(&mut buffer, 2)).await;
    assert!(more.is_err(), "there are no more");
    client.write_all(b"c").await.unwrap();
    assert_eq!(incoming.peek(&mut buffer, 2).await.unwrap(), b"abc");
    let mut io = io(incoming);
    let mut read = [0; 3];
    io.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"abc");
}

#[tokio::test]
async fn bytes_that_a_filter_takes_are_not_seen_again() {
    let (mut client, mut incoming) = connection().await;
    let mut buffer = [0; 8];
    client.write_all(b"headrest").await.unwrap();
    let mut seen = 0;
    while seen < 8 {
        seen = incoming.peek(&mut buffer, seen).await.unwrap().len();
    }
    incoming.consume(4).unwrap();
    let mut read = [0; 4];
    io(incoming).read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"rest");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let (mut client, mut incoming) = connection().await;
    let mut buffer = [0; 8];
    client.write_all(b"a").await.unwrap();
    assert_eq!(incoming.peek(&mut buffer, 0).await.unwrap(), b"a");
    drop(client);
    let peeked = incoming.peek(&mut buffer, 1).await;
    assert!(matches!(peeked, Err(Rejected::ClosedByClient)), "{peeked:?}");
}

#[tokio::test]
async fn a_connection_that_was_not_redirected_has_no_other_destination() {
    let (_client, incoming) = connection().await;
    // Where the kernel tracks connections, it is where the client connected to.
    assert!(incoming.original_destination().is_none_or(|to| Address::Ip(to) == incoming.local));
}
