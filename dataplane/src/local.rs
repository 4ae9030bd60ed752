//! Running hyper's tasks on the worker's own thread.

use std::future::Future;

/// Spawns on the current worker; nothing ever moves to another thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
