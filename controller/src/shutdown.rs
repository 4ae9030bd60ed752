//! One request to stop, heard by every task.

use tokio::sync::watch;

/// Hears the request to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Asks everyone to stop; dropping it asks too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// A new pair.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks everyone to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns once the request was made.
    pub async fn requested(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await; // an error means that the trigger is gone: stop too
    }
}
