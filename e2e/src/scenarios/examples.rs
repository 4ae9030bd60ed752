//! Every example of the documentation, applied as a user applies it, gives the answers that its comments promise.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::REPOSITORY;
use crate::certificates;
use crate::client::{Answer, Target, connect};
use crate::cluster::{pod_address, until};
use crate::manifests::{echo_pod, restricted_namespace};
use crate::suite::{DATAPLANES, PATIENCE, SYSTEM, Suite};

const NAMESPACE: &str = "examples";

pub async fn apply(suite: &mut Suite) -> Result<String> {
    let cluster = &suite.cluster;
    let rendered = format!("{REPOSITORY}/deploy/sluice.yaml");
    cluster.kubectl(&format!("apply --server-side --force-conflicts --dry-run=server -f {rendered}")).await?;

    let folder = Path::new(REPOSITORY).join("deploy/examples");
    cluster.apply(&restricted_namespace(NAMESPACE)).await?;
    cluster.apply(&(pods("echo", "v1") + &pods("echo-v2", "v2") + &name_servers())).await?;
    cluster.kubectl(&format!("-n {NAMESPACE} apply -f {}", folder.display())).await?;
    let certificate = std::fs::read(folder.join("certificate.yaml"))?;
    let certificate: Value = serde_saphyr::from_slice(&certificate)?;
    let pem = certificate["stringData"]["tls.crt"].as_str().context("certificate.yaml holds no tls.crt")?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
    for deployment in ["echo", "echo-v2", "dns"] {
        cluster.rolled_out(NAMESPACE, deployment).await?;
    }
    cluster.kubectl(&format!("-n {NAMESPACE} wait --for=condition=Programmed gateway --all --timeout=120s")).await?;

    let mut count = 0;
    for file in std::fs::read_dir(&folder)? {
        let path = file?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        answers(suite, name, &certificate).await.with_context(|| format!("example {name}"))?;
        count += 1;
    }
    suite
        .cluster
        .kubectl(&format!("delete --wait=false namespace/{NAMESPACE} gatewayclass/gatewayconfig-per-class"))
        .await?;
    Ok(format!("{count} files"))
}

/// The pods that the examples' Services select.
fn pods(name: &str, version: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: echo, version: {version}}}}}
  template:
    metadata: {{labels: {{app: echo, version: {version}}}}}
{}
---",
        echo_pod(name)
    )
}

/// The pods that the example with a name server selects.
fn name_servers() -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: dns, namespace: {NAMESPACE}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: dns}}}}
  template:
    metadata: {{labels: {{app: dns}}}}
    spec:
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: dns
          image: docker.io/local/e2e:1
          imagePullPolicy: Never
          command: [/coredns, -dns.port=5353]
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
          readinessProbe: {{tcpSocket: {{port: 5353}}, periodSeconds: 1}}
---"
    )
}

