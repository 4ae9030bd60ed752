//! `sluice explain DIR URL`: how a request would travel, or why it would not.

mod describe;
mod journey;
mod probe;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use translate::translate;

pub use journey::{BackendStep, CertificateStep, Journey, ListenerStep, RuleStep};

use crate::folder::{Finding, Folder};
use crate::standalone::{Output, Source};

/// Tells how a request would travel: listener, host, rule, policies with their origin, backend and endpoints, or why not.
///
/// Nothing is sent. Exits with 0 when the request would be answered as some rule says, 1 when not, 2 when the folder cannot
/// be read or an argument is wrong.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice explain deploy/quickstart http://shop.localhost/search
  sluice explain deploy/quickstart https://api.localhost:8443/ -H 'x-version: v2'
  sluice explain -o json deploy/quickstart -X POST http://api.localhost/orders")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The URL; ports 80 and 443 (or none) mean --http-port and --https-port
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

/// The command.
pub fn main(args: &Args) -> ExitCode {
    let question = Question {
        url: args.url.clone(),
        method: args.method.clone(),
        headers: args.headers.iter().cloned().collect(),
    };
    let journey = match explain(&args.source, &question) {
        Ok(journey) => journey,
        Err(error) => {
            eprintln!("{}: {error}", args.source.dir.display());
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
    let snapshot = crate::run::merged(translation.snapshots.values());
    let mut journey = journey::trace(&snapshot, settings.ports, question);
    let mut findings: Vec<Finding> = folder.findings();
    findings.extend(translation.problems.iter().map(|problem| folder.place(problem)));
    journey.findings = journey::concerning(&journey, findings);
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
    let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some() => Ok(url),
        _ => Err("write it with scheme and host, for example http://shop.localhost/cart".to_owned()),
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("`{}` is not a header name", name.trim()))?;
    let value = value.trim().parse().map_err(|_| "this is not a header value".to_owned())?;
    Ok((name, value))
}
