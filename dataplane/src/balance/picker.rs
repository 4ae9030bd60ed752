//! The balancers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use snapshot::Balancer;

use super::Endpoint;
use crate::random;
use crate::tick::Tick;

/// The endpoints among which one request may choose.
#[derive(Clone, Copy)]
pub(crate) struct Usable<'a> {
    pub(crate) endpoints: &'a [Arc<Endpoint>],
    pub(crate) tried: &'a [SocketAddr],
    pub(crate) now: Tick,
}

impl<'a> Usable<'a> {
    /// Whether it is in service and was not tried.
    pub(crate) fn admits(&self, endpoint: &Endpoint) -> bool {
        !endpoint.is_ejected(self.now) && !self.was_tried(endpoint)
    }

    fn was_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.contains(&endpoint.address())
    }

    /// The endpoint at a place that `draw` names.
    fn draw(&self, mut draw: impl FnMut() -> usize) -> Option<&'a Arc<Endpoint>> {
        let mut place = draw();
        for _ in 1..DRAWS {
            match self.endpoints.get(place) {
                Some(endpoint) if self.admits(endpoint) => return Some(endpoint),
                _ => place = draw(),
            }
        }
        self.from(place)
    }

    /// The first that is admitted from `start` on, else the first that was not tried: an ejected endpoint may have
    /// recovered, no endpoint certainly has not.
    fn from(&self, start: usize) -> Option<&'a Arc<Endpoint>> {
        let (before, after) = self.endpoints.split_at(start.min(self.endpoints.len()));
        let mut around = after.iter().chain(before);
        let untried = || after.iter().chain(before).find(|endpoint| !self.was_tried(endpoint));
        around.find(|endpoint| self.admits(endpoint)).or_else(untried)
    }
}

/// How often a place is drawn again because its endpoint is out. Drawing keeps the shares of the others even, which
/// going on to a neighbour would not.
const DRAWS: usize = 4;

/// An endpoint by this balancer, or `None` when every one was tried or there is none.
pub(crate) fn pick(balancer: Balancer, usable: &Usable<'_>, turn: &AtomicUsize) -> Option<Arc<Endpoint>> {
    let chosen = match (balancer, usable.endpoints) {
        (_, []) => None,
        (_, [_]) => usable.from(0),
        (Balancer::RoundRobin, endpoints) => usable.draw(|| turn.fetch_add(1, Relaxed) % endpoints.len()),
        (Balancer::LeastRequest, _) => better_of_two(usable, |endpoint| f64::from(endpoint.in_flight())),
        (Balancer::PeakEwma, _) => better_of_two(usable, |endpoint| endpoint.cost(usable.now)),
    };
    chosen.cloned()
}

/// The cheaper of two taken at random (power of two choices).
fn better_of_two<'a>(usable: &Usable<'a>, cost: impl Fn(&Endpoint) -> f64) -> Option<&'a Arc<Endpoint>> {
    let count = usable.endpoints.len() as u64;
    let one = usable.draw(|| random::below(count) as usize)?;
    let other = usable.draw(|| {
        let place = random::below(count) as usize;
        // Another place than that of `one`, wherever there is one.
        if Arc::ptr_eq(&usable.endpoints[place], one) { (place + 1) % usable.endpoints.len() } else { place }
    })?;
    Some(if cost(other) < cost(one) { other } else { one })
}
