//! The access log: one JSON line per request, UDP session or other connection without HTTP, written in batches by a
//! thread of its own.

use std::cell::RefCell;
use std::io::Write;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::Version;

use crate::exchange::Record;
use crate::l4;
use crate::metrics::WorkerStats;
use crate::reason::Reason;
use crate::udp::Session;

/// A batch leaves its worker when it has grown to this, or at the next tick.
const BATCH: usize = 32 * 1024;
/// Batches that may wait for the writer, over all workers.
pub const WAITING: usize = 64;
/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The writer's end: batches of whole lines, of the access log or of the process's own.
pub struct LogWriter(Receiver<Vec<u8>>);

/// The end of those who log.
#[derive(Clone, Debug)]
pub struct LogSender(SyncSender<Vec<u8>>);

/// The two ends of a log, between which so many batches may wait.
pub fn channel(waiting: usize) -> (LogSender, LogWriter) {
    let (sender, receiver) = sync_channel(waiting);
    (LogSender(sender), LogWriter(receiver))
}

impl LogSender {
    /// Hands a batch over; gives it back when too many wait, or nobody writes any more. Never blocks.
    pub fn try_send(&self, batch: Vec<u8>) -> Result<(), Vec<u8>> {
        self.0.try_send(batch).map_err(|error| match error {
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
        })
    }
}

impl LogWriter {
    /// Writes batches until all senders are gone. Blocks; runs on its own thread.
    pub fn run(self, mut output: impl Write) {
        for batch in self.0 {
            // With standard output gone there is nobody to tell.
            let _ = output.write_all(&batch).and_then(|()| output.flush());
        }
    }
}

/// The thread that writes. Dropped when the workers are gone, it ends with their last line; an output that takes nothing
/// is not waited for.
pub struct LogThread(pub Option<JoinHandle<()>>);

impl Drop for LogThread {
    fn drop(&mut self) {
        let Some(thread) = self.0.take() else { return };
        let end = Instant::now() + LAST_LINES;
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// A worker's lines that have not left yet.
#[derive(Debug)]
pub struct AccessLog {
    lines: RefCell<Vec<u8>>,
    clock: RefCell<Clock>,
    sender: LogSender,
}

/// The time as text, formatted anew only when the second changes.
#[derive(Debug, Default)]
struct Clock {
    second: i64,
    text: String,
}

impl AccessLog {
    /// A log without lines.
    pub fn new(sender: LogSender) -> Self {
        Self { lines: RefCell::default(), clock: RefCell::default(), sender }
    }

    /// Adds the line of a request.
    pub fn line(&self, record: &Record, took: Duration, stats: &WorkerStats) {
        self.add(stats, |fields| write_request(fields, record, took));
    }

    /// Adds the line of a request that the parser refused.
    pub fn parser_refused(&self, client: IpAddr, reason: Reason, stats: &WorkerStats) {
        self.add(stats, |fields| {
            fields.display("client", client);
            fields.text("protocol", protocol(Version::HTTP_11));
            fields.number("status", reason.status().as_u16().into());
            fields.text("reason", reason.as_str().as_bytes());
        });
    }

    /// Adds the line of a connection without HTTP.
    pub fn connection(&self, record: &l4::Record, took: Duration, stats: &WorkerStats) {
        self.add(stats, |fields| write_connection(fields, record, took));
    }

    /// Adds the line of a UDP session.
    pub fn session(&self, session: &Session, reason: Option<Reason>, stats: &WorkerStats) {
        self.add(stats, |fields| write_session(fields, session, reason));
    }

    fn add(&self, stats: &WorkerStats, write: impl FnOnce(&mut Fields<'_>)) {
        let mut lines = self.lines.borrow_mut();
        if lines.capacity() == 0 {
            lines.reserve(BATCH + 1024);
        }
        lines.extend_from_slice(b"{\"time\":\"");
        self.clock.borrow_mut().write(&mut lines);
        let mut fields = Fields(&mut lines);
        fields.raw(b"\"");
        write(&mut fields);
        fields.raw(b"}\n");
        if lines.len() >= BATCH {
            self.send(&mut lines, stats);
        }
    }

    /// Lets the lines leave. Called once per tick, and when the worker ends.
    pub fn flush(&self, stats: &WorkerStats) {
        self.send(&mut self.lines.borrow_mut(), stats);
    }

    fn send(&self, lines: &mut Vec<u8>, stats: &WorkerStats) {
        if lines.is_empty() {
            return;
        }
        if let Err(batch) = self.sender.try_send(std::mem::take(lines)) {
            stats.log_dropped.add(batch.iter().filter(|byte| **byte == b'\n').count() as u64);
        }
    }
}

fn write_session(fields: &mut Fields<'_>, session: &Session, reason: Option<Reason>) {
    fields.display("client", session.key.client.ip().to_canonical());
    fields.text("protocol", b"UDP");
    fields.number("port", session.key.port.into());
    if let Some(reason) = reason {
        fields.text("reason", reason.as_str().as_bytes());
    }
    fields.text("route", session.route().as_bytes());
    fields.display("endpoint", session.endpoint());
    fields.number("datagrams_in", session.up.datagrams.get());
    fields.number("datagrams_out", session.down.datagrams.get());
    fields.number("bytes_in", session.up.bytes.get());
    fields.number("bytes_out", session.down.bytes.get());
    fields.seconds("duration", session.start.elapsed());
}

fn write_request(fields: &mut Fields<'_>, record: &Record, took: Duration) {
    fields.display("client", record.address);
    fields.text("method", record.method.as_str().as_bytes());
    fields.text("host", record.host.as_ref().map_or(b"", |host| host.as_bytes()));
    fields.text("path", record.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes());
    fields.text("protocol", protocol(record.version));
    fields.number("status", record.status.map_or(0, |status| u64::from(status.as_u16())));
    if let Some(reason) = record.reason {
        fields.text("reason", reason.as_str().as_bytes());
    }
    if let Some(rule) = &record.rule {
        fields.text("rule", rule.name.as_bytes());
    }
    if let Some(endpoint) = record.endpoint {
        fields.display("endpoint", endpoint);
    }
    fields.number("bytes_in", record.upload.as_ref().map_or(0, |upload| upload.bytes()));
    fields.number("bytes_out", record.bytes_out);
    fields.seconds("duration", took);
    if let Some(upstream) = record.upstream_took {
        fields.seconds("upstream_duration", upstream);
    }
    if let Some(id) = &record.request_id {
        fields.text("request_id", id.as_bytes());
    }
}

fn write_connection(fields: &mut Fields<'_>, record: &l4::Record, took: Duration) {
    fields.display("client", record.peer.ip());
    fields.text("protocol", record.protocol.as_str().as_bytes());
    fields.number("port", record.port.into());
    if !record.server_name.is_empty() {
        fields.text("server_name", record.server_name.as_bytes());
    }
    if let Some(reason) = record.reason {
        fields.text("reason", reason.as_str().as_bytes());
    }
    if let Some(route) = &record.route {
        fields.text("route", route.name.as_bytes());
    }
    if let Some(endpoint) = record.endpoint {
        fields.display("endpoint", endpoint);
    }
    fields.number("bytes_in", record.bytes_in);
    fields.number("bytes_out", record.bytes_out);
    fields.seconds("duration", took);
}

fn protocol(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2",
        _ => b"HTTP/1.1",
    }
}

impl Clock {
    fn write(&mut self, out: &mut Vec<u8>) {
        let now = jiff::Timestamp::now();
        if now.as_second() != self.second || self.text.is_empty() {
            self.second = now.as_second();
            self.text = now.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        let millis = now.subsec_nanosecond() / 1_000_000;
        out.extend_from_slice(self.text.as_bytes());
        let _ = write!(out, ".{millis:03}Z");
    }
}

struct Fields<'o>(&'o mut Vec<u8>);

impl Fields<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn name(&mut self, name: &str) {
        self.raw(b",\"");
        self.raw(name.as_bytes());
        self.raw(b"\":");
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        let _ = write!(self.0, "{value}");
    }

    fn seconds(&mut self, name: &str, value: Duration) {
        self.name(name);
        let _ = write!(self.0, "{}.{:06}", value.as_secs(), value.subsec_micros());
    }

    fn display(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.0, "\"{value}\"");
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.raw(b"\"");
        escape(self.0, value);
        self.raw(b"\"");
    }
}

