//! One HTTP/1 connection of a scripted upstream.

use super::{Shared, Then, What};
use crate::support::http1::{Kind, Reader};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) async fn connection(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let mut stream = stream;
    let proxied = proxy_header(&mut stream).await;
    let mut reader = Reader::new(stream);
    loop {
        let request = match reader.message(Kind::Request).await {
            Ok(Some(mut request)) => {
                request.headers.extend(proxied.clone().map(|text| ("(proxy header)".to_owned(), text)));
                request
            }
            Ok(None) => return,
            // A reset between two requests is no request; bytes that end without one are.
            Err(e) if e.raw_os_error().is_some() => return,
            Err(e) => return shared.record(number, What::Garbage(e.to_string())),
        };
        let answer = shared.answer(request.target());
        shared.record(number, What::Request(request));
        tokio::time::sleep(answer.delay).await;
        let stream = reader.get_mut();
        if stream.write_all(&answer.bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        match answer.then {
            Then::Keep => {}
            Then::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Then::Reset => {
                if !answer.bytes.is_empty() {
                    // A reset that comes with bytes may be seen before them, or not: let the bytes be read.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // With a linger of nothing the kernel sends RST instead of FIN.
                let _ = stream.set_zero_linger();
            }
            Then::CloseAtNext => {
                let _ = stream.readable().await;
                return;
            }
            Then::Hang => std::future::pending().await,
            Then::Echo => return echo(&mut reader).await,
        }
        if answer.then == Then::Reset {
            return;
        }
    }
}

async fn echo(reader: &mut Reader<TcpStream>) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = reader.get_mut().read(&mut chunk).await {
        if reader.get_mut().write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}

/// The header of the PROXY protocol at the beginning of a connection, if there is one, as text.
async fn proxy_header(stream: &mut TcpStream) -> Option<String> {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let mut begin = [0; 16];
    let seen = stream.peek(&mut begin).await.ok()?;
    if seen == begin.len() && begin.starts_with(V2) {
        stream.read_exact(&mut begin).await.ok()?;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([begin[14], begin[15]]))];
        stream.read_exact(&mut rest).await.ok()?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        return Some(format!("v2 {} {}", hex(&begin[12..14]), hex(&rest)));
    }
    if !begin.starts_with(b"PROXY ") {
        return None;
    }
    let mut line = String::new();
    while !line.ends_with("\r\n") {
        line.push(char::from(stream.read_u8().await.ok()?));
    }
    Some(line.trim_end().to_owned())
}
