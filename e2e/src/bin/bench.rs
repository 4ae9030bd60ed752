//! CPU per request of Sluice against nginx and HAProxy, in interleaved rounds on this machine.
//!
//! Each proxy is pinned to core 0 with one worker; load generator and backend share core 1. In every round each proxy gets
//! the same load once, in turn, and a ratio is only ever taken within a round: what else the machine does then hits
//! all of them alike.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: bench SLUICE [--rounds N] [--seconds N] [--connections N]

SLUICE is the release build of the `sluice` executable; nginx, haproxy, wrk and taskset must be installed.
Defaults: 7 rounds of 4 seconds with 64 connections.

example: bench target/release/sluice --rounds 5";

struct Options {
    sluice: PathBuf,
    rounds: usize,
    seconds: u64,
    connections: u32,
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Politely, so that a master process ends its workers too.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

struct Proxy {
    name: &'static str,
    port: u16,
    process: Running,
}

/// What one proxy did under one load.
#[derive(Clone, Copy)]
struct Sample {
    cpu_per_request: f64, // microseconds
    requests_per_second: f64,
    resident: u64, // KiB
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { sluice: PathBuf::new(), rounds: 7, seconds: 4, connections: 64 };
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().unwrap_or_default();
            value
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or(format!("{arg} takes a positive number, not {value:?}"))
        };
        match arg.as_str() {
            "--rounds" => options.rounds = number()? as usize,
            "--seconds" => options.seconds = number()?,
            "--connections" => options.connections = number()? as u32,
            "--help" | "-h" => return Err(HELP.into()),
            path if !path.starts_with('-') && options.sluice.as_os_str().is_empty() => options.sluice = path.into(),
            other => return Err(format!("unknown argument {other}\n{HELP}")),
        }
    }
    if options.sluice.as_os_str().is_empty() {
        return Err(HELP.into());
    }
    Ok(options)
}

fn run(options: &Options) -> io::Result<()> {
    let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let _backend = start("1", "nginx", &nginx(&configuration.join("backend.conf")), 18080)?;
    let sluice = options.sluice.to_string_lossy();
    let folder = configuration.join("sluice").to_string_lossy().into_owned();
    let arguments = ["run", &folder, "--http-port", "18083", "--https-port", "18443"];
    let proxies = [
        ("nginx", 18081, "nginx".to_owned(), nginx(&configuration.join("nginx.conf"))),
        (
            "haproxy",
            18082,
            "haproxy".into(),
            vec!["-f".into(), configuration.join("haproxy.cfg").display().to_string()],
        ),
        ("sluice", 18083, sluice.into_owned(), arguments.map(str::to_owned).to_vec()),
    ];
    let proxies = proxies
        .into_iter()
        .map(|(name, port, command, args)| Ok(Proxy { name, port, process: start("0", &command, &args, port)? }))
        .collect::<io::Result<Vec<_>>>()?;

    let mut rounds: Vec<BTreeMap<&str, Sample>> = Vec::new();
    for round in 0..options.rounds {
        let mut samples = BTreeMap::new();
        for turn in 0..proxies.len() {
            let proxy = &proxies[(round + turn) % proxies.len()];
            load(proxy.port, 1, options.connections)?; // connections and caches are warm afterwards
            samples.insert(proxy.name, measure(proxy, options)?);
        }
        eprintln!("round {} of {} done", round + 1, options.rounds);
        rounds.push(samples);
    }
    report(&rounds);
    Ok(())
}

fn nginx(configuration: &Path) -> Vec<String> {
    let temporary = std::env::temp_dir();
    vec![
        "-p".into(),
        temporary.display().to_string(),
        "-g".into(),
        format!(
            "pid {};",
            temporary
                .join(format!("sluice-bench-{}.pid", configuration.file_stem().unwrap_or_default().to_string_lossy()))
                .display()
        ),
        "-c".into(),
        configuration.display().to_string(),
    ]
}

/// Starts a process on a core and waits until it listens.
fn start(core: &str, command: &str, args: &[String], port: u16) -> io::Result<Running> {
    if TcpStream::connect(("127.0.0.1", port)).is_ok() {
        return Err(io::Error::other(format!("port {port} of 127.0.0.1 is in use by another process")));
    }
    let child = Command::new("taskset").args(["-c", core, command]).args(args).stdout(Stdio::null()).spawn()?;
    let mut running = Running(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = running.0.try_wait()? {
            return Err(io::Error::other(format!("{command} ended at once ({status})")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{command} does not listen on port {port}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}

fn measure(proxy: &Proxy, options: &Options) -> io::Result<Sample> {
    let process = proxy.process.0.id();
    let before = cpu_nanoseconds(process);
    let started = Instant::now();
    let requests = load(proxy.port, options.seconds, options.connections)?;
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = cpu_nanoseconds(process) - before;
    Ok(Sample {
        cpu_per_request: cpu as f64 / 1000.0 / requests as f64,
        requests_per_second: requests as f64 / elapsed,
        resident: family(process).into_iter().map(resident).sum(),
    })
}

/// Loads a proxy and returns how many requests were answered; an answer that is not 2xx is an error.
fn load(port: u16, seconds: u64, connections: u32) -> io::Result<u64> {
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t", "1", "-c", &connections.to_string(), "-d", &format!("{seconds}s")])
        .args(["-H", "Host: shop.example", &format!("http://127.0.0.1:{port}/cart/items")])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    match requests {
        Some(requests) if requests > 0 && !text.contains("Non-2xx") && !text.contains("Socket errors") => Ok(requests),
        _ => Err(io::Error::other(format!("the load on port {port} failed:\n{text}"))),
    }
}

/// A process and its children.
fn family(process: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|id| id.parse().ok()).flat_map(family);
    std::iter::once(process).chain(children).collect()
}

/// Time on a core of all threads of a process and its children.
fn cpu_nanoseconds(process: u32) -> u64 {
    family(process)
        .into_iter()
        .flat_map(|process| fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten())
        .filter_map(|task| {
            fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn report(rounds: &[BTreeMap<&str, Sample>]) {
    let names: Vec<&str> = rounds[0].keys().copied().collect();
    let spread = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    println!(
        "HTTP/1.1 keep-alive, 1 KiB, one worker on one core; median [smallest largest] of {} rounds",
        rounds.len()
    );
    println!("{:<10} {:>24} {:>12} {:>12}", "", "CPU per request, us", "requests/s", "memory, KiB");
    for name in &names {
        let of = |field: fn(&Sample) -> f64| spread(rounds.iter().map(|round| field(&round[name])).collect());
        let (cpu, least, most) = of(|sample| sample.cpu_per_request);
        let (rate, ..) = of(|sample| sample.requests_per_second);
        let (memory, ..) = of(|sample| sample.resident as f64);
        println!("{name:<10} {:>24} {rate:>12.0} {memory:>12.0}", format!("{cpu:.2} [{least:.2} {most:.2}]"));
    }
    println!();
    for peer in names.iter().filter(|name| **name != "sluice") {
        let ratio = |round: &BTreeMap<&str, Sample>| round["sluice"].cpu_per_request / round[peer].cpu_per_request;
        let (median, least, most) = spread(rounds.iter().map(ratio).collect());
        println!("w1 cpu-per-request sluice/{peer} {median:.2} [{least:.2} {most:.2}]");
    }
}
