//! A timer whose deadline moves far more often than it is reached.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// Waits for a deadline that its owner names at each poll. The runtime's timer is set only where the deadline moves
/// forward of it, or when it fires too early: a connection that serves a request every millisecond under a time-out of
/// minutes sets it once in minutes.
#[derive(Default)]
pub struct LazyTimer {
    set: Option<Box<Set>>,
}

struct Set {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    waker: Waker,
}

impl LazyTimer {
    /// Ready once `deadline` has passed; `None` never is.
    pub fn poll_reached(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        match &mut self.set {
            // Its poll would find the same in ten times as many instructions.
            Some(set) if set.waits_until(deadline, cx) => Poll::Pending,
            Some(set) => set.poll_reached(deadline, cx),
            None => {
                let set = Set { sleep: Box::pin(sleep_until(deadline)), waker: cx.waker().clone() };
                self.set.insert(Box::new(set)).poll_reached(deadline, cx)
            }
        }
    }
}

impl Set {
    /// Whether it was polled already for the same task, and will fire by `deadline`.
    fn waits_until(&self, deadline: Instant, cx: &Context<'_>) -> bool {
        self.sleep.deadline() <= deadline && self.waker.will_wake(cx.waker()) && !self.sleep.is_elapsed()
    }

    fn poll_reached(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.clone_from(cx.waker());
        if self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        // A task whose reads are always ready has used up the runtime's budget by then: it would be told to wait, each time
        // anew, by a timer that has noted neither its deadline nor whom it is to wake.
        while Pin::new(&mut unconstrained(self.sleep.as_mut())).poll(cx).is_ready() {
            if self.sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_back_is_waited_for() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        let first = Some(start + Duration::from_millis(10));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_reached(first, cx))).await.is_pending());
        let later = Some(start + Duration::from_millis(50));
        poll_fn(|cx| timer.poll_reached(later, cx)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_forward_is_kept() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        let first = Some(start + Duration::from_secs(10));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_reached(first, cx))).await.is_pending());
        let sooner = Some(start + Duration::from_millis(5));
        poll_fn(|cx| timer.poll_reached(sooner, cx)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_set_by_a_task_without_budget_fires() {
        let (mut timer, mut is_first) = (LazyTimer::default(), true);
        let deadline = Some(Instant::now() + Duration::from_millis(10));
        poll_fn(|cx| {
            // As reads that are always ready use it up.
            while is_first && let Poll::Ready(budget) = tokio::task::coop::poll_proceed(cx) {
                budget.made_progress();
            }
            is_first = false;
            timer.poll_reached(deadline, cx)
        })
        .await;
    }
}
