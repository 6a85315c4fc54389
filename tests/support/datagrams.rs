//! Hosts that answer datagrams.

use tokio::net::UdpSocket;

/// The port of a host that sends every datagram back, behind `name:`. It says nothing to what begins with `?`, and so many
/// bytes to `!NUMBER`.
pub(crate) async fn host(name: &'static str) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let port = socket.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let asked = &buffer[..length];
            let number = asked.strip_prefix(b"!").and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
            let answer = match (asked.first(), number) {
                (Some(b'?'), _) => continue,
                (_, Some(length)) => vec![b'x'; length],
                _ => [name.as_bytes(), b":", asked].concat(),
            };
            let _ = socket.send_to(&answer, from).await;
        }
    });
    port
}
