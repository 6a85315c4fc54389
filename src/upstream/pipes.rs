//! Pipes of a worker that wait for their next use: making one costs three system calls.

use std::cell::RefCell;

use nuncio_net::Pipe;

/// Spare pipes.
#[derive(Debug, Default)]
pub(crate) struct Pipes(RefCell<Vec<Pipe>>);

/// Pipes kept for reuse; each is two descriptors.
const MAX_SPARE: usize = 32;

impl Pipes {
    /// An empty pipe; `None` where descriptors are short: bytes are copied then.
    pub(crate) fn take(&self) -> Option<Pipe> {
        self.0.borrow_mut().pop().or_else(|| Pipe::new().ok())
    }

    /// Keeps a pipe, if it is empty.
    pub(crate) fn give_back(&self, pipe: Option<Pipe>) {
        let mut spare = self.0.borrow_mut();
        if let Some(pipe) = pipe.filter(|pipe| pipe.held() == 0)
            && spare.len() < MAX_SPARE
        {
            spare.push(pipe);
        }
    }
}
