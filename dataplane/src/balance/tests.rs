use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use http::StatusCode;
use snapshot::{Balancer, PassiveHealth};

use super::*;
use crate::tick::Tick;

const ALL: [Balancer; 3] = [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::PeakEwma];

fn addresses(count: u16) -> Vec<SocketAddr> {
    (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
}

fn endpoints(count: u16) -> Arc<[Arc<Endpoint>]> {
    renew(&[], &addresses(count))
}

fn now() -> Tick {
    Tick::now() + Duration::from_secs(100)
}

fn answered(millis: u64) -> Outcome {
    Outcome::Answered(StatusCode::OK, Duration::from_millis(millis))
}

fn health() -> PassiveHealth {
    PassiveHealth { consecutive_failures: 3, ejection_time: Duration::from_secs(10), max_ejected_percent: 50 }
}

#[test]
fn round_robin_takes_turns() {
    let endpoints = endpoints(3);
    let turn = AtomicUsize::new(usize::MAX - 1);
    let mut counts: HashMap<SocketAddr, usize> = HashMap::new();
    for _ in 0..9 {
        let usable = Usable { endpoints: &endpoints, tried: &[], now: now() };
        *counts.entry(pick(Balancer::RoundRobin, &usable, &turn).unwrap().address()).or_default() += 1;
    }
    assert!(counts.values().all(|&count| count >= 2), "{counts:?}");
}

#[test]
fn a_tried_endpoint_is_not_tried_again() {
    let endpoints = endpoints(4);
    let turn = AtomicUsize::new(0);
    for balancer in ALL {
        let mut tried = Vec::new();
        while let Some(next) = pick(balancer, &Usable { endpoints: &endpoints, tried: &tried, now: now() }, &turn) {
            assert!(!tried.contains(&next.address()));
            tried.push(next.address());
        }
        assert_eq!(tried.len(), 4);
    }
}

#[test]
fn least_request_avoids_the_busy_one() {
    let endpoints = endpoints(2);
    let _busy = Picked::new(endpoints[0].clone());
    for _ in 0..20 {
        let usable = Usable { endpoints: &endpoints, tried: &[], now: now() };
        let chosen = pick(Balancer::LeastRequest, &usable, &AtomicUsize::new(0)).unwrap();
        assert_eq!(chosen.address(), endpoints[1].address());
    }
}

#[test]
fn peak_ewma_prefers_the_fast_and_forgets_in_time() {
    let endpoints = endpoints(2);
    let now = now();
    endpoints[0].observe(answered(200), now);
    endpoints[1].observe(answered(10), now);
    assert!(endpoints[0].cost(now) > 10.0 * endpoints[1].cost(now));
    assert!(endpoints[0].cost(now + Duration::from_secs(60)) < 0.001);
    endpoints[1].observe(Outcome::Failed, now);
    assert!(endpoints[1].cost(now) > endpoints[0].cost(now), "a failure is not fast");
}

#[test]
fn in_flight_is_counted_until_the_end_and_over_renewals() {
    let before = endpoints(2);
    let picked = Picked::new(before[1].clone());
    let after = renew(&before, &addresses(3));
    assert_eq!(after[1].in_flight(), 1);
    assert!(Arc::ptr_eq(&before[1], &after[1]));
    drop(picked);
    assert_eq!(after[1].in_flight(), 0);
}

#[test]
fn failures_in_a_row_eject_longer_each_time() {
    let endpoints = endpoints(2);
    let fail = |now| (0..3).for_each(|_| judge(&endpoints[0], Outcome::Failed, &health(), &endpoints, now));
    let start = now();
    judge(&endpoints[0], Outcome::Failed, &health(), &endpoints, start);
    judge(&endpoints[0], Outcome::Failed, &health(), &endpoints, start);
    judge(&endpoints[0], answered(1), &health(), &endpoints, start);
    judge(&endpoints[0], Outcome::Failed, &health(), &endpoints, start);
    assert!(!endpoints[0].is_ejected(start), "a success ends the row");
    fail(start);
    assert!(endpoints[0].is_ejected(start + Duration::from_secs(9)));
    let back = start + Duration::from_secs(10);
    assert!(!endpoints[0].is_ejected(back));
    fail(back);
    assert!(endpoints[0].is_ejected(back + Duration::from_secs(19)));
    assert!(!endpoints[0].is_ejected(back + Duration::from_secs(20)));
}

#[test]
fn gateway_errors_count_and_other_errors_do_not() {
    let endpoints = endpoints(2);
    let now = now();
    let answer = |status| Outcome::Answered(status, Duration::ZERO);
    for _ in 0..9 {
        judge(&endpoints[0], answer(StatusCode::INTERNAL_SERVER_ERROR), &health(), &endpoints, now);
        judge(&endpoints[1], answer(StatusCode::BAD_GATEWAY), &health(), &endpoints, now);
    }
    assert!(!endpoints[0].is_ejected(now));
    assert!(endpoints[1].is_ejected(now));
}

#[test]
fn never_all_and_never_more_than_the_share_are_out() {
    for (count, percent, most) in [(1, 100, 0), (2, 100, 1), (4, 50, 2), (10, 25, 2), (3, 10, 0)] {
        let endpoints = endpoints(count);
        let health = PassiveHealth { max_ejected_percent: percent, ..health() };
        let now = now();
        for endpoint in endpoints.iter().cycle().take(usize::from(count) * 10) {
            judge(endpoint, Outcome::Failed, &health, &endpoints, now);
        }
        assert_eq!(endpoints.iter().filter(|endpoint| endpoint.is_ejected(now)).count(), most, "{count} {percent}");
    }
}

#[test]
fn an_ejected_endpoint_is_the_last_resort() {
    let endpoints = endpoints(2);
    let now = now();
    (0..3).for_each(|_| judge(&endpoints[0], Outcome::Failed, &health(), &endpoints, now));
    for balancer in ALL {
        for _ in 0..10 {
            let chosen = pick(balancer, &Usable { endpoints: &endpoints, tried: &[], now }, &AtomicUsize::new(0));
            assert_eq!(chosen.unwrap().address(), endpoints[1].address());
        }
        let tried = [endpoints[1].address()];
        let chosen = pick(balancer, &Usable { endpoints: &endpoints, tried: &tried, now }, &AtomicUsize::new(0));
        assert_eq!(chosen.unwrap().address(), endpoints[0].address());
    }
}
