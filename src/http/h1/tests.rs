mod bench;
mod client;
mod pipe;
mod requests;
mod responses;
mod round_trips;
mod server;

use nuncio_filter_api::Response;

use super::{Persistence, RespondError, ServerConnection};

/// Responds with a whole `response`, which a test has no further use for.
async fn respond(
    connection: &ServerConnection,
    response: Response,
    persistence: Persistence,
) -> Result<Persistence, RespondError> {
    connection.respond(&response.head, response.body, persistence).await
}
