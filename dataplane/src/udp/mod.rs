//! UDP listeners.
//!
//! The datagrams of one client (address and port) to one listener are a session: the first chooses a backend and an
//! endpoint of it, and a socket of the session's own is connected to that endpoint, so that the kernel sorts out whose
//! answers are whose and tells when an endpoint refuses. A session lives on the worker to whose socket the kernel gives
//! the client's datagrams, which is always the same one.
//!
//! Nothing is queued: what a socket does not take at once is lost, as it would be in a router.
//!
//! Answers come from the address that the system chooses for their way back. Where a host has several addresses of a
//! family, that may be another one than the client sent to; a pod has one.

mod bounded;
mod session;

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use self::bounded::Bounded;
pub use self::session::Session;
use self::session::{Failure, Key};
use crate::reason::Reason;
use crate::route::RouteTable;
use crate::worker::Worker;

/// Room for the largest datagram.
const LARGEST: usize = 65_535;
/// Datagrams of one socket that are handled before other sockets get a turn.
const AT_ONCE: usize = 32;
/// While the data plane drains, a session that is quiet for so long is over: its answers have had their time.
const QUIET: Duration = Duration::from_secs(1);

/// The sessions of one worker.
#[derive(Debug)]
pub struct Sessions {
    held: RefCell<Bounded<Key, Rc<Session>>>,
    /// One for all sockets: nothing stays in it. Empty until there is a UDP listener.
    buffer: RefCell<Box<[u8]>>,
    /// Makes a client's draw among backends from its address, so that each has the same backend whenever it comes.
    draws: RandomState,
    idle: Duration,
}

impl Sessions {
    /// None so far, and never more than `most`; each ends when nothing moved for `idle`.
    pub fn new(most: usize, idle: Duration) -> Self {
        Self { held: RefCell::new(Bounded::new(most)), buffer: RefCell::default(), draws: RandomState::new(), idle }
    }

    /// Ends the sessions that are idle, and those whose route or endpoint is gone. Called once per tick.
    pub fn sweep(&self, worker: &Worker) {
        let idle = if worker.is_finishing() { self.idle.min(QUIET) } else { self.idle };
        let state = worker.state();
        self.end(worker, None, |_, session| session.is_idle(idle) || !session.is_current(&state.table));
    }

    /// Ends all sessions.
    pub fn cut(&self, worker: &Worker) {
        self.end(worker, None, |_, _| true);
    }

    fn end(&self, worker: &Worker, reason: Option<Reason>, concerns: impl FnMut(&Key, &Rc<Session>) -> bool) {
        let ended = self.held.borrow_mut().take(concerns);
        ended.iter().for_each(|session| over(worker, session, reason));
    }

    fn end_one(&self, worker: &Worker, session: &Rc<Session>, reason: Option<Reason>) {
        let ended = self.held.borrow_mut().take_one(&session.key, |held| Rc::ptr_eq(held, session));
        if let Some(session) = ended {
            over(worker, &session, reason);
        }
    }
}

/// Receives the datagrams of a port until `closed`, and ends the port's sessions with it.
pub async fn receive(worker: Rc<Worker>, port: u16, listener: UdpSocket, mut closed: oneshot::Receiver<()>) {
    let listener = Rc::new(listener);
    worker.udp.buffer.replace(vec![0; LARGEST].into());
    loop {
        tokio::select! {
            _ = &mut closed => break,
            ready = listener.readable() => if let Err(error) = ready {
                tracing::error!(port, %error, "cannot receive datagrams");
                break;
            },
        }
        let mut rest = AT_ONCE;
        while rest > 0 {
            rest -= 1;
            let mut buffer = worker.udp.buffer.borrow_mut();
            match listener.try_recv_from(&mut buffer) {
                Ok((length, client)) => forward(&worker, &listener, Key { port, client }, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => tracing::debug!(port, %error, "a datagram is lost"),
            }
        }
        if rest == 0 {
            tokio::task::yield_now().await;
        }
    }
    worker.udp.end(&worker, None, |key, _| key.port == port);
}

/// Passes a client's datagram on, in a session that is there or in a new one.
fn forward(worker: &Rc<Worker>, listener: &Rc<UdpSocket>, key: Key, datagram: &[u8]) {
    let state = worker.state();
    let held = worker.udp.held.borrow_mut().get(&key).cloned();
    let (mut current, outdated) = match held {
        Some(session) if session.is_current(&state.table) => (Some(session), None),
        held => (None, held),
    };
    if let Some(session) = outdated {
        worker.udp.end_one(worker, &session, None);
    }
    // That an endpoint refuses is heard only when the next datagram is sent: that one has another try.
    for _ in 0..2 {
        let session = match current.take().map_or_else(|| open(worker, listener, key, &state.table), Ok) {
            Ok(session) => session,
            Err(reason) => {
                tracing::debug!(port = key.port, client = %key.client, reason = reason.as_str(), "a datagram is lost");
                break;
            }
        };
        match session.send(datagram) {
            Ok(()) => return,
            Err(Failure::Lost) => break,
            Err(Failure::Endpoint) => worker.udp.end_one(worker, &session, Some(Reason::ConnectFailed)),
        }
    }
    worker.stats.datagrams_dropped.add(1);
}

fn open(worker: &Rc<Worker>, listener: &Rc<UdpSocket>, key: Key, table: &RouteTable) -> Result<Rc<Session>, Reason> {
    if worker.is_finishing() {
        return Err(Reason::Unavailable);
    }
    let route = table.datagrams(key.port)?;
    let session = Rc::new(Session::open(key, route, worker.udp.draws.hash_one(key))?);
    worker.stats.sessions_opened.add(1);
    worker.stats.sessions_open.add(1);
    let evicted = worker.udp.held.borrow_mut().insert(key, session.clone());
    if let Some(evicted) = evicted {
        worker.stats.sessions_evicted.add(1);
        over(worker, &evicted, Some(Reason::Overloaded));
    }
    session.started(tokio::task::spawn_local(answer(worker.clone(), session.clone(), listener.clone())).abort_handle());
    Ok(session)
}

/// Passes the endpoint's answers on until the session ends, or the endpoint ends it.
async fn answer(worker: Rc<Worker>, session: Rc<Session>, listener: Rc<UdpSocket>) {
    session.answer(&listener, &worker.udp.buffer, || worker.stats.datagrams_dropped.add(1)).await;
    worker.udp.end_one(&worker, &session, Some(Reason::ConnectFailed));
}

/// Counts and logs a session that was taken from the others.
fn over(worker: &Worker, session: &Session, reason: Option<Reason>) {
    session.stop();
    worker.stats.sessions_open.sub(1);
    worker.session_over(session, reason);
}
