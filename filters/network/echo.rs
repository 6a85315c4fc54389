//! `envoy.filters.network.echo`: sends back what it receives.

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::{Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::extensions::filters::network::echo::v3::Echo as Proto;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.echo",
    config: "envoy.extensions.filters.network.echo.v3.Echo",
    lower,
};

/// Bytes read at once; one reader waits for its writer, so no more are ever held.
const BUFFER: usize = 16 * 1024;

struct Echo;

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto {} = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    Ok(Arc::new(Echo))
}

impl NetworkFilter for Echo {
    fn run(self: Arc<Self>, connection: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async move {
            // The connection is over either way, and there is nobody to tell of an error.
            let _ = echo(connection).await;
            Flow::Done
        })
    }

    fn is_terminal(&self) -> bool {
        true
    }
}

async fn echo(mut connection: Connection) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = connection.io.read(&mut buffer).await?;
        if read == 0 {
            return connection.io.shutdown().await;
        }
        connection.io.write_all(&buffer[..read]).await?;
    }
}