/// Asks what the example's comments speak of. The host of each example is its name.
async fn answers(suite: &Suite, example: &str, certificate: &CertificateDer<'_>) -> Result<()> {
    let site = match example {
        "backends" | "certificate" => return Ok(()), // what the others use
        _ => Site::find(suite, example).await?,
    };
    match example {
        "ingress-basic" => {
            site.is_answered_by("/", "echo").await?;
            site.is_answered_by("/v2/cart", "echo-v2").await?;
            site.is_answered_by("/v2x", "echo").await
        }
        "ingress-limits" => {
            site.is_answered_by("/", "echo").await?;
            let too_large = (8 << 20) + 1;
            let status = post(&site.at("/"), too_large).await?;
            ensure!(status.starts_with("HTTP/1.1 413"), "a body of {too_large} bytes is answered with {status}");
            let (passed, limited) = site.burst(&[]).await?;
            ensure!(passed >= 8, "only {passed} requests passed");
            ensure!(limited.status == 503, "status {}", limited.status);
            Ok(())
        }
        "ingress-sticky" | "backendpolicy" => site.cookie_keeps_the_pod().await,
        "httproute-external-auth" => {
            site.is_answered_by("/cart", "echo").await?;
            let headers = [("x-user", "made-up"), ("cookie", "a=b")];
            let echo = site.at("/cart").get_with(&headers).await?.echo()?;
            ensure!(echo["headers"]["x-user"].is_null(), "a client made up {}", echo["headers"]["x-user"]);
            let denied = site.at("/cart").get_with(&[("x-answer-status", "401")]).await?;
            ensure!(denied.status == 401, "status {}", denied.status);
            ensure!(denied.header("x-sluice-reason") == "auth_denied", "reason {}", denied.header("x-sluice-reason"));
            let asked: Value = serde_json::from_slice(&denied.body)?;
            ensure!(asked["path"] == "/authorize/cart" && asked["service"] == "echo-v2", "asked: {asked}");
            Ok(())
        }
        "httproute-sessions" => {
            site.cookie_keeps_the_pod().await?;
            Site(site.at("/api")).header_keeps_the_pod("x-session").await
        }
        "ingress-tls" => {
            site.shows(certificate).await?;
            site.redirects("/cart", 308, &format!("https://{}/cart", site.host())).await
        }
        "listenerset" => {
            site.shows(certificate).await?;
            site.is_answered_by("/", "echo").await
        }
        "tlsroute" => site.shows(certificate).await,
        "udproute" => site.answers_dns().await,
        "gatewayconfig-per-class" => {
            site.is_answered_by("/", "echo").await?;
            let other = Target { host: format!("other.{}", site.host()), ..site.at("/") };
            Site(other).is_answered_by("/", "echo-v2").await
        }
        "gateway-http" | "gatewayconfig" => site.is_answered_by("/", "echo").await,
        "gateway-client-certificates" => site.lets_nobody_in_without_certificate().await,
        // Here nothing listens for TLS: what cannot prove itself is not spoken to in plain text instead.
        "backendtlspolicy" => {
            let answer = site.at("/").get().await?;
            ensure!(answer.status == 502, "status {}", answer.status);
            Ok(())
        }
        "gateway-https" => {
            site.shows(certificate).await?;
            site.redirects("/cart", 301, &format!("https://{}/cart", site.host())).await
        }
        "httproute-matches" => {
            site.is_answered_by("/health", "echo-v2").await?;
            site.is_answered_by("/orders/7", "echo-v2").await?;
            site.is_answered_by("/orders/seven", "echo").await?;
            site.is_answered_by("/v2?lang=de", "echo").await?;
            site.at("/v2?lang=de").get_with(&[("x-beta", "yes")]).await?.from("echo-v2")?;
            site.at("/v2?lang=es").get_with(&[("x-beta", "yes")]).await?.from("echo")?;
            Ok(())
        }
        "httproute-redirect" => site.redirects("/old/a", 302, "https://www.example.com/new/a").await,
        "httproute-rewrite" => {
            site.is_answered_by("/api/a", "echo").await?;
            let answer = site.at("/api/a").get_with(&[("x-debug", "1")]).await?;
            let echo = answer.echo()?;
            ensure!(echo["path"] == "/a", "the path is {}", echo["path"]);
            let headers = &echo["headers"];
            ensure!(headers["host"][0] == "internal.example.com", "the host is {}", headers["host"]);
            ensure!(headers["x-api"][0] == "1" && headers["x-debug"].is_null(), "the headers are {headers}");
            ensure!(answer.header("x-served-by") == "sluice", "x-served-by: {}", answer.header("x-served-by"));
            Ok(())
        }
        "httproute-weights" => {
            site.is_answered_by("/", "echo").await?;
            let mut answered = BTreeMap::<String, usize>::new();
            for _ in 0..200 {
                let echo = site.at("/").get().await?.echo()?;
                *answered.entry(echo["service"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
            let second = answered.get("echo-v2").copied().unwrap_or_default();
            ensure!((1..100).contains(&second), "the answers came from {answered:?}");
            Ok(())
        }
        "trafficpolicy" => {
            site.is_answered_by("/", "echo").await?;
            let (passed, limited) = site.burst(&[]).await?;
            ensure!(passed >= 20, "only {passed} requests passed");
            refused_by_policy(&limited)?;
            let api = Site(site.at("/api"));
            let (_, limited) = api.burst(&[("x-api-key", "one")]).await?;
            refused_by_policy(&limited)?;
            api.0.get_with(&[("x-api-key", "two")]).await?.from("echo")?;
            Ok(())
        }
        _ => bail!("nothing is known about its answers"),
    }
}

/// How long a name server may take.
const WAIT: Duration = Duration::from_secs(2);

/// A question for the address of `example.org` (RFC 1035), with an identity of its own.
const QUESTION: &[u8] = b"\x53\x4c\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";

/// Whether this is a successful answer to [`QUESTION`].
fn is_answer(message: &[u8]) -> Result<()> {
    ensure!(message.len() > 12 && message[..2] == QUESTION[..2], "no answer: {message:?}");
    ensure!(message[2] & 0x80 != 0 && message[3] & 0x0f == 0, "flags {:?}", &message[2..4]);
    Ok(())
}

fn refused_by_policy(answer: &Answer) -> Result<()> {
    ensure!(answer.status == 429, "status {}", answer.status);
    ensure!(!answer.header("retry-after").is_empty(), "there is no Retry-After");
    Ok(())
}

/// One data plane that serves an example.
struct Site(Target);

impl Site {
    async fn find(suite: &Suite, example: &str) -> Result<Site> {
        let gateway = format!("gateway.networking.k8s.io/gateway-name={example}");
        let (namespace, selector) = match example {
            "gatewayconfig-per-class" => (SYSTEM, "app.kubernetes.io/name=sluice-gateway-class"),
            _ if example.starts_with("ingress") => (SYSTEM, DATAPLANES),
            _ => (NAMESPACE, gateway.as_str()),
        };
        let pods = suite.cluster.pods(namespace, selector).await?;
        let address = pod_address(pods.first().context("no data plane")?, 80)?;
        Ok(Site(Target::http(address, &format!("{example}.localhost"), "/")))
    }

    fn host(&self) -> &str {
        &self.0.host
    }

    fn at(&self, path: &str) -> Target {
        Target { path: path.into(), ..self.0.clone() }
    }

    /// Waits until a question is answered, over UDP and over TCP.
    async fn answers_dns(&self) -> Result<()> {
        let mut address = self.0.address;
        address.set_port(53);
        until(PATIENCE, "answers over UDP and TCP", async || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
            socket.connect(address).await?;
            socket.send(QUESTION).await?;
            let mut answer = [0; 512];
            let length = timeout(WAIT, socket.recv(&mut answer)).await??;
            is_answer(&answer[..length])?;

            let mut stream = TcpStream::connect(address).await?;
            stream.write_u16(QUESTION.len().try_into()?).await?;
            stream.write_all(QUESTION).await?;
            let length = usize::from(timeout(WAIT, stream.read_u16()).await??).min(answer.len());
            timeout(WAIT, stream.read_exact(&mut answer[..length])).await??;
            is_answer(&answer[..length])
        })
        .await
    }

    /// The port for HTTPS takes connections, and no request of a client that shows no certificate.
    async fn lets_nobody_in_without_certificate(&self) -> Result<()> {
        let mut target = Target { tls: Some(certificates::trusting_all()), ..self.0.clone() };
        target.address.set_port(443);
        TcpStream::connect(target.address).await.context("port 443")?;
        match target.get().await {
            Ok(answer) => bail!("a client without certificate got {}", answer.status),
            Err(_) => Ok(()),
        }
    }

    /// Waits until `echo` answers over TLS with this certificate.
    async fn shows(&self, certificate: &CertificateDer<'_>) -> Result<()> {
        let mut target = Target { tls: Some(certificates::trusting_all()), ..self.0.clone() };
        target.address.set_port(443);
        until(PATIENCE, "an answer over TLS", async || {
            let answer = target.get().await?;
            ensure!(answer.certificate.as_ref() == Some(certificate), "another certificate is shown");
            answer.from("echo")
        })
        .await?;
        Ok(())
    }

    /// Waits until this Service answers.
    async fn is_answered_by(&self, path: &str, service: &str) -> Result<()> {
        let target = self.at(path);
        until(PATIENCE, &format!("{path} is answered by {service}"), async || target.get().await?.from(service))
            .await?;
        Ok(())
    }

    /// Waits until the answer is this redirect.
    async fn redirects(&self, path: &str, status: u16, to: &str) -> Result<()> {
        let target = self.at(path);
        until(PATIENCE, &format!("{path} is redirected to {to}"), async || {
            let answer = target.get().await?;
            ensure!(answer.status == status, "status {}", answer.status);
            ensure!(answer.header("location") == to, "to {}", answer.header("location"));
            Ok(())
        })
        .await
    }

    /// Sends until a request is refused; returns how many were not, and the refusal.
    async fn burst(&self, headers: &[(&str, &str)]) -> Result<(usize, Answer)> {
        for passed in 0..200 {
            let answer = self.0.get_with(headers).await?;
            if answer.status != 200 {
                return Ok((passed, answer));
            }
        }
        bail!("200 requests passed")
    }

    async fn header_keeps_the_pod(&self, name: &str) -> Result<()> {
        let answer = self.0.get().await?;
        let session = answer.header(name);
        ensure!(!session.is_empty(), "there is no {name}");
        self.keeps_the_pod(&answer, (name, session)).await
    }

    async fn cookie_keeps_the_pod(&self) -> Result<()> {
        let answer = until(PATIENCE, "a cookie", async || {
            let answer = self.0.get().await?;
            ensure!(answer.header("set-cookie").starts_with("visitor="), "status {}", answer.status);
            Ok(answer)
        })
        .await?;
        let cookie = answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
        self.keeps_the_pod(&answer, ("cookie", &cookie)).await
    }

    /// Whoever sends this header is answered by the pod of this answer.
    async fn keeps_the_pod(&self, answer: &Answer, header: (&str, &str)) -> Result<()> {
        let pod = answer.echo()?["pod"].clone();
        for _ in 0..20 {
            let other = self.0.get_with(&[header]).await?.echo()?["pod"].clone();
            ensure!(other == pod, "{other} answered instead of {pod}");
        }
        Ok(())
    }
}

/// The status line of the answer to a request that says that its body has this many bytes.
async fn post(target: &Target, bytes: u64) -> Result<String> {
    let (mut stream, _) = connect(target).await?;
    let head = format!("POST {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\n\r\n", target.path, target.host);
    stream.write_all(head.as_bytes()).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}