/// Whatever a client sends becomes one JSON string: control characters escaped, those of C1 too, which terminals obey; bytes that
/// are not UTF-8 replaced.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    // Most values are plain from end to end.
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let (plain, rest) = value.split_at(value.iter().position(|byte| !is_plain(byte)).unwrap_or(value.len()));
    out.extend_from_slice(plain);
    for chunk in rest.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                ' '..='~' => out.push(character as u8),
                _ if character.is_control() => _ = write!(out, "\\u{:04x}", u32::from(character)),
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_client_sends_is_one_json_string() {
        let mut out = b"{\"x\":\"".to_vec();
        escape(&mut out, "a\"b\\c\n\u{1b}\u{7f}\u{9b}".as_bytes());
        escape(&mut out, b"\xff\xc3\xa9");
        out.extend_from_slice(b"\"}");
        assert!(!String::from_utf8(out.clone()).unwrap().contains(char::is_control));
        let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(parsed["x"], "a\"b\\c\n\u{1b}\u{7f}\u{9b}\u{fffd}é");
    }

    #[test]
    fn a_log_that_nobody_reads_drops_and_counts() {
        let (sender, writer) = channel(WAITING);
        let log = AccessLog::new(sender);
        let stats = WorkerStats::default();
        for _ in 0..WAITING + 3 {
            log.send(&mut b"line\n".to_vec(), &stats);
        }
        assert_eq!(stats.log_dropped.get(), 3);
        drop(log);
        let mut written = Vec::new();
        writer.run(&mut written);
        assert_eq!(written.len(), WAITING * 5);
    }

    #[test]
    fn the_time_is_as_rfc_3339_wants_it() {
        let mut out = Vec::new();
        Clock::default().write(&mut out);
        assert!(String::from_utf8(out).unwrap().parse::<jiff::Timestamp>().is_ok());
    }
}
