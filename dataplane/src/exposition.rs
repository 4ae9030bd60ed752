//! The counters as Prometheus reads them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::diagnostics;
use crate::limit;
use crate::metrics::{BUCKETS, Counter, L4Totals, RuleTotals, WorkerStats, l4_totals, rule_totals};
use crate::reason::Reason;
use crate::shared::{Shared, State};

/// The page for a scraper, in the OpenMetrics text format.
///
/// # Errors
/// Formatting failed.
pub fn text(shared: &Shared, stats: &Arc<[Arc<WorkerStats>]>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Scrape { state: shared.state.load_full(), stats: stats.clone() }));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Scrape {
    state: Arc<State>,
    stats: Arc<[Arc<WorkerStats>]>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let sum =
            |counter: fn(&WorkerStats) -> &Counter| self.stats.iter().map(|stats| counter(stats).get()).sum::<u64>();
        let counters = [
            ("connections_accepted", "Client connections accepted", sum(|stats| &stats.accepted)),
            ("accept_pauses", "Pauses in accepting at the limit of connections", sum(|stats| &stats.accept_pauses)),
            ("connections_overdue", "Client connections closed for a time limit", sum(|stats| &stats.overdue)),
            (
                "connections_cancelling",
                "HTTP/2 connections ended because the client cancelled too many requests",
                sum(|stats| &stats.cancelling),
            ),
            ("tls_handshake_failures", "TLS handshakes that failed", sum(|stats| &stats.handshake_failures)),
            ("upstream_retries", "Attempts at backends beyond the first", sum(|stats| &stats.retries)),
            ("upstream_retries_refused", "Retries that the budget refused", sum(|stats| &stats.retries_refused)),
            (
                "upstream_full",
                "Attempts refused because the endpoint has as many connections or waiting requests as it may",
                sum(|stats| &stats.upstream_full),
            ),
            ("udp_sessions_opened", "UDP sessions begun", sum(|stats| &stats.sessions_opened)),
            ("udp_sessions_evicted", "UDP sessions ended to make room", sum(|stats| &stats.sessions_evicted)),
            ("udp_datagrams_dropped", "Datagrams lost in either direction", sum(|stats| &stats.datagrams_dropped)),
            ("mirrors", "Copies of requests that were answered", sum(|stats| &stats.mirrors)),
            ("mirrors_dropped", "Copies of requests that got no answer", sum(|stats| &stats.mirrors_dropped)),
            (
                "limits_shared",
                "Requests that limits counted together with those of other keys, for there were too many",
                limit::overflowed(),
            ),
            ("access_log_dropped", "Access log lines that nobody took in time", sum(|stats| &stats.log_dropped)),
            ("log_lines_dropped", "Lines of the process's log that nobody took in time", diagnostics::dropped()),
        ];
        for (name, help, value) in counters {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let gauges: [(&str, &str, u64); 4] = [
            ("connections_open", "Client connections open", sum(|stats| &stats.open)),
            ("udp_sessions_open", "UDP sessions at present", sum(|stats| &stats.sessions_open)),
            ("tunnels_open", "Upgrades and connections without HTTP", sum(|stats| &stats.tunnels)),
            ("requests_in_flight", "Requests being served", sum(|stats| &stats.in_flight)),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        self.encode_snapshot(&mut encoder)?;
        self.encode_rules(&mut encoder)?;
        self.encode_l4_routes(&mut encoder)
    }
}

impl Scrape {
    fn encode_snapshot(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(version) = self.state.version else { return Ok(()) };
        let labels = [("version", version.to_string())];
        let help = "The snapshot that is served";
        let mut info = encoder.encode_descriptor("snapshot", help, None, MetricType::Info)?;
        info.encode_info(&labels)?;
        let age = SystemTime::now().duration_since(self.state.applied).unwrap_or_default();
        let help = "Since the snapshot was applied";
        let gauge = encoder.encode_descriptor("snapshot_age_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(age.as_secs_f64()).encode(gauge)
    }

    fn encode_rules(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let totals = rule_totals(&self.stats);
        let help = "Requests by rule and class of status; without a rule where none matched";
        let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for (rule, totals) in &totals {
            for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(totals.classes).filter(|(_, n)| *n > 0)
            {
                let labels = [("rule", rule.as_ref()), ("code", class)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
        }
        let help = "Requests that the data plane answered or ended by itself, by rule and reason";
        let mut family = encoder.encode_descriptor("refusals", help, None, MetricType::Counter)?;
        for (rule, totals) in &totals {
            for (reason, count) in Reason::ALL.iter().zip(&totals.reasons).filter(|(_, count)| **count > 0) {
                let labels = [("rule", rule.as_ref()), ("reason", reason.as_str())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(count, None)?;
            }
        }
        let help = "From a request's head to the end of its answer, by rule";
        let mut family = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
        for (rule, totals) in &totals {
            let labels = [("rule", rule.as_ref())];
            let buckets = buckets(totals);
            let count = totals.buckets.iter().sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(totals.seconds, count, &buckets, None)?;
        }
        self.encode_bytes(encoder, "request_bytes", "Bytes of request bodies by rule", |totals| totals.bytes_in)?;
        self.encode_bytes(encoder, "response_bytes", "Bytes of response bodies by rule", |totals| totals.bytes_out)
    }

    fn encode_l4_routes(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let totals = l4_totals(&self.stats);
        type Sum = fn(&L4Totals) -> u64;
        let sums: [(&str, &str, Sum); 3] = [
            ("l4_connections", "Connections without HTTP and UDP sessions that are over, by route", |totals| {
                totals.connections
            }),
            ("l4_received_bytes", "Bytes from clients by route", |totals| totals.bytes_in),
            ("l4_sent_bytes", "Bytes to clients by route", |totals| totals.bytes_out),
        ];
        for (name, help, sum) in sums {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (route, totals) in &totals {
                let labels = [("route", route.as_ref())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&sum(totals), None)?;
            }
        }
        let help = "Connections without HTTP that were refused or ended early, by route and reason";
        let mut family = encoder.encode_descriptor("l4_failures", help, None, MetricType::Counter)?;
        for (route, totals) in &totals {
            for (reason, count) in Reason::ALL.iter().zip(&totals.reasons).filter(|(_, count)| **count > 0) {
                let labels = [("route", route.as_ref()), ("reason", reason.as_str())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(count, None)?;
            }
        }
        Ok(())
    }

    fn encode_bytes(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        bytes: impl Fn(&RuleTotals) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (rule, totals) in &rule_totals(&self.stats) {
            let labels = [("rule", rule.as_ref())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&bytes(totals), None)?;
        }
        Ok(())
    }
}

/// Upper bound and count; the encoder adds them up.
fn buckets(totals: &RuleTotals) -> Vec<(f64, u64)> {
    BUCKETS.iter().copied().chain([f64::INFINITY]).zip(totals.buckets).collect()
}
