//! What the worker's sweep knows about one client connection, and how it ends it.
//!
//! The connection's own code only stores numbers here; the sweep compares them with the limits twice a second. So
//! idle, header and write timeouts cost a request nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;

use crate::clock::Coarse;
use crate::worker::MAX_STREAMS;

/// HTTP/1: a connection without a request for so long keeps nothing but its stream. Shorter than a client needs to read a page,
/// longer than the pauses between the requests of a busy one.
const REST_AFTER: Duration = Duration::from_secs(1);

/// HTTP/2: who is asked to leave has so long to hear it. A client that hears it opens no more streams.
const LEAVING: Duration = Duration::from_secs(5);

/// HTTP/2: requests of a connection that its client may cancel before they have a status (CVE-2023-44487): each costs a
/// connection to a backend. When there are more, and they are half of its requests, the connection ends.
const MAX_CANCELLED: u32 = 100;

/// Limits of a client connection in time.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTimeouts {
    /// Without a request (nginx `keepalive_timeout`).
    pub idle: Duration,
    /// From the first byte of a request's head to its last (nginx `client_header_timeout`).
    pub header: Duration,
    /// Without the client taking a byte while there are some for it (nginx `send_timeout`); in HTTP/2, a frame of any
    /// answer. When it takes others, the connection finishes, and is cut after as long again.
    pub write: Duration,
}

/// What a connection has been asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Nothing.
    None = 0,
    /// Finish what is in flight, then close.
    Finish = 1,
    /// Close now.
    Cut = 2,
}

/// HTTP/1: whether a connection keeps what it needs to serve requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// It does.
    Awake = 0,
    /// It is asked to let it go.
    Asked = 1,
    /// It waits for bytes and keeps nothing else.
    Resting = 2,
}

