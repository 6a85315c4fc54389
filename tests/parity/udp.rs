//! What a client does with datagrams, line by line: `send TEXT`, `bulk BYTES`, `ask NAME TYPE` (a
//! question of DNS), `read` (until it is quiet; a line for each
//! datagram), `pause MS`, `another` (it goes on with another socket, and keeps this one).

use super::escape::{unescape, visible_body};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

pub(super) enum Move {
    Send(Vec<u8>),
    Read,
    Pause(Duration),
    Another,
}

pub(super) fn parse(lines: &[&str]) -> Result<Vec<Move>, String> {
    lines.iter().filter(|line| !line.trim().is_empty()).map(|line| a_move(line)).collect()
}

fn a_move(line: &str) -> Result<Move, String> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let number = || rest.parse().map_err(|e| format!("{line}: {e}"));
    Ok(match verb {
        "send" => Move::Send(unescape(rest)?),
        "bulk" => Move::Send(vec![b'x'; number()?]),
        "ask" => Move::Send(question(rest)?),
        "read" => Move::Read,
        "another" => Move::Another,
        "pause" => Move::Pause(Duration::from_millis(number()? as u64)),
        other => return Err(format!("no such move as {other}")),
    })
}

/// A question for the records of the type with this number.
fn question(line: &str) -> Result<Vec<u8>, String> {
    let (name, kind) = line.split_once(' ').ok_or("ask NAME TYPE")?;
    let kind: u16 = kind.parse().map_err(|e| format!("{kind}: {e}"))?;
    let mut bytes = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).map_err(|e| e.to_string())?);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    Ok(bytes)
}

/// Makes the moves; a datagram that a read waits for may take as long as `quiet`.
pub(super) async fn play(
    proxy: SocketAddr,
    moves: &[Move],
    quiet: Duration,
    lines: &mut Vec<String>,
) -> io::Result<()> {
    let mut sockets = vec![socket(proxy).await?];
    for next in moves {
        let socket_now = sockets.last().expect("there is always one");
        match next {
            // That nobody takes it is told by the next call; the proxy may not have it yet.
            Move::Send(bytes) => drop(socket_now.send(bytes).await),
            Move::Read => read_until_quiet(socket_now, quiet, lines).await,
            Move::Another => sockets.push(socket(proxy).await?),
            Move::Pause(time) => tokio::time::sleep(*time).await,
        }
    }
    Ok(())
}

async fn socket(proxy: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(proxy.ip(), 0)).await?;
    socket.connect(proxy).await?;
    Ok(socket)
}

async fn read_until_quiet(socket: &UdpSocket, quiet: Duration, lines: &mut Vec<String>) {
    let mut buffer = vec![0; 1 << 16];
    let mut count = 0;
    while let Ok(Ok(length)) = tokio::time::timeout(quiet, socket.recv(&mut buffer)).await {
        lines.push(format!("> {}", visible_body(&buffer[..length])));
        count += 1;
    }
    if count == 0 {
        lines.push("> nothing".to_owned());
    }
}
