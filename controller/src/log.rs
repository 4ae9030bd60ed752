//! The log on standard error.

use std::io::{self, IsTerminal, stderr};

use clap::ValueEnum;
use dataplane::diagnostics::{self, Writing};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Logs what RUST_LOG selects, by default from INFO on. Without a format it is text on a terminal and where a `folder` is worked on.
/// The log goes on as long as the result is kept.
///
/// # Errors
/// The thread that writes cannot be made.
pub fn start(format: Option<Format>, folder: bool) -> io::Result<Writing> {
    let terminal = stderr().is_terminal();
    let (lines, writing) = diagnostics::start(stderr())?;
    let lines = fmt::layer().with_writer(lines);
    let lines = match format.unwrap_or(if terminal || folder { Format::Text } else { Format::Json }) {
        Format::Text => lines.with_ansi(terminal).boxed(),
        Format::Json => lines.json().boxed(),
    };
    subscriber(diagnostics::filter(), lines).init();
    Ok(writing)
}

/// Secrets stay out of `lines`, whatever `filter` selects.
fn subscriber(filter: EnvFilter, lines: Box<dyn Layer<Registry> + Send + Sync>) -> impl Subscriber + Send + Sync {
    tracing_subscriber::registry().with(lines.and_then(filter).and_then(filter_fn(quotes_nothing)))
}

/// Whether the text cannot quote a response of the API server, and with it a Secret. kube's client logs whole responses that it cannot
/// read, at WARN and below; its watches log the errors that come of it, at DEBUG.
fn quotes_nothing(event: &Metadata<'_>) -> bool {
    match event.target() {
        "kube_client::client" => *event.level() <= Level::ERROR,
        "kube_runtime::watcher" => *event.level() <= Level::WARN,
        _ => true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::Secret;
    use kube::Api;
    use serde_json::json;

    use super::*;
    use crate::api_server;

    /// What is logged.
    #[derive(Clone, Default)]
    pub struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// All of it so far.
        pub fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }

        /// What this thread logs from now on, as `filter` selects, until the guard is dropped.
        pub fn start(&self, filter: &str) -> tracing::subscriber::DefaultGuard {
            let lines = self.clone();
            let lines = fmt::layer().with_ansi(false).with_writer(move || lines.clone()).boxed();
            tracing::subscriber::set_default(subscriber(EnvFilter::new(filter), lines))
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_is_not_logged() {
        let lines = Lines::default();
        let _logging = lines.start("trace");
        let (client, mut requests) = api_server::start().await;
        let asking = tokio::spawn(async move { Api::<Secret>::namespaced(client, "shop").get("tls").await });
        requests.next().await.answer(200, &json!({"data": {"tls.key": "aHVudGVyMg=="}, "type": ["not a text"]}));
        assert!(matches!(asking.await.unwrap(), Err(kube::Error::SerdeError(_))));
        tracing::warn!(target: "kube_client::client::builder", "seen");
        assert!(lines.text().contains("seen"), "{}", lines.text());
        assert!(!lines.text().contains("aHVudGVyMg"), "{}", lines.text());
    }
}
