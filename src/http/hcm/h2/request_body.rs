use std::cell::Cell;
use std::rc::Rc;

use h2::RecvStream;
use nuncio_filter_api::BodyError;
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use tokio::time::Instant;

use crate::h2::BodyEvents;

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

    fn ended(&self) {
        self.info.times.request_end.set(Some(Instant::now()));
    }

    fn error(&self, error: &h2::Error) -> BodyError {
        if error.is_reset() && error.is_remote() {
            BodyError::new(ResponseFlag::DownstreamRemoteReset, "downstream_remote_disconnect")
        } else if error.is_io() || error.is_go_away() {
            BodyError::new(ResponseFlag::DownstreamConnectionTermination, "downstream_remote_disconnect")
        } else {
            BodyError::new(ResponseFlag::DownstreamProtocolError, "http2.violation.of.messaging.rule")
        }
    }

    fn abandoned(&self, stream: RecvStream) {
        self.abandoned.set(Some(stream));
    }
}
