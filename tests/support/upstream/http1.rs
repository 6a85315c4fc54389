//! One HTTP/1 connection of a scripted upstream.

use super::{Shared, Then, What};
use crate::support::http1::{Kind, Reader};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) async fn connection(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let mut reader = Reader::new(stream);
    loop {
        let request = match reader.message(Kind::Request).await {
            Ok(Some(request)) => request,
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
            // With a linger of nothing the kernel sends RST instead of FIN.
            Then::Reset => drop(stream.set_zero_linger()),
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
