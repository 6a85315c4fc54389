//! Time-outs that are hardly ever reached.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use nuncio_http::timer::LazyTimer;
use tokio::time::{Instant, sleep_until};

/// Timers of a worker that wait for their next use. Setting one in the runtime and taking it out again costs more than
/// all else that a time-out needs; one that is used again for the same time-out stays set, and is only moved when it
/// fires too early.
#[derive(Default)]
pub(crate) struct Timers(RefCell<Vec<LazyTimer>>);

/// Waits for a deadline that its owner names at each poll.
pub(crate) struct Timer {
    timers: Rc<Timers>,
    timer: Option<LazyTimer>,
}

/// Timers kept for reuse.
const MAX_SPARE: usize = 1024;

/// Waits for this time, which may never come. For what is done seldom, and away from requests.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

// === impl Timers ===

impl Timers {
    /// A timer, which takes a spare one when it is first polled.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        Timer { timers: self.clone(), timer: None }
    }
}

// === impl Timer ===

impl Timer {
    /// Ready once `deadline` has passed.
    pub(crate) fn poll_reached(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| self.timers.0.borrow_mut().pop().unwrap_or_default());
        timer.poll_reached(Some(deadline), cx)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else { return };
        let mut spare = self.timers.0.borrow_mut();
        if spare.len() < MAX_SPARE {
            spare.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_used_again_waits_for_its_own_deadline() {
        let timers = Rc::new(Timers::default());
        let start = Instant::now();
        for (after, millis) in [(Duration::ZERO, 10), (Duration::from_millis(5), 50), (Duration::ZERO, 20)] {
            let begun = Instant::now();
            let mut first = timers.timer();
            let deadline = begun + Duration::from_millis(100);
            assert!(poll_fn(|cx| Poll::Ready(first.poll_reached(deadline, cx))).await.is_pending());
            drop(first);
            tokio::time::sleep(after).await;
            let deadline = Instant::now() + Duration::from_millis(millis);
            let mut second = timers.timer();
            poll_fn(|cx| second.poll_reached(deadline, cx)).await;
            assert_eq!(Instant::now(), deadline);
        }
        assert_eq!(timers.0.borrow().len(), 1);
        assert!(start.elapsed() < Duration::from_millis(100));
    }
}
