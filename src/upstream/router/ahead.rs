use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use http_body::Frame;
use nuncio_filter_api::BodyError;
use nuncio_telemetry::StreamInfo;

/// What was read of a response while its client took nothing, in order.
pub(super) struct Ahead {
    pub(super) info: Rc<StreamInfo>,
    pub(super) frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// Bytes of data, with what it costs to keep them.
    pub(super) cost: usize,
}

/// What a frame costs beside its bytes, so that many small ones are bounded as well.
const FRAME: usize = 128;

impl Ahead {
    pub(super) fn new(info: Rc<StreamInfo>) -> Self {
        Self { info, frames: VecDeque::new(), cost: 0 }
    }

    pub(super) fn push(&mut self, frame: Result<Frame<Bytes>, BodyError>) {
        self.cost += cost(&frame);
        self.frames.push_back(frame);
    }

    pub(super) fn pop(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let frame = self.frames.pop_front()?;
        self.cost -= cost(&frame);
        Some(frame)
    }

    /// Bytes of data.
    pub(super) fn bytes(&self) -> u64 {
        (self.cost - self.frames.len() * FRAME) as u64
    }
}

fn cost(frame: &Result<Frame<Bytes>, BodyError>) -> usize {
    FRAME + frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::SystemTime;

    use nuncio_telemetry::{Address, ConnectionInfo};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_costs_more_than_its_bytes() {
        let (now, client): (_, Address) = (Instant::now(), "192.0.2.1:1".parse::<SocketAddr>().unwrap().into());
        let connection = Rc::new(ConnectionInfo::new(1, client.clone(), client, now));
        let info = StreamInfo::new(connection, now, SystemTime::UNIX_EPOCH);
        let mut ahead = Ahead::new(Rc::new(info));
        ahead.push(Ok(Frame::data(Bytes::from_static(b"abc"))));
        ahead.push(Ok(Frame::data(Bytes::from_static(b"d"))));
        assert_eq!((ahead.bytes(), ahead.cost), (4, 4 + 2 * FRAME));
        assert_eq!(ahead.pop().unwrap().unwrap().into_data().unwrap(), "abc");
        assert_eq!((ahead.bytes(), ahead.cost), (1, 1 + FRAME));
    }
}
