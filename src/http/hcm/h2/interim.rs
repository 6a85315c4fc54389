//! Interim responses (1xx) on their way to the client.

use std::cell::Cell;

use bytes::Bytes;
use h2::server::SendResponse;
use nuncio_filter_api::ResponseHead;

/// An interim response on its way to the client.
pub(super) type Interim = Cell<Option<ResponseHead>>;

pub(super) fn send_interim(respond: &mut SendResponse<Bytes>, head: ResponseHead) {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    // It fails only where the stream has ended, of which whoever sends the response will learn.
    let _ = respond.send_informational(response);
}
