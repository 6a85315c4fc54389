//! Transports before another: what they leave to it, written once.

/// Within `impl Transport`: leaves the methods that are named to the transport in the field `$io`.
#[macro_export]
macro_rules! forward_transport {
    ($io:ident: $($method:ident),+ $(,)?) => {
        $($crate::forward_transport!(@$method $io);)+
    };
    (@reset_on_drop $io:ident) => {
        fn reset_on_drop(&mut self) {
            self.$io.reset_on_drop();
        }
    };
    (@poll_closed $io:ident) => {
        fn poll_closed(&mut self, cx: &mut ::std::task::Context<'_>) -> ::std::task::Poll<()> {
            self.$io.poll_closed(cx)
        }
    };
    (@poll_handshake $io:ident) => {
        fn poll_handshake(
            &mut self,
            cx: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            self.$io.poll_handshake(cx)
        }
    };
    (@socket $io:ident) => {
        fn socket(&self) -> Option<&::tokio::net::TcpStream> {
            self.$io.socket()
        }
    };
    (@moved $io:ident) => {
        fn moved(&mut self, received: u64, sent: u64) {
            self.$io.moved(received, sent);
        }
    };
    (@ended $io:ident) => {
        fn ended(&mut self) {
            self.$io.ended();
        }
    };
    (@deny $io:ident) => {
        fn deny(&mut self, cx: &mut ::std::task::Context<'_>) {
            self.$io.deny(cx);
        }
    };
}

/// Has a transport write as the one in its field `$io` does. With a third name, that method of it is given the pieces
/// that were to be written, and what the other transport made of them, which it gives back.
#[macro_export]
macro_rules! forward_write {
    ($transport:ty, $io:tt $(, $written:ident)?) => {
        impl ::tokio::io::AsyncWrite for $transport {
            fn poll_write(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                let done = ::std::pin::Pin::new(&mut self.$io).poll_write(cx, buf);
                $(let done = self.$written(&[::std::io::IoSlice::new(buf)], done);)?
                done
            }

            fn poll_write_vectored(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bufs: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                let done = ::std::pin::Pin::new(&mut self.$io).poll_write_vectored(cx, bufs);
                $(let done = self.$written(bufs, done);)?
                done
            }

            fn is_write_vectored(&self) -> bool {
                self.$io.is_write_vectored()
            }

            fn poll_flush(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.$io).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.$io).poll_shutdown(cx)
            }
        }
    };
}
