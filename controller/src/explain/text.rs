//! A journey for people.

use std::io::{self, Write};

use super::describe;
use super::filtered::Sent;
use super::journey::{BackendStep, Journey, Traffic};

/// How many problems are told.
const ENOUGH: usize = 12;

/// Prints one station a line, the kind of station first.
pub(super) fn print(journey: &Journey, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", journey.request)?;
    let mut line = |station: &str, text: &str| writeln!(out, "  {station:<12} {text}");
    if let Some(listener) = &journey.listener {
        let host = if listener.hostname == "*" { "every host".to_owned() } else { listener.hostname.clone() };
        line("listener", &format!("{} (port {}, for {host})", listener.names.join(", "), listener.port))?;
        if let Some(certificate) = &listener.certificate {
            let why =
                certificate.chosen_by.as_ref().map_or("the default".to_owned(), |pattern| format!("for {pattern}"));
            line("certificate", &format!("{}: {} ({why})", certificate.name, certificate.summary))?;
        }
        if let Some(clients) = &listener.clients {
            line("client's", &format!("certificate {clients}"))?;
        }
    }
    if let Some(host) = &journey.host {
        line("host", host)?;
    }
    if let Some(rule) = &journey.rule {
        line("rule", &format!("{} ({})", rule.name, rule.matched))?;
        for filter in &rule.filters {
            line("filter", &describe::filter(filter))?;
        }
        if !rule.limits.is_empty() {
            line("limits", &rule.limits.join(", "))?;
        }
        for origin in &rule.origins {
            line("policy", origin)?;
        }
    }
    for backend in &journey.backends {
        line("backend", &summary(backend, journey.traffic))?;
        for filter in &backend.filters {
            line("  filter", &describe::filter(filter))?;
        }
        if let Some(Sent { host, target }) = &backend.sent {
            line("  request", &format!("{target} for the host {host}"))?;
        }
        for endpoint in &backend.endpoints {
            line("  endpoint", endpoint)?;
        }
    }
    if let Some(answer) = &journey.answer {
        line("answer", answer)?;
    }
    if let Some(note) = &journey.note {
        line("note", note)?;
    }
    for hint in &journey.hints {
        line("because", hint)?;
    }
    for finding in journey.findings.iter().take(ENOUGH) {
        line("problem", &finding.to_string())?;
    }
    match journey.findings.len().saturating_sub(ENOUGH) {
        0 => {}
        more => line("problem", &format!("and {more} more, which `sluice check` lists"))?,
    }
    Ok(())
}

fn summary(backend: &BackendStep, traffic: Traffic) -> String {
    let share = format!("{:.0} %", backend.share);
    let name = backend.cluster.as_deref().unwrap_or("(none)");
    let (of_what, verb) = match traffic {
        Traffic::Requests => ("requests", "answers "),
        Traffic::Connections => ("connections", ""),
        Traffic::Datagrams => ("clients", ""),
    };
    let refused = backend.refused.as_ref().map(|answer| format!("; {verb}{answer}")).unwrap_or_default();
    let how = if backend.how.is_empty() { String::new() } else { format!(" ({})", backend.how.join(", ")) };
    format!("{name}, {share} of the {of_what}{how}{refused}")
}
