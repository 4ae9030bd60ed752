//! The log of the process: lines that a thread of its own writes to standard error. Threads that serve requests never wait
//! for whoever reads it: lines that nobody takes in time are dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::log::{self, LogSender, LogThread};

/// Lines that may wait for the writer. A line has a few hundred bytes.
const WAITING: usize = 1024;

/// Selects lines that a client can provoke without bound: h2 warns of every acknowledgement that it did not ask for.
const PROVOKED: &str = "h2=error,rustls=error";

/// Lines that were dropped, over all logs of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines of the process's log that were dropped because nobody took them in time.
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// The filter that RUST_LOG asks for, by default INFO and above. Lines that clients can provoke need a directive with the
/// name of their crate, for example `RUST_LOG=info,h2=warn`.
pub fn filter() -> EnvFilter {
    selecting(std::env::var("RUST_LOG").ok().as_deref())
}

fn selecting(wanted: Option<&str>) -> EnvFilter {
    let wanted = wanted.filter(|wanted| !wanted.trim().is_empty()).unwrap_or("info");
    // The later of two directives with one target replaces the former.
    let filter = EnvFilter::builder().parse(format!("{PROVOKED},{wanted}"));
    filter.unwrap_or_else(|_| EnvFilter::new(format!("{PROVOKED},info")))
}

/// Makes writers for `tracing_subscriber::fmt`, which writes each line at once.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Mutex<Option<LogSender>>>);

/// Keeps the log going. When it is dropped the last lines are written, as far as somebody takes them.
pub struct Writing {
    lines: Lines,
    _thread: LogThread,
}

/// Starts the thread that writes to `output`.
///
/// # Errors
/// The thread cannot be made.
pub fn start(output: impl Write + Send + 'static) -> io::Result<(Lines, Writing)> {
    let (sender, writer) = log::channel(WAITING);
    let thread = std::thread::Builder::new().name("log".into()).spawn(|| writer.run(output))?;
    let lines = Lines(Arc::new(Mutex::new(Some(sender))));
    Ok((lines.clone(), Writing { lines, _thread: LogThread(Some(thread)) }))
}

impl Drop for Writing {
    fn drop(&mut self) {
        // The thread ends with its last sender; the field after this one waits for it.
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = &'w Lines;

    fn make_writer(&'w self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = sender.as_ref().is_some_and(|sender| sender.try_send(line.to_vec()).is_ok());
        if !taken {
            DROPPED.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets something happen once per interval, for lines that would repeat as often as their cause.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// Once per `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: Mutex::new(None) }
    }

    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= self.interval);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// An output that takes a line only when it is told to.
    struct Stuck(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_takes_nothing_holds_nobody_up_and_what_is_dropped_is_counted() {
        let (take, taking) = channel();
        let (written, lines) = channel();
        let (writer, writing) = start(Stuck(taking, written)).unwrap();
        let before = dropped();
        for number in 0..3 * WAITING {
            (&writer).write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        // One may be on its way out.
        assert!(dropped() - before >= 2 * WAITING as u64 - 1);
        drop(take);
        drop(writing);
        let lines: Vec<_> = lines.iter().collect();
        assert!(lines.len() >= WAITING, "{}", lines.len());
        assert_eq!(lines[0], b"line 0\n");
    }

    #[test]
    fn lines_that_clients_can_provoke_are_logged_only_where_they_are_asked_for() {
        for (wanted, ours, of_h2) in [
            (None, true, false),
            (Some(""), true, false),
            (Some("info"), true, false),
            (Some("a=nonsense"), true, false),
            (Some("error"), false, false),
            (Some("info,h2=warn"), true, true),
        ] {
            let (written, lines) = channel();
            let (take, taking) = channel();
            drop(take);
            let (writer, writing) = start(Stuck(taking, written)).unwrap();
            let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
            let subscriber = tracing_subscriber::registry().with(selecting(wanted)).with(layer);
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "dataplane::listen", "ours");
                tracing::warn!(target: "h2::proto::ping_pong", "theirs");
            });
            drop(writing);
            let text: String = lines.iter().map(|line| String::from_utf8(line).unwrap()).collect();
            assert_eq!((text.contains("ours"), text.contains("theirs")), (ours, of_h2), "{wanted:?}: {text}");
        }
    }

    #[test]
    fn what_repeats_is_due_once_per_interval() {
        let seldom = Seldom::new(Duration::from_secs(3600));
        assert!(seldom.is_due() && !seldom.is_due());
        let often = Seldom::new(Duration::ZERO);
        assert!(often.is_due() && often.is_due());
    }
}
