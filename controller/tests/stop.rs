//! `sluice controller` as the kubelet ends it.
#![allow(clippy::expect_used)] // helpers of tests may stop at the first surprise, too

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far less than the API server is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_stops_while_the_api_server_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address");
    let kubeconfig = tempfile::NamedTempFile::new().expect("a file");
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "silent", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "silent", "context": {"cluster": "silent", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
        "current-context": "silent",
    });
    std::fs::write(kubeconfig.path(), config.to_string()).expect("a kubeconfig");
    let mut controller = Controller(
        Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["controller", "--namespace=sluice-system", "--pod-name=stopped", "--dataplane-image=none"])
            .args(["--stream-address=127.0.0.1:0", "--admin-address=127.0.0.1:0"])
            .env("KUBECONFIG", kubeconfig.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("sluice starts"),
    );
    let _request = silent.accept().expect("a request to the API server");

    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", controller.0.id())]).status().expect("kill");
    assert!(kill.success());
    let asked = Instant::now();
    let status = loop {
        match controller.0.try_wait().expect("its status") {
            Some(status) => break status,
            None => assert!(asked.elapsed() < PATIENCE, "it still runs"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}
