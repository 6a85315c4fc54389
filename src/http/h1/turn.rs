//! How much of a body a connection moves before others have their turn.

use std::pin::pin;
use std::task::Context;

/// As long as both peers keep up, a connection would go on for milliseconds while all others of its worker wait.
const MOST: usize = 256 * 1024;

/// What a connection has moved since it was woken.
#[derive(Debug, Default)]
pub(super) struct Turn {
    moved: usize,
}

impl Turn {
    /// So many bytes were written. True where that is enough: whoever asks is woken once the worker has looked for what
    /// else there is to do.
    pub(super) fn is_over(&mut self, written: usize, cx: &mut Context<'_>) -> bool {
        self.moved += written;
        self.moved >= MOST && pin!(tokio::task::yield_now()).poll(cx).is_pending()
    }
}
