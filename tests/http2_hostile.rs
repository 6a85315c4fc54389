//! HTTP/2 that no library would send: malformed requests, broken frames, floods. Nothing of it reaches an upstream, and
//! it ends at most its own connection.

mod floods;
mod malformed;

use crate::support::bootstrap::Pieces;
use crate::support::client::fetch;
use crate::support::frames::{END_STREAM, Frame, Frames, GOAWAY, HEADERS, RST_STREAM};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::http1;
use std::net::SocketAddr;
use std::time::Duration;

/// Both ways in which bytes may arrive; a codec must not care.
const SPLITS: [Split; 2] = [Split::Whole, Split::Bytes];

/// A request as every client sends it.
const GOOD: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/good"), (":authority", "a")];

/// What the proxy did with a connection or a stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
    /// A response.
    Answered,
    /// Nothing within the time.
    Silence,
}

async fn plain_proxy() -> Running {
    proxy(Pieces::default().yaml()).upstream(http1()).run().await
}

/// The first thing that the proxy has to say about `stream`, or about the connection.
async fn outcome(frames: &mut Frames, stream: u32) -> Outcome {
    let wait = async {
        while let Ok(Some(frame)) = frames.next().await {
            if let Some(outcome) = said(&frame, stream) {
                return outcome;
            }
        }
        Outcome::Closed
    };
    tokio::time::timeout(Duration::from_secs(2), wait).await.unwrap_or(Outcome::Silence)
}

fn said(frame: &Frame, stream: u32) -> Option<Outcome> {
    match frame.kind {
        GOAWAY if frame.error_code() != 0 => Some(Outcome::GoAway(frame.error_code())),
        RST_STREAM if frame.stream == stream => Some(Outcome::Reset(frame.error_code())),
        HEADERS if frame.stream == stream => Some(Outcome::Answered),
        _ => None,
    }
}

/// That the proxy still serves, on a connection that did nothing wrong.
async fn serves(to: SocketAddr) {
    let mut frames = Frames::connect(to, Split::Whole).await.expect("the proxy accepts");
    frames.headers(1, END_STREAM, GOOD).await.expect("the proxy reads");
    assert_eq!(outcome(&mut frames, 1).await, Outcome::Answered);
    let response = fetch(to, "GET /good HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(response.status(), 200);
}
