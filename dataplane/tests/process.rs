//! The program as a process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may stop at the first surprise")]

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const SIGTERM: u32 = 15;
const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-dataplane");
const ARGUMENTS: [&str; 6] = [
    "--controllers=127.0.0.1:1",
    "--address=127.0.0.1",
    "--admin-address=127.0.0.1:0",
    "--workers=1",
    "--ca=/dev/null",
    "--token=/dev/null",
];

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process handles a signal: for the first process of a container all others do not exist.
fn handles(process: &Child, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

#[test]
fn a_request_to_stop_that_comes_right_at_the_start_is_heard() {
    let mut process = Command::new(PROGRAM).args(ARGUMENTS).stderr(Stdio::null()).spawn().unwrap();
    eventually("it handles SIGTERM", || {
        assert!(process.try_wait().unwrap().is_none(), "it ended by itself");
        handles(&process, SIGTERM).then_some(())
    });
    let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", process.id())).status().unwrap();
    assert!(kill.success());
    let ended: ExitStatus = eventually("it stops", || process.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn it_opens_as_many_files_as_it_may() {
    let script = "ulimit -Sn 100; ulimit -Hn 4000; exec \"$@\"";
    let mut process =
        Command::new("sh").args(["-c", script, "sh", PROGRAM]).args(ARGUMENTS).stderr(Stdio::null()).spawn().unwrap();
    let limits = || fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    eventually("the limit is raised", || {
        let limits = limits();
        let mut files =
            limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().skip(3);
        (files.next() == Some("4000") && files.next() == Some("4000")).then_some(())
    });
    process.kill().unwrap();
    process.wait().unwrap();
}
