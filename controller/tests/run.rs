//! `sluice run` over copies of the quickstart, as a user meets it: the binary, its terminal, sockets and files.
#![allow(clippy::expect_used, clippy::panic)] // helpers of tests may stop at the first surprise, too

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tempfile::TempDir;

/// No test waits longer for anything. Generous: a timing decides no test.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    dir: TempDir,
    child: Child,
    lines: Receiver<String>,
    http_port: u16,
    /// Where the endpoints of the Services are, in the order in which they are written.
    endpoints: Vec<u16>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `sluice run --echo` over a copy of the quickstart with ports that are free here; gives the lines up to `serving`.
fn start() -> (Running, Vec<String>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let held: Vec<_> = (0..7).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
    for entry in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart")).expect("the quickstart")
    {
        let path = entry.expect("an entry").path();
        let mut text = fs::read_to_string(&path).expect("a manifest");
        for (written, free) in (9001..).zip(&ports[2..]) {
            text = text.replace(&format!("port: {written}"), &format!("port: {free}"));
        }
        fs::write(dir.path().join(path.file_name().expect("a name")), text).expect("a copy");
    }
    drop(held);
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", "--echo", "--admin-address", "127.0.0.1:0"])
        .args(["--http-port", &ports[0].to_string(), "--https-port", &ports[1].to_string()])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sluice starts");
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("its output"));
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let running = Running { dir, child, lines, http_port: ports[0], endpoints: ports[2..].to_vec() };
    let greeting = running.lines_until(|line| line.starts_with("serving "));
    (running, greeting)
}

impl Running {
    /// The lines up to the first that `wanted` accepts.
    #[track_caller]
    fn lines_until(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error} after {seen:#?}"),
            }
            if seen.last().is_some_and(|line| wanted(line)) {
                return seen;
            }
        }
    }

    fn edit(&self, file: &str, change: impl Fn(String) -> String) {
        let path = self.dir.path().join(file);
        let text = change(fs::read_to_string(&path).expect("a manifest"));
        fs::write(&path, text).expect("a save");
    }

    fn ask(&self, host: &str, path: &str) -> Result<(u16, String), String> {
        get(self.http_port, host, path)
    }

    /// Asks until the answer comes from `service`; gives how long it took.
    #[track_caller]
    fn wait_for_service(&self, host: &str, path: &str, service: &str) -> Duration {
        let began = Instant::now();
        loop {
            let (status, body) = self.ask(host, path).expect("an answer");
            if serde_json::from_str::<Value>(&body).is_ok_and(|answer| answer["service"] == service) {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "{service} never answered; last {status}: {body}");
        }
    }
}

/// One request on a connection of its own.
fn get(port: u16, host: &str, path: &str) -> Result<(u16, String), String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer but {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| head.to_owned())?;
    Ok((status, body.to_owned()))
}

