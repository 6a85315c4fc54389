//! A pipe of the kernel, through which bytes go from socket to socket without being copied to this process and back.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is asked to hold. The kernel gives less where the user's pipes hold much already (pipe(7)).
const CAPACITY: libc::c_int = 256 << 10;

/// The most that is moved at once: what the pipe holds bounds it further.
const MOST: usize = 1 << 20;

/// A pipe. It is filled only when it is empty, so that a socket alone can be what a fill waits for.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe; fails where descriptors are short.
    pub fn new() -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: the array has room for the two descriptors that the kernel writes.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made, and nobody else has them.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // SAFETY: the descriptor is open. A refusal leaves the pipe smaller.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, CAPACITY) };
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes in what `from` has received, and tells how much; nothing is the end of what the peer sends. The pipe is
    /// empty before.
    pub fn poll_fill(&mut self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || splice(from.as_fd(), self.write.as_fd(), MOST)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(filled) => {
                    self.held += filled;
                    return Poll::Ready(Ok(filled));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Gives `to` what it takes of that, and tells how much.
    pub fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || splice(self.read.as_fd(), to.as_fd(), self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => {
                    self.held = self.held.saturating_sub(sent);
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are open as long as they are borrowed, and there are no offsets to read or write.
    let moved =
        unsafe { libc::splice(from.as_raw_fd(), ptr::null_mut(), to.as_raw_fd(), ptr::null_mut(), most, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let peer = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("a connection waits");
        (stream, peer)
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_the_end_is_told() {
        let (from, mut client) = pair().await;
        let (to, mut server) = pair().await;
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let received = tokio::spawn(async move {
            let mut all = vec![0; 100_000];
            server.read_exact(&mut all).await.expect("all of it comes");
            all
        });
        tokio::spawn(async move { client.write_all(&sent).await.expect("it is read") });
        let mut pipe = Pipe::new().expect("there are descriptors");
        let mut total = 0;
        while let filled @ 1.. = poll_fn(|cx| pipe.poll_fill(&from, cx)).await.expect("it is connected") {
            total += filled;
            while pipe.held() > 0 {
                poll_fn(|cx| pipe.poll_drain(&to, cx)).await.expect("it is connected");
            }
        }
        assert_eq!((total, received.await.expect("it does not panic")), (100_000, expected));
    }
}
