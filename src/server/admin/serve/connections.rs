//! Which connections there are, and which of them gives way when there are too many.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::AnswerBody;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Connections(RefCell<Vec<Rc<Activity>>>);

/// What is known of a connection.
pub(super) struct Activity {
    /// Requests whose answers are not made yet.
    requests: Cell<u32>,
    /// When something last came or went.
    last: Cell<Instant>,
    gives_way: Notify,
}

/// A connection, among the others while it lives.
pub(super) struct Connection {
    all: Rc<Connections>,
    pub(super) activity: Rc<Activity>,
}

impl Connections {
    /// Adds a connection. Where there are `most`, another gives way to it: so nobody who merely holds connections keeps
    /// others out.
    pub(super) fn open(self: &Rc<Self>, most: usize) -> Connection {
        let activity = Activity { requests: Cell::new(0), last: Cell::new(Instant::now()), gives_way: Notify::new() };
        let activity = Rc::new(activity);
        let mut open = self.0.borrow_mut();
        if open.len() >= most
            && let Some((at, _)) = open.iter().enumerate().min_by_key(|(_, other)| other.worth())
        {
            open.swap_remove(at).gives_way.notify_one();
        }
        open.push(activity.clone());
        Connection { all: self.clone(), activity }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl Connection {
    /// Until it is to give way to another.
    pub(super) async fn gives_way(&self) {
        self.activity.gives_way.notified().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.activity));
    }
}

impl Activity {
    /// The least gives way first: those without a request, and of these the one that was longest idle.
    fn worth(&self) -> (bool, Instant) {
        (self.requests.get() > 0, self.last.get())
    }

    /// Something came or went.
    pub(super) fn moves(&self) {
        self.last.set(Instant::now());
    }

    /// A request came.
    pub(super) fn request(self: &Rc<Self>) -> UnderWay {
        self.requests.set(self.requests.get() + 1);
        UnderWay(self.clone())
    }
}

/// A request, until its answer is made.
pub(super) struct UnderWay(Rc<Activity>);

impl UnderWay {
    /// The body of its answer.
    pub(super) fn body(self, body: AnswerBody) -> BodyUnderWay {
        BodyUnderWay { body, _request: self }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
        self.0.moves();
    }
}

/// The body of an answer, whose request is under way as long as there may be more of it.
pub(super) struct BodyUnderWay {
    body: AnswerBody,
    _request: UnderWay,
}

impl Body for BodyUnderWay {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn gives_way(connection: &Connection) -> bool {
        tokio::time::timeout(Duration::ZERO, connection.gives_way()).await.is_ok()
    }

    #[tokio::test]
    async fn whoever_is_idle_longest_gives_way() {
        let all = Rc::new(Connections::default());
        let start = Instant::now();
        let at = |second| {
            let connection = all.open(3);
            connection.activity.last.set(start + Duration::from_secs(second));
            connection
        };
        let busy = at(0);
        let request = busy.activity.request();
        let (first, second) = (at(2), at(1));
        let third = at(3);
        assert!(gives_way(&second).await);
        assert!(!gives_way(&first).await && !gives_way(&busy).await, "one was enough");
        drop(request);
        busy.activity.last.set(start + Duration::from_secs(4));
        let fourth = at(5);
        assert!(gives_way(&first).await && !gives_way(&busy).await);
        drop((busy, first, second, third));
        assert!(!all.is_empty());
        drop(fourth);
        assert!(all.is_empty());
    }
}
