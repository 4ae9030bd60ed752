//! One client connection that speaks HTTP/1: hyper serves its requests, and between them, while it rests, nothing is kept
//! but its stream.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use crate::connection::{Client, Driven, drive};
use crate::reason::Reason;
use crate::transport::ClientStream;
use crate::tunnel::{self, Switched};
use crate::watch::{Signal, Watch};
use crate::worker::Worker;

/// Serves the requests of a connection until it ends.
pub async fn serve(worker: &Worker, client: Rc<Client>, mut stream: ClientStream) {
    let (watch, peer) = (client.watch.clone(), client.origin.peer());
    let switched = Switched::default();
    let serving = switched.clone();
    let mut service = service_fn(move |request| {
        let (client, switched) = (client.clone(), serving.clone());
        async move {
            Ok::<_, Infallible>(match client.lost {
                false => crate::http::serve(client, request, Some(&switched)).await,
                true => crate::http::refuse_plain(client, request),
            })
        }
    });
    // What was read to learn the protocol is a request's beginning.
    let mut waits = !stream.has_first_bytes();
    loop {
        if waits && !wakes(&mut stream, &watch).await {
            return;
        }
        waits = true;
        watch.awakes();
        let mut connection = Box::pin(worker.http1.serve_connection(TokioIo::new(stream), service));
        let driven = drive(
            &watch,
            &mut connection,
            |connection| connection.as_mut().graceful_shutdown(),
            |connection, cx| {
                connection.as_mut().poll(cx).map(|ended| ended.map_err(|error| count_refusal(worker, peer, &error)))
            },
        )
        .await;
        let parts = Pin::into_inner(connection).into_parts();
        stream = parts.io.into_inner();
        service = parts.service;
        match driven {
            Driven::Rests => stream.rest(&parts.read_buf),
            Driven::Ends => {
                let switched = switched.take();
                match switched {
                    Some(switched) => Box::pin(tunnel::run(worker, switched, stream, parts.read_buf.into())).await,
                    // hyper leaves it open after a request to switch, whatever the response.
                    None => _ = stream.shutdown().await,
                }
                return;
            }
            Driven::Breaks => return,
        }
    }
}

/// Waits until there is something to serve. A connection that is asked to end meanwhile does so in good order: nothing is
/// under way on it.
async fn wakes(stream: &mut ClientStream, watch: &Watch) -> bool {
    watch.rests(stream.has_first_bytes());
    let mut decrypted = false;
    let woken = std::future::poll_fn(|cx| {
        watch.register(cx.waker());
        if watch.asked() == Signal::Cut {
            return Poll::Ready(None);
        }
        if !decrypted {
            decrypted = true;
            if stream.poll_decrypted(cx).is_ready() {
                return Poll::Ready(Some(true));
            }
        }
        // What has arrived already is served.
        match (stream.poll_wake(cx), watch.asked()) {
            (Poll::Pending, Signal::None) => Poll::Pending,
            (Poll::Pending, _) => Poll::Ready(Some(false)),
            (Poll::Ready(()), _) => Poll::Ready(Some(true)),
        }
    })
    .await;
    if woken == Some(false) {
        let _ = stream.shutdown().await;
    }
    woken == Some(true)
}

/// hyper responds to what it cannot parse by itself, without a body; here it is counted and logged.
fn count_refusal(worker: &Worker, client: IpAddr, error: &hyper::Error) {
    let reason = if error.is_parse_too_large() {
        Reason::HeadersTooLarge
    } else if error.is_parse() {
        Reason::BadRequest
    } else {
        tracing::debug!(%error, "connection ended");
        return;
    };
    worker.parser_refused(client.to_canonical(), reason);
}