/// A request's body that the connection's parser may still have to read. Until it is dropped the connection does not rest.
#[derive(Debug)]
pub struct Unread(Arc<Watch>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.store(self.0.unread.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// Shared by a connection's parts and its worker's sweep. All on one thread; atomic only because an upgraded
/// connection's type must be `Send`.
#[derive(Debug)]
pub struct Watch {
    /// The port that accepted the connection.
    pub port: u16,
    multiplexed: bool,
    active: AtomicU32,
    unread: AtomicU32,
    rest: AtomicU8,
    closing: AtomicBool,
    /// HTTP/1: whether there are bytes that nobody reads on from, so that nobody sees the stream's end either.
    unwatched: AtomicBool,
    look: AtomicBool,
    /// Requests so far, and those that the client cancelled before they had a status.
    begun: AtomicU32,
    cancelled: AtomicU32,
    tunnel: AtomicU8,
    quiet_since: AtomicU32,
    head_since: AtomicU32,
    stalled_since: AtomicU32,
    /// HTTP/2: since when data of answers waits for the client, 0 where none does; and when some last went on.
    untaken: Box<[AtomicU32]>,
    taken: AtomicU32,
    /// The place that was freed last: with one response at a time it is free again.
    freed: AtomicU32,
    signal: AtomicU8,
    /// Since when it is asked to end.
    signalled_since: AtomicU32,
    waker: AtomicWaker,
    /// Whether the waker was used up since it was last registered.
    woken: AtomicBool,
}

/// Data of a response on its way to the client. Where it waits for its client it does so until it is dropped, which is when it was written.
#[derive(Debug)]
pub struct Outgoing {
    data: Bytes,
    _waiting: Option<Waiting>,
}

/// The place of data that waits for its client.
#[derive(Debug)]
struct Waiting {
    place: usize,
    watch: Arc<Watch>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.watch.answer_goes_on(self.place);
    }
}

impl From<Bytes> for Outgoing {
    fn from(data: Bytes) -> Self {
        Self { data, _waiting: None }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

impl Watch {
    /// A connection that was just accepted on `port`; `multiplexed` is HTTP/2.
    pub fn new(port: u16, multiplexed: bool) -> Self {
        Self {
            port,
            multiplexed,
            active: AtomicU32::new(0),
            unread: AtomicU32::new(0),
            rest: AtomicU8::new(Rest::Awake as u8),
            closing: AtomicBool::new(false),
            unwatched: AtomicBool::new(false),
            look: AtomicBool::new(false),
            begun: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            tunnel: AtomicU8::new(0),
            quiet_since: AtomicU32::new(Coarse::now().0),
            head_since: AtomicU32::new(0),
            stalled_since: AtomicU32::new(0),
            untaken: (0..if multiplexed { MAX_STREAMS } else { 0 }).map(|_| AtomicU32::new(0)).collect(),
            taken: AtomicU32::new(0),
            freed: AtomicU32::new(0),
            signal: AtomicU8::new(Signal::None as u8),
            signalled_since: AtomicU32::new(0),
            waker: AtomicWaker::new(),
            woken: AtomicBool::new(true),
        }
    }

    /// Whether it is HTTP/2.
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// A request begins.
    pub fn request_begins(&self) {
        self.active.store(self.active.load(Relaxed) + 1, Relaxed);
        self.begun.store(self.begun.load(Relaxed).saturating_add(1), Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// A request and its response are over.
    pub fn request_ends(&self) {
        self.active.store(self.active.load(Relaxed).saturating_sub(1), Relaxed);
        self.quiet_since.store(Coarse::now().0, Relaxed);
    }

    /// The client cancelled a request that had no status yet.
    pub fn request_cancelled(&self) {
        self.cancelled.store(self.cancelled.load(Relaxed).saturating_add(1), Relaxed);
    }

    /// Whether the client cancels so many of its requests (HTTP/2) that it gets no more.
    pub fn cancels_too_much(&self) -> bool {
        let cancelled = self.cancelled.load(Relaxed);
        let half = self.begun.load(Relaxed).div_ceil(2);
        self.multiplexed && cancelled > MAX_CANCELLED && cancelled >= half
    }

    /// Whether a request is in flight.
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    /// A request has a body that is not complete yet.
    pub fn body_begins(self: &Arc<Self>) -> Unread {
        self.unread.store(self.unread.load(Relaxed) + 1, Relaxed);
        Unread(self.clone())
    }

    /// No more is served on it: it closes.
    pub fn closes(&self) {
        self.closing.store(true, Relaxed);
    }

    /// Whether it can wait for its next request, or for the rest of a head that does not come, with its stream alone.
    pub fn may_rest(&self) -> bool {
        let busy = self.multiplexed
            || self.is_active()
            || self.unread.load(Relaxed) > 0
            || self.stalled_since.load(Relaxed) != 0
            || self.closing.load(Relaxed)
            || self.is_tunnel()
            || self.asked() != Signal::None;
        let head = self.head_since.load(Relaxed);
        !busy && older(&self.quiet_since, REST_AFTER) && (head == 0 || older(&self.head_since, REST_AFTER))
    }

    /// Asks the connection to let go of all but its stream.
    pub fn ask_to_rest(&self) {
        if self.rest.load(Relaxed) == Rest::Awake as u8 {
            self.rest.store(Rest::Asked as u8, Relaxed);
            self.wake();
        }
    }

    /// Whether it was asked to rest. What came meanwhile takes the wish back.
    pub fn is_to_rest(&self) -> bool {
        if self.rest.load(Relaxed) != Rest::Asked as u8 {
            return false;
        }
        let rests = self.may_rest();
        self.rest.store(if rests { Rest::Resting as u8 } else { Rest::Awake as u8 }, Relaxed);
        rests
    }

    /// It waits for bytes alone from here on; `head` says whether a part of a request's head is there.
    pub fn rests(&self, head: bool) {
        self.rest.store(Rest::Resting as u8, Relaxed);
        match head {
            false => self.head_since.store(0, Relaxed),
            true => self.bytes_came(),
        }
    }

    /// It is served again.
    pub fn awakes(&self) {
        self.rest.store(Rest::Awake as u8, Relaxed);
    }

    /// The connection became a tunnel; its own code keeps its time from here on.
    pub fn becomes_tunnel(&self) {
        self.tunnel.store(1, Relaxed);
        self.stalled_since.store(0, Relaxed);
    }

    /// Whether it became a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed) != 0
    }

    /// A read gave bytes, or it waits for some and would see the end.
    pub fn read_waits(&self, waits: bool) {
        self.unwatched.store(!waits, Relaxed);
    }

    /// Has the connection look whether its client is still there, where a request is under way and nobody reads.
    pub fn look_after_client(&self) {
        let reads = self.multiplexed || self.is_tunnel() || self.unread.load(Relaxed) > 0;
        if !reads && self.is_active() && self.unwatched.load(Relaxed) {
            self.look.store(true, Relaxed);
            self.wake();
        }
    }

    /// Whether it is to look for its client now.
    pub fn is_to_look(&self) -> bool {
        self.look.load(Relaxed) && self.look.swap(false, Relaxed)
    }

    /// Bytes came from the client.
    pub fn bytes_came(&self) {
        if !self.multiplexed && !self.is_active() && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(Coarse::now().0, Relaxed);
        }
    }

    /// The client took bytes.
    pub fn bytes_left(&self) {
        if self.stalled_since.load(Relaxed) != 0 {
            self.stalled_since.store(0, Relaxed);
        }
    }

    /// There are bytes that the client does not take.
    pub fn write_stalls(&self) {
        if self.stalled_since.load(Relaxed) == 0 {
            self.stalled_since.store(Coarse::now().0, Relaxed);
        }
    }

    /// Whether something of a response waits to be written.
    pub fn has_unwritten(&self) -> bool {
        self.stalled_since.load(Relaxed) != 0 || self.untaken.iter().any(|since| since.load(Relaxed) != 0)
    }

    /// The same data, which in HTTP/2 waits for the client from here on: its flow control stalls no write. What is sent is
    /// dropped once it is written, also the last of an answer, which hyper hands over before there is room for all of it.
    pub fn until_taken(self: &Arc<Self>, data: Bytes) -> Outgoing {
        Outgoing { data, _waiting: self.answer_waits() }
    }

    /// `None` where more waits than there are streams: what has a place is watched.
    fn answer_waits(self: &Arc<Self>) -> Option<Waiting> {
        if !self.multiplexed {
            return None;
        }
        let now = Coarse::now().0;
        self.taken.store(now, Relaxed);
        let is_free = |place: &usize| self.untaken.get(*place).is_some_and(|since| since.load(Relaxed) == 0);
        let freed = Some(self.freed.load(Relaxed) as usize).filter(is_free);
        let place = freed.or_else(|| (0..self.untaken.len()).find(is_free))?;
        self.untaken[place].store(now, Relaxed);
        Some(Waiting { place, watch: self.clone() })
    }

    fn answer_goes_on(&self, place: usize) {
        self.untaken[place].store(0, Relaxed);
        self.freed.store(u32::try_from(place).unwrap_or(0), Relaxed);
        self.taken.store(Coarse::now().0, Relaxed);
    }

    /// Whether it was asked to leave and did not hear it (HTTP/2, RFC 9113, 6.8: after GOAWAY no more streams begin; in HTTP/1.1
    /// the connection ends by itself). hyper waits for the answer to its ping before it refuses more, however long that takes.
    pub fn overstays(&self) -> bool {
        self.multiplexed && older(&self.signalled_since, LEAVING)
    }

    /// Whether the client takes nothing of an answer, while others may go on: its next requests belong elsewhere.
    pub fn is_stalled(&self, limits: &ConnectionTimeouts) -> bool {
        self.untaken.iter().any(|since| older(since, limits.write))
    }

    /// Whether it has been without a request for as long as it may be: it finishes, so that the client learns that a request
    /// which crosses the end was not taken (GOAWAY, close_notify).
    pub fn is_idle(&self, limits: &ConnectionTimeouts) -> bool {
        !self.is_tunnel()
            && !self.is_active()
            && self.head_since.load(Relaxed) == 0
            && self.stalled_since.load(Relaxed) == 0
            && self.untaken.iter().all(|since| since.load(Relaxed) == 0)
            && older(&self.quiet_since, limits.idle)
    }

    /// Whether a limit is exceeded.
    pub fn is_overdue(&self, limits: &ConnectionTimeouts) -> bool {
        if self.is_tunnel() {
            return false;
        }
        if self.cancels_too_much() && older(&self.signalled_since, LEAVING) {
            return true;
        }
        let waits = self.untaken.iter().any(|since| since.load(Relaxed) != 0);
        // Answers that do go on have had as long again to end.
        let untaken = (older(&self.taken, limits.write) && waits)
            || self.untaken.iter().any(|since| older(since, limits.write * 2));
        if untaken || older(&self.stalled_since, limits.write) {
            return true;
        }
        if self.is_active() || waits || self.stalled_since.load(Relaxed) != 0 {
            return false;
        }
        match self.head_since.load(Relaxed) {
            0 => self.overstays() || older(&self.quiet_since, limits.idle + LEAVING),
            _ => older(&self.head_since, limits.header),
        }
    }

    /// Asks the connection to end; a stronger wish is never weakened. Whether this was asked for the first time.
    pub fn signal(&self, signal: Signal) -> bool {
        let news = self.signal.load(Relaxed) < signal as u8;
        if news {
            self.signalled_since.store(Coarse::now().0, Relaxed);
            self.signal.store(signal as u8, Relaxed);
            self.wake();
        }
        news
    }

    fn wake(&self) {
        self.woken.store(true, Relaxed);
        self.waker.wake();
    }

    /// Registers this task's waker where none is registered; a task's waker stays the same as long as it lives.
    pub fn stay_registered(&self, waker: &std::task::Waker) {
        if self.woken.load(Relaxed) {
            self.woken.store(false, Relaxed);
            self.register(waker);
        }
    }

    /// What has been asked.
    pub fn asked(&self) -> Signal {
        match self.signal.load(Relaxed) {
            0 => Signal::None,
            1 => Signal::Finish,
            _ => Signal::Cut,
        }
    }

    /// Waits until it is to be cut.
    pub async fn cut(&self) {
        std::future::poll_fn(|cx| {
            self.register(cx.waker());
            if self.asked() == Signal::Cut { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Wakes this task when something is asked.
    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }
}

fn older(since: &AtomicU32, limit: Duration) -> bool {
    match since.load(Relaxed) {
        0 => false,
        tick => Coarse(tick).older_than(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionTimeouts = ConnectionTimeouts {
        idle: Duration::from_secs(2),
        header: Duration::from_secs(1),
        write: Duration::from_secs(1),
    };

    fn pass(duration: Duration) {
        for _ in 0..duration.as_millis() / crate::clock::TICK.as_millis() {
            Coarse::advance();
        }
    }

    #[test]
    fn an_idle_connection_is_overdue_after_its_limit_and_a_busy_one_is_not() {
        let watch = Watch::new(80, false);
        watch.request_begins();
        pass(Duration::from_secs(5));
        assert!(!watch.is_overdue(&LIMITS));
        watch.request_ends();
        pass(Duration::from_secs(1));
        assert!(!watch.is_idle(&LIMITS));
        pass(Duration::from_secs(1));
        // It is told first, and cut when it does not leave.
        assert_eq!((watch.is_idle(&LIMITS), watch.is_overdue(&LIMITS)), (true, false));
        pass(LEAVING);
        assert!(watch.is_overdue(&LIMITS));
    }

    #[test]
    fn who_cancels_many_requests_and_half_of_them_gets_no_more_and_is_cut_when_it_stays() {
        let watch = Watch::new(80, true);
        let request = |cancelled: bool| {
            watch.request_begins();
            if cancelled {
                watch.request_cancelled();
            }
            watch.request_ends();
        };
        (0..MAX_CANCELLED).for_each(|_| request(true));
        assert!(!watch.cancels_too_much());
        (0..MAX_CANCELLED * 2).for_each(|_| request(false));
        (0..MAX_CANCELLED - 1).for_each(|_| request(true));
        assert!(!watch.cancels_too_much(), "less than half of them");
        request(true);
        assert!(watch.cancels_too_much());
        let limits = ConnectionTimeouts { idle: Duration::from_secs(60), ..LIMITS };
        request(true);
        watch.request_begins();
        assert!(watch.signal(Signal::Finish) && !watch.signal(Signal::Finish));
        pass(LEAVING - crate::clock::TICK);
        assert!(!watch.is_overdue(&limits));
        pass(crate::clock::TICK);
        assert!(watch.is_overdue(&limits), "also with a request under way");
    }

    #[test]
    fn a_head_that_trickles_in_is_overdue_before_the_idle_limit() {
        let watch = Watch::new(80, false);
        watch.bytes_came();
        pass(Duration::from_secs(1));
        watch.bytes_came();
        assert!(watch.is_overdue(&LIMITS));
    }

    #[test]
    fn a_client_that_takes_nothing_is_overdue_even_in_a_request() {
        let watch = Watch::new(80, false);
        watch.request_begins();
        watch.write_stalls();
        pass(Duration::from_secs(1));
        assert!(watch.is_overdue(&LIMITS));
        watch.bytes_left();
        assert!(!watch.is_overdue(&LIMITS));
    }

    #[test]
    fn a_client_that_takes_nothing_of_any_answer_is_overdue_and_one_whose_backend_is_slow_is_not() {
        let watch = Arc::new(Watch::new(80, true));
        let [one, other] = [(), ()].map(|()| {
            watch.request_begins();
            watch.answer_waits().unwrap()
        });
        pass(Duration::from_millis(500));
        drop(one);
        pass(Duration::from_millis(500));
        assert!(!watch.is_overdue(&LIMITS));
        pass(Duration::from_millis(500));
        assert!(watch.is_overdue(&LIMITS));
        drop(other);
        pass(Duration::from_secs(5));
        assert!(!watch.is_overdue(&LIMITS));
    }

    #[test]
    fn an_answer_that_goes_on_hides_none_that_is_not_taken() {
        let watch = Arc::new(Watch::new(80, true));
        watch.request_begins();
        let held = watch.answer_waits().unwrap();
        for passed in 1..4 {
            pass(Duration::from_millis(500));
            drop(watch.answer_waits().unwrap());
            assert_eq!((watch.is_stalled(&LIMITS), watch.is_overdue(&LIMITS)), (passed >= 2, false), "{passed}");
        }
        pass(Duration::from_millis(500));
        drop(watch.answer_waits().unwrap());
        assert!(watch.is_overdue(&LIMITS));
        drop(held);
        assert!(!watch.is_stalled(&LIMITS) && !watch.is_overdue(&LIMITS));
    }

    #[test]
    fn who_does_not_leave_is_overdue_once_it_has_taken_what_was_under_way() {
        let limits = ConnectionTimeouts { idle: Duration::from_secs(60), write: Duration::from_secs(60), ..LIMITS };
        let watch = Arc::new(Watch::new(80, true));
        watch.request_begins();
        let data = watch.until_taken(Bytes::from_static(b"data"));
        watch.signal(Signal::Finish);
        pass(LEAVING - crate::clock::TICK);
        assert!(!watch.overstays());
        pass(crate::clock::TICK);
        assert_eq!((watch.overstays(), watch.is_overdue(&limits)), (true, false));
        watch.request_ends();
        assert!(!watch.is_overdue(&limits));
        drop(data);
        assert!(watch.is_overdue(&limits));
    }

    #[test]
    fn more_answers_than_streams_have_no_place() {
        let watch = Arc::new(Watch::new(80, true));
        let mut waiting: Vec<_> = (0..MAX_STREAMS).map(|_| watch.answer_waits().unwrap()).collect();
        assert!(watch.answer_waits().is_none());
        drop(waiting.swap_remove(7));
        assert!(watch.answer_waits().is_some());
    }

    #[test]
    fn a_head_that_is_arriving_has_its_own_limit_and_not_that_of_idleness() {
        let limits = ConnectionTimeouts { header: Duration::from_secs(2), ..LIMITS };
        let watch = Watch::new(80, false);
        pass(Duration::from_millis(1500));
        watch.bytes_came();
        pass(Duration::from_millis(1500));
        assert!(!watch.is_overdue(&limits));
        pass(Duration::from_millis(500));
        assert!(watch.is_overdue(&limits));
    }

    #[test]
    fn a_stronger_wish_is_never_weakened() {
        let watch = Watch::new(80, false);
        watch.signal(Signal::Cut);
        watch.signal(Signal::Finish);
        assert_eq!(watch.asked(), Signal::Cut);
    }
}
