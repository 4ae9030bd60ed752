//! `sluice explain DIR URL`: how a request would travel, or why it would not.

mod connection;
mod describe;
mod filtered;
mod journey;
mod listen;
mod probe;
mod refused;
mod spoken;
mod text;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use translate::translate;

pub use filtered::Sent;
pub use journey::{BackendStep, CertificateStep, Journey, ListenerStep, RuleStep, Traffic};

use crate::folder::{Finding, Folder};
use crate::standalone::{self, Output, Source};
use refused::Refused;
use spoken::Spoken;

/// Tells how a request would travel: listener, host, rule, policies with their origin, backend and endpoints, or why not.
///
/// With a URL of tls://, tcp:// or udp:// it tells the same of a connection or of datagrams. Nothing is sent. Exits with 0 when
/// the request would be answered as some rule says, 1 when not, 2 when the folder cannot be read or an argument is wrong.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice explain deploy/quickstart http://shop.localhost/search
  sluice explain deploy/quickstart https://api.localhost:8443/ -H 'x-version: v2'
  sluice explain -o json deploy/quickstart -X POST http://api.localhost/orders
  sluice explain manifests/ tls://mail.example.com:993
  sluice explain manifests/ udp://dns.example.com:53")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The URL: http, https, tls, tcp or udp; ports 80 and 443 (or none) mean --http-port and --https-port
    #[arg(value_parser = parse_url)]
    url: Uri,
    /// The request's method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: Method,
    /// A header of the request, as often as needed
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The request to explain.
#[derive(Clone, Debug)]
pub struct Question {
    /// Absolute, with scheme and host.
    pub url: Uri,
    /// The method.
    pub method: Method,
    /// The headers, without `Host`.
    pub headers: HeaderMap,
}

impl Question {
    /// The request that the arguments describe. A `Host` header takes the place of the URL's host, as it does on the wire;
    /// the port stays.
    fn of(args: &Args) -> Result<Self, String> {
        let mut headers: HeaderMap = args.headers.iter().cloned().collect();
        let mut url = args.url.clone();
        if let Some(host) = headers.remove(header::HOST) {
            if !Spoken::of(&url).is_http() {
                return Err("a Host header is part of HTTP: ask with http://".into());
            }
            if url.scheme_str() == Some("https") {
                return Err(
                    "write the host into the URL: with https the name that TLS asks for has to be the same".into()
                );
            }
            let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()).filter(is_plain);
            let host = host.ok_or("the Host header is no host")?;
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let mut parts = url.into_parts();
            parts.authority = Some(format!("{}{port}", host.host()).parse().map_err(|_| "the Host header is no host")?);
            url = Uri::from_parts(parts).map_err(|_| "the Host header is no host")?;
        }
        Ok(Self { url, method: args.method.clone(), headers })
    }
}

/// The command.
pub fn main(args: &Args) -> ExitCode {
    let explained = args.source.validate().and_then(|()| Question::of(args)).and_then(|question| {
        explain(&args.source, &question).map_err(|error| format!("{}: {error}", args.source.dir.display()))
    });
    let journey = match explained {
        Ok(journey) => journey,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // Whoever closes the pipe early has seen enough.
    let _ = print(&journey, args.output, &mut io::stdout().lock());
    if journey.arrives() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Explains a request to what a folder of manifests describes. Fails only when the folder cannot be listed.
pub fn explain(source: &Source, question: &Question) -> io::Result<Journey> {
    let settings = source.settings().map_err(io::Error::other)?;
    let folder = Folder::open(&source.dir, &settings)?;
    let translation = translate(folder.resources(), &settings);
    let snapshot = standalone::merged(&translation);
    let mut journey = journey::trace(&snapshot, settings.ports, question);
    journey.note = journey.listener.as_ref().and_then(|at| standalone::shared_ports(&translation, Some(at.port)));
    let mut refused = BTreeSet::new();
    if journey.rule.is_none() {
        for Refused { object, why } in refused::concerning(&folder, &translation, settings.ports, question) {
            journey.hints.push(format!("{object} {why}"));
            refused.insert(object);
        }
    }
    let mut findings: Vec<Finding> = folder.findings();
    findings.extend(translation.problems.iter().map(|problem| folder.place(problem)));
    findings.extend(folder.unserved(&translation));
    journey.findings = journey::concerning(&journey, &refused, findings);
    Ok(journey)
}

fn print(journey: &Journey, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Text => text::print(journey, out),
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, journey)?;
            writeln!(out)
        }
    }
}

fn parse_url(text: &str) -> Result<Uri, String> {
    let known = |scheme: &str| Spoken::SCHEMES.iter().any(|(name, _)| *name == scheme);
    let url = text.parse::<Uri>().ok();
    match url.filter(|url| url.scheme_str().is_some_and(known)) {
        Some(url) if !url.authority().is_some_and(is_plain) => {
            Err("write a host, and a port from 1 to 65535 if any; no user or password".to_owned())
        }
        Some(url) if url.port().is_none() && Spoken::of(&url).default_port().is_none() => {
            Err(format!("write a port, for example {text}:53"))
        }
        Some(url) => Ok(url),
        None => {
            let schemes: Vec<_> = Spoken::SCHEMES.iter().map(|(name, _)| *name).collect();
            let schemes = schemes.join(", ");
            Err(format!("write it with a scheme ({schemes}) and a host, for example http://shop.localhost/cart"))
        }
    }
}

/// A host with nothing but a port that there is.
fn is_plain(authority: &Authority) -> bool {
    let after_host = authority.as_str().strip_prefix(authority.host());
    !authority.host().is_empty()
        && (after_host == Some("") || authority.port_u16().is_some_and(|port| port > 0))
        && !authority.as_str().contains('@')
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("`{}` is not a header name", name.trim()))?;
    let value = value.trim().parse().map_err(|_| "this is not a header value".to_owned())?;
    Ok((name, value))
}
