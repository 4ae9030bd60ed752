//! Paths as other programs read them. What backends get must be what was matched, whoever reads it: Node's `new URL()`, Go's
//! `net/http`, Python's `urllib`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may stop at the first surprise")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use dataplane::check::Target;
use http::Request;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const TARGETS: &str = include_str!("targets.txt");
/// How many random targets are read.
const RANDOM: u32 = 3000;
/// What random targets consist of.
const PIECES: [&str; 36] = [
    "/", "/", "/", "/", "//", "\\", ".", ".", "..", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", ";", "%3b", "a",
    "b", "admin", "%20", "%25", "%252e", "%252f", "%ff", "%c3%a9", "%0a", "%00", "%3f", "%23", "@", ":", "...", "?x",
    "?/../",
];

/// A program that reads a target a line, and writes the paths that it sees on one line.
struct Reader {
    name: &'static str,
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start(name: &'static str, arguments: &[&str], package: &str) -> Self {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers");
        let mut command = Command::new(name);
        // The toolchain and the modules that are there: nothing is fetched.
        command.args(arguments).current_dir(directory).env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap_or_else(|error| panic!("{name} does not start, install {package}: {error}"));
        let (input, output) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        Self { name, process, input, output }
    }

    fn all() -> [Self; 3] {
        [
            Self::start("node", &["reader.js"], "the Debian package nodejs"),
            Self::start("go", &["run", "reader.go"], "Go 1.26"),
            Self::start("python3", &["reader.py"], "the Debian package python3"),
        ]
    }

    /// The paths that it sees in a target, decoded.
    fn read(&mut self, target: &str) -> Vec<Vec<u8>> {
        writeln!(self.input.as_mut().unwrap(), "{target}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{} ended at {target:?}", self.name);
        line.split_whitespace().map(bytes).collect()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.input = None;
        self.process.wait().unwrap();
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The names in a path, between separators of all kinds.
fn names(path: &[u8]) -> Vec<String> {
    let elements = path.split(|byte| matches!(byte, b'/' | b'\\')).filter(|element| !element.is_empty());
    elements.map(text).collect()
}

fn text(element: &[u8]) -> String {
    let mut text = String::new();
    for chunk in element.utf8_chunks() {
        text += chunk.valid();
        chunk.invalid().iter().for_each(|byte| text += &format!("%{byte:02X}"));
    }
    text
}

/// What a request with this target asks for, unless it is refused.
fn accepted(target: &str) -> Option<Target> {
    let request = Request::builder().uri(target).header("host", "host").body(()).ok()?;
    Target::of(&request.into_parts().0).ok()
}

/// Whether all readers see what was matched; otherwise says who does not.
fn check(readers: &mut [Reader], target: &str) -> Result<(), String> {
    let Some(accepted) = accepted(target) else { return Ok(()) };
    let (matched, forwarded) = (names(accepted.path().as_bytes()), accepted.path_and_query().as_str());
    for reader in readers {
        for path in reader.read(forwarded) {
            if names(&path) != matched {
                let (name, path) = (reader.name, String::from_utf8_lossy(&path));
                return Err(format!("{target:?} matched {matched:?}, {name} reads {path:?} in {forwarded:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn node_go_and_python_read_the_path_that_was_matched() {
    let mut readers = Reader::all();
    let replayed: Vec<&str> = TARGETS.lines().filter(|line| line.starts_with('/')).collect();
    assert!(replayed.iter().filter(|target| accepted(target).is_some()).count() > 20);
    for target in replayed {
        check(&mut readers, target).unwrap();
    }
    let targets = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..14)
        .prop_map(|pieces| format!("/{}", pieces.concat()));
    let config = ProptestConfig { cases: RANDOM, failure_persistence: None, ..ProptestConfig::default() };
    let readers = std::cell::RefCell::new(readers);
    let run = TestRunner::new(config)
        .run(&targets, |target| check(&mut *readers.borrow_mut(), &target).map_err(TestCaseError::fail));
    run.unwrap();
}