#[test]
fn every_printed_line_shows_its_backend() {
    let (_running, greeting) = start();
    let commands = greeting.iter().filter_map(|line| line.strip_prefix("  "));
    let (sockets, commands): (Vec<_>, Vec<_>) = commands.partition(|command| command.contains("Upgrade: websocket"));
    let run = |command: &str| {
        let command = command.replace("curl ", "curl -sS ");
        let output = Command::new("sh").args(["-c", &command]).output().expect("sh and curl run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let (floods, single): (Vec<_>, Vec<_>) = commands.iter().partition(|command| command.starts_with("for "));
    let mut answered = Vec::new();
    for command in single {
        let text = run(command);
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"));
        let scheme = if command.contains("https://") { "https" } else { "http" };
        assert_eq!(answer["headers"]["x-forwarded-proto"], scheme, "{command}: {text}");
        answered.push((scheme, answer["service"].as_str().unwrap_or_default().to_owned()));
    }
    for scheme in ["http", "https"] {
        for service in ["demo/storefront", "demo/search", "demo/api-v2"] {
            assert!(answered.contains(&(scheme, service.to_owned())), "{scheme} {service} in {greeting:#?}");
        }
    }
    assert_eq!(sockets.len(), 1, "{greeting:#?}");
    // It gives up in the end, which is no success to curl.
    let output = Command::new("sh").args(["-c", sockets[0]]).output().expect("sh and curl run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("HTTP/1.1 101 "), "{}: {text}", sockets[0]);

    assert_eq!(floods.len(), 1, "{commands:#?}");
    let began = Instant::now();
    while !run(floods[0]).contains("503") {
        assert!(began.elapsed() < PATIENCE, "no limit: {}", floods[0]);
    }
}

#[test]
fn a_websocket_gets_its_messages_back() {
    let (running, _) = start();
    let mut stream = TcpStream::connect(("127.0.0.1", running.http_port)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    // The key and its answer are RFC 6455's own example (section 1.3).
    assert!(head.starts_with("http/1.1 101 ") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    // A text message and a close, both masked with zeros; the answers are not masked (RFC 6455, section 5).
    stream.write_all(b"\x81\x85\0\0\0\0hello\x88\x80\0\0\0\0").expect("two frames");
    let mut frames = Vec::new();
    stream.read_to_end(&mut frames).expect("two frames and the end");
    assert_eq!(frames, b"\x81\x05hello\x88\0");
}

#[test]
fn edits_are_live_at_once_and_fail_no_request() {
    let (running, _) = start();
    running.wait_for_service("api.localhost", "/", "demo/api-v1");
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (stop, port) = (stop.clone(), running.http_port);
        std::thread::spawn(move || {
            let (mut failed, mut asked) = (Vec::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                asked += 1;
                match get(port, "api.localhost", "/") {
                    Ok((200, _)) => {}
                    other => failed.push(other),
                }
            }
            (asked, failed)
        })
    };
    // All requests for one version, then all for the other, so that the first new answer tells that the edit is live.
    let path = running.dir.path().join("gateway.yaml");
    let original = fs::read_to_string(&path).expect("the manifest");
    let only_v1 = original.replace("weight: 1", "weight: 0");
    let only_v2 = original.replace("weight: 9", "weight: 0");
    let mut times = Vec::new();
    let mut live = |save: &dyn Fn(), service: &str| {
        let began = Instant::now();
        save();
        running.wait_for_service("api.localhost", "/", service);
        times.push(began.elapsed());
        running.lines_until(|line| line.starts_with("changed: HTTPRoute demo/api ("));
        for _ in 0..20 {
            let (_, body) = running.ask("api.localhost", "/").expect("an answer");
            assert!(body.contains(service), "{body}");
        }
    };
    live(&|| fs::write(&path, &only_v1).expect("a save"), "demo/api-v1");
    for _ in 0..5 {
        live(&|| fs::write(&path, &only_v2).expect("a save"), "demo/api-v2");
        // Saved as many editors do: a new file takes the old one's name.
        let save = || {
            let aside = running.dir.path().join("saving.tmp");
            fs::write(&aside, &only_v1).expect("a new file");
            fs::rename(&aside, &path).expect("a rename");
        };
        live(&save, "demo/api-v1");
    }
    stop.store(true, Ordering::Relaxed);
    let (asked, failed) = load.join().expect("the load ends");
    assert!(failed.is_empty(), "{} of {asked} failed: {failed:?}", failed.len());
    println!("{asked} requests, none failed; from each save to the first new answer: {times:.1?}");
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_with_its_line() {
    let (running, _) = start();
    let original = fs::read_to_string(running.dir.path().join("ingress.yaml")).expect("the manifest");
    let line = original.lines().position(|line| line.contains("rules:")).expect("a rule") + 2;
    running.edit("ingress.yaml", |text| text.replacen("    - host: shop.localhost", "    - host: [shop.localhost", 1));
    let told = running.lines_until(|line| line.contains("(InvalidYaml)"));
    let place =
        told.last().and_then(|told| told.split("ingress.yaml:").nth(1)?.split(':').next()?.parse::<usize>().ok());
    assert!(place.is_some_and(|place| place >= line), "{told:#?}");
    running.wait_for_service("shop.localhost", "/", "demo/storefront");

    // Another file's edit goes through while this one is broken.
    running.edit("gateway.yaml", |text| text.replace("weight: 9", "weight: 0"));
    running.lines_until(|line| line.starts_with("changed: HTTPRoute demo/api"));
    running.wait_for_service("api.localhost", "/", "demo/api-v2");
    running.wait_for_service("shop.localhost", "/", "demo/storefront");

    // A defect that only translation sees names object and field.
    fs::write(running.dir.path().join("ingress.yaml"), original.replacen("name: storefront", "name: nowhere", 1))
        .expect("a save");
    let told = running.lines_until(|line| line.contains("nowhere"));
    assert!(
        told.iter().any(|line| line.contains("ingress.yaml:") && line.contains("Ingress demo/shop: spec.")),
        "{told:#?}"
    );
    fs::write(running.dir.path().join("ingress.yaml"), original).expect("a save");
    running.lines_until(|line| line.starts_with("resolved: "));
    running.wait_for_service("shop.localhost", "/", "demo/storefront");
}

#[test]
fn a_deleted_file_takes_its_routes_along() {
    let (running, _) = start();
    running.wait_for_service("api.localhost", "/", "demo/api-v1");
    fs::remove_file(running.dir.path().join("gateway.yaml")).expect("a removal");
    running.lines_until(|line| line.starts_with("changed: Gateway demo/api, HTTPRoute demo/api"));
    let began = Instant::now();
    while running.ask("api.localhost", "/").is_ok_and(|(status, _)| status == 200) {
        assert!(began.elapsed() < PATIENCE);
    }
    running.wait_for_service("shop.localhost", "/", "demo/storefront");
}

/// An HTTPRoute to a Service of another namespace.
const ACROSS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: across, namespace: demo}
spec:
  parentRefs: [{name: api}]
  hostnames: [api.localhost]
  rules: [{matches: [{path: {value: /across}}], backendRefs: [{namespace: elsewhere, name: away, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: elsewhere}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: away-1, namespace: elsewhere, labels: {kubernetes.io/service-name: away}}
addressType: IPv4
ports: [{port: PORT}]
endpoints: [{addresses: [127.0.0.1]}]
"#;

const GRANT: &str = r#"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: from-demo, namespace: elsewhere}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: demo}]
  to: [{group: "", kind: Service}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_goes_cuts_the_traffic_of_open_connections() {
    let (running, _) = start();
    let file = |name: &str| running.dir.path().join(name);
    fs::write(file("across.yaml"), ACROSS.replace("PORT", &running.endpoints[0].to_string())).expect("a file");
    fs::write(file("grant.yaml"), GRANT).expect("a file");
    let began = Instant::now();
    while running.ask("api.localhost", "/across").is_ok_and(|(status, _)| status != 200) {
        assert!(began.elapsed() < PATIENCE, "the route never served");
    }

    // Both stay open to the end: a connection that is closed fails the test.
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", running.http_port)).await.expect("a connection");
        TokioIo::new(stream)
    };
    let (mut http1, driver) = http1::handshake(connect().await).await.expect("HTTP/1.1");
    tokio::spawn(driver);
    let (mut http2, driver) = http2::handshake(TokioExecutor::new(), connect().await).await.expect("HTTP/2");
    tokio::spawn(driver);
    let mut statuses = async || {
        let request = |uri: &str| {
            let request = Request::get(uri).header("host", "api.localhost");
            request.body(Empty::<Bytes>::new()).expect("a request")
        };
        let mut answers = Vec::new();
        http1.ready().await.expect("an open connection");
        answers.push(http1.send_request(request("/across")).await.expect("an answer"));
        http2.ready().await.expect("an open connection");
        let mut over_http2 = request("http://api.localhost/across");
        over_http2.headers_mut().clear();
        answers.push(http2.send_request(over_http2).await.expect("an answer"));
        let mut statuses = [0; 2];
        for (answer, status) in answers.into_iter().zip(&mut statuses) {
            *status = answer.status().as_u16();
            answer.into_body().collect().await.expect("a whole answer");
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 200]);
    for (present, status) in [(false, 500), (true, 200), (false, 500)] {
        let began = Instant::now();
        match present {
            true => fs::write(file("grant.yaml"), GRANT).expect("a file"),
            false => fs::remove_file(file("grant.yaml")).expect("a removal"),
        }
        while statuses().await != [status, status] {
            assert!(began.elapsed() < PATIENCE, "{status} never came");
        }
        println!("{status} after {:?}", began.elapsed());
        for _ in 0..20 {
            assert_eq!(statuses().await, [status, status], "and so it stays");
        }
    }
}

#[test]
fn asked_to_stop_it_answers_what_has_begun_and_exits_well() {
    let (mut running, _) = start();
    running.wait_for_service("shop.localhost", "/", "demo/storefront");
    let asked = Command::new("kill").arg(running.child.id().to_string()).status().expect("kill runs");
    assert!(asked.success());
    running.lines_until(|line| line.starts_with("stopping"));
    let began = Instant::now();
    let status = loop {
        match running.child.try_wait().expect("its status") {
            Some(status) => break status,
            None => assert!(began.elapsed() < PATIENCE, "it did not stop"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn a_folder_that_goes_changes_nothing_and_one_that_takes_its_place_is_followed() {
    let (running, _) = start();
    running.wait_for_service("api.localhost", "/", "demo/api-v1");
    let (dir, aside) = (running.dir.path().to_owned(), tempfile::tempdir().expect("a folder"));
    let old = aside.path().join("old");
    fs::rename(&dir, &old).expect("a rename");
    running.lines_until(|line| line.contains("everything stays as it is"));
    assert_eq!(running.ask("shop.localhost", "/").expect("an answer").0, 200);
    let swap = |weights: &str, service: &str| {
        let new = aside.path().join("new");
        fs::create_dir(&new).expect("a folder");
        for entry in fs::read_dir(&old).expect("the old folder") {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).expect("a manifest").replace(weights, "weight: 0");
            fs::write(new.join(path.file_name().expect("a name")), text).expect("a copy");
        }
        if dir.exists() {
            fs::rename(&dir, aside.path().join(service.replace('/', "-"))).expect("a rename");
        }
        fs::rename(&new, &dir).expect("a rename");
        running.lines_until(|line| line.starts_with("changed: HTTPRoute demo/api ("));
        running.wait_for_service("api.localhost", "/", service);
    };
    swap("weight: 9", "demo/api-v2");
    swap("weight: 1", "demo/api-v1");
    // Edits of the new folder are seen, too.
    running.edit("gateway.yaml", |text| text.replace("weight: 9", "weight: 0").replacen("weight: 0", "weight: 7", 2));
    running.lines_until(|line| line.starts_with("changed: HTTPRoute demo/api ("));
}

#[test]
fn a_file_that_stays_empty_takes_its_objects_along() {
    let (running, _) = start();
    fs::write(running.dir.path().join("gateway.yaml"), "").expect("a truncation");
    running.lines_until(|line| line.starts_with("changed: Gateway demo/api, HTTPRoute demo/api"));
}

#[test]
fn a_file_that_is_written_in_pieces_loses_nothing() {
    let (running, _) = start();
    running.wait_for_service("api.localhost", "/", "demo/api-v1");
    let path = running.dir.path().join("gateway.yaml");
    let original = fs::read_to_string(&path).expect("the manifest");
    let text = original.replace("weight: 9", "weight: 0");
    let mut file = fs::File::create(&path).expect("the file, empty");
    for piece in text.as_bytes().chunks(text.len().div_ceil(12)) {
        // Long enough for the command to read what is there.
        std::thread::sleep(Duration::from_millis(30));
        file.write_all(piece).expect("a piece");
        file.flush().expect("a piece");
        assert_ne!(running.ask("api.localhost", "/").expect("an answer").0, 404);
    }
    let told = running.lines_until(|line| line.starts_with("changed: "));
    assert!(told.last().is_some_and(|line| line.starts_with("changed: HTTPRoute demo/api (")), "{told:#?}");
    running.wait_for_service("api.localhost", "/", "demo/api-v2");
}

/// Runs the command over a folder with this manifest until it serves; gives what came on standard output and error by then, and the
/// greeting's lines.
fn run_over(manifest: &str, arguments: &[&str], ask: impl Fn(u16, u16)) -> (String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("all.yaml"), manifest).expect("a manifest");
    let held: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
    drop(held);
    let (out, error) = (dir.path().join("out"), dir.path().join("error"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", "--admin-address", "127.0.0.1:0"])
        .args(["--http-port", &ports[0].to_string(), "--https-port", &ports[1].to_string()])
        .args(arguments)
        .arg(dir.path())
        .stdout(fs::File::create(&out).expect("a file"))
        .stderr(fs::File::create(&error).expect("a file"))
        .spawn()
        .expect("sluice starts");
    let told = || {
        let text = |path| fs::read_to_string(path).expect("what was told");
        (text(&out), text(&error))
    };
    let began = Instant::now();
    while !format!("{}{}", told().0, told().1).contains("serving ") {
        assert!(began.elapsed() < PATIENCE, "{:?}", told());
        std::thread::sleep(Duration::from_millis(10));
    }
    ask(ports[0], ports[1]);
    // It ends well, and has written all by then.
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    told()
}

/// A Gateway with so many rules, and a listener of TLS for one name.
fn gateway(rules: usize) -> String {
    let key = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
    let indented = |text: String| text.replace('\n', "\n    ");
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n---\n",
        indented(key.cert.pem()),
        indented(key.signing_key.serialize_pem())
    );
    text.push_str(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  gatewayClassName: sluice\n  \
         listeners:\n  - {name: http, port: 80, protocol: HTTP}\n  - {name: https, port: 443, protocol: HTTPS, hostname: \
         a.example, tls: {certificateRefs: [{name: a}]}}\n",
    );
    for rule in 0..rules {
        text.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{rule}}}\nspec:\n  \
             parentRefs: [{{name: g, sectionName: http}}]\n  hostnames: [h{rule}.example]\n  rules: [{{filters: [{{type: \
             RequestRedirect, requestRedirect: {{hostname: b.example}}}}]}}]\n"
        ));
    }
    text
}

#[test]
fn an_access_log_for_programs_has_standard_output_for_itself() {
    let (out, error) = run_over(&gateway(1), &["--access-log", "json"], |http, _| {
        assert_eq!(get(http, "h0.example", "/").expect("an answer").0, 302);
    });
    assert!(error.contains("try:") && error.contains("serving ") && error.contains("stopping"), "{error}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1, "{out}");
}

#[test]
fn what_to_try_is_no_endless_list() {
    let (out, _) = run_over(&gateway(60), &[], |_, _| {});
    assert_eq!(out.lines().filter(|line| line.starts_with("  curl ")).count(), 24, "{out}");
    assert!(out.contains("and 36 more; `sluice explain`"), "{out}");
}

#[test]
fn who_asks_a_gateway_for_another_name_finds_nobody() {
    run_over(&gateway(1), &[], |_, https| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates([]);
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let handshake = |name: &'static str| {
            let name = name.try_into().expect("a name");
            let mut client = rustls::ClientConnection::new(Arc::new(config.clone()), name).expect("a client");
            let mut stream = TcpStream::connect(("127.0.0.1", https)).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            while client.is_handshaking() {
                if let Err(error) = client.complete_io(&mut stream) {
                    return error.to_string();
                }
            }
            "done".to_owned()
        };
        // Whoever shows a certificate is not trusted here.
        let known = handshake("a.example");
        assert!(known.contains("certificate"), "{known}");
        let unknown = handshake("b.example");
        assert!(!unknown.contains("certificate"), "{unknown}");
    });
}

#[test]
fn what_an_api_server_would_refuse_keeps_the_last_good_version() {
    let (running, _) = start();
    running.wait_for_service("shop.localhost", "/", "demo/storefront");
    running.edit("ingress.yaml", |text| text.replace("pathType: Prefix", "pathType: Prefx"));
    let told = running.lines_until(|line| line.contains("no path type Prefx"));
    assert!(told.iter().any(|line| line.contains("held before stays in use")), "{told:#?}");
    assert_eq!(running.ask("shop.localhost", "/").expect("an answer").0, 200);
}

#[test]
fn a_port_that_is_taken_is_told_and_not_offered() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", "--admin-address", "127.0.0.1:0", "--http-port", &port, "--https-port", &free])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("sluice starts");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok) {
        lines.push(line);
        if lines.last().is_some_and(|line| line.starts_with("serving ")) {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(lines.iter().any(|line| line.starts_with("not served: ") && line.contains(&port)), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("curl") && line.contains(&format!(":{port}/"))), "{lines:#?}");
    let serving = lines.last().expect("a last line");
    assert!(serving.contains(&free) && !serving.contains(&port), "{serving}");
}

#[test]
fn what_keeps_it_from_starting_is_one_line_of_text() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin = taken.local_addr().expect("its address").to_string();
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().display().to_string();
    let cases: [(&[&str], &str, i32); 4] = [
        (&["run", "/no/such/folder"], "/no/such/folder", 1),
        (&["run", &dir, "--admin-address", &admin], "--admin-address", 1),
        (&["run", &dir, "--http-port", "8443"], "--https-port", 2),
        (&["run", &dir, "--http-port", "0"], "--http-port", 2),
    ];
    for (arguments, word, code) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().expect("sluice runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(word) && !told.starts_with('{'), "{told}");
    }
}
