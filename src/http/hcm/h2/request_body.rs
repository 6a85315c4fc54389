use std::cell::Cell;
use std::rc::Rc;

use h2::RecvStream;
use http::HeaderMap;
use nuncio_filter_api::BodyError;
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::lost::reset_details;
use crate::h2::{BodyEvents, fields_size};
use crate::hcm::stream::DISCONNECTED;

/// A request body, as its stream sees it.
pub(super) struct RequestBody {
    pub(super) info: Rc<StreamInfo>,
    pub(super) abandoned: Abandoned,
}

/// What is left of a request body that nobody wants.
pub(super) type Abandoned = Rc<Cell<Option<RecvStream>>>;

impl BodyEvents for RequestBody {
    fn data(&self, len: usize) {
        self.info.bytes_received.set(self.info.bytes_received.get() + len as u64);
    }

    fn trailers(&self, trailers: &HeaderMap) {
        if self.info.is_logged.get() {
            let fields = &self.info.decompressed_header_bytes_received;
            fields.set(fields.get() + fields_size(trailers));
        }
    }

    fn ended(&self) {
        self.info.times.request_end.set(Some(Instant::now()));
    }

    fn error(&self, error: &h2::Error) -> BodyError {
        if error.is_reset() && error.is_remote() {
            BodyError::new(ResponseFlag::DownstreamRemoteReset, reset_details(error.reason()))
        } else if error.is_io() || error.is_go_away() {
            BodyError::new(ResponseFlag::DownstreamConnectionTermination, DISCONNECTED)
        } else {
            BodyError::new(ResponseFlag::DownstreamProtocolError, "http2.violation.of.messaging.rule")
        }
    }

    fn abandoned(&self, stream: RecvStream) {
        self.abandoned.set(Some(stream));
    }
}
