use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpStream;

use crate::backend::{Backend, full};
use crate::client::{collect, get, http1, http2};
use crate::rig::{Rig, eventually};

async fn slow() -> Backend {
    Backend::http1(|_: Request<Incoming>| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        full("done")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_fails_no_request() {
    let backend = slow().await;
    let rig = Arc::new(Rig::plain(&[backend.address]));
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (rig, stop, served) = (rig.clone(), stop.clone(), served.clone());
        clients.spawn(async move {
            // A well-behaved client: connects again when it was asked to leave, and stops when nobody accepts.
            while !stop.load(Ordering::SeqCst) {
                let Ok(stream) = TcpStream::connect(rig.address()).await else { return };
                let io = hyper_util::rt::TokioIo::new(stream);
                let Ok((mut sender, driver)) = hyper::client::conn::http1::handshake(io).await else { return };
                tokio::spawn(driver);
                let mut first = true;
                while sender.ready().await.is_ok() {
                    let answer = match sender.send_request(get("/")).await {
                        Ok(response) => collect(response).await.unwrap(),
                        // Accepted by the kernel in the moment in which the port closed.
                        Err(_) if first && stop.load(Ordering::SeqCst) => return,
                        Err(error) => panic!("a request failed: {error:?}"),
                    };
                    first = false;
                    assert_eq!(answer.status, 200);
                    served.fetch_add(1, Ordering::SeqCst);
                    if answer.header("connection") == "close" {
                        break;
                    }
                }
            }
        });
    }
    eventually("there is load", || served.load(Ordering::SeqCst) > 100).await;
    let drain = rig.clone();
    let draining = tokio::spawn(async move { drain.proxy.drain(Duration::from_secs(10)).await });
    eventually("it is not ready", || !rig.proxy.ready()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    stop.store(true, Ordering::SeqCst);
    assert_eq!(draining.await.unwrap().cut, 0);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test]
async fn http2_clients_are_told_to_leave_and_their_streams_finish() {
    let backend = slow().await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let request = Request::get("http://a.example/").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let response = client.send_request(request);
    let (drained, response) = tokio::join!(rig.proxy.drain(Duration::from_secs(5)), response);
    assert_eq!(collect(response.unwrap()).await.unwrap().body, "done");
    assert_eq!(drained.cut, 0);
    eventually("the connection ends", || client.is_closed()).await;
}

#[tokio::test]
async fn what_does_not_finish_is_cut_at_the_deadline() {
    let backend = Backend::http1(|_: Request<Incoming>| std::future::pending()).await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http1(rig.address()).await;
    let response = client.send_request(get("/"));
    let (drained, response) = tokio::join!(rig.proxy.drain(Duration::from_millis(500)), response);
    assert_eq!(drained.cut, 1);
    assert!(response.is_err());
}
