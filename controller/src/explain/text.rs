//! A journey for people.

use std::io::{self, Write};

use super::describe;
use super::filtered::Sent;
use super::journey::{BackendStep, Journey};

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
        line("backend", &summary(backend))?;
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
    for hint in &journey.hints {
        line("because", hint)?;
    }
    for finding in &journey.findings {
        line("problem", &finding.to_string())?;
    }
    Ok(())
}

fn summary(backend: &BackendStep) -> String {
    let share = format!("{:.0} %", backend.share);
    let name = backend.cluster.as_deref().unwrap_or("(none)");
    let refused = backend.refused.as_ref().map(|answer| format!("; answers {answer}")).unwrap_or_default();
    let how = if backend.how.is_empty() { String::new() } else { format!(" ({})", backend.how.join(", ")) };
    format!("{name}, {share} of the requests{how}{refused}")
}
