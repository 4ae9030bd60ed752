//! Asking whether a request may pass. Without an answer it may not.

mod grpc;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::Instant;

use self::grpc::Verdict;
use crate::arriving::Arriving;
use crate::balance::Picked;
use crate::body::Download;
use crate::clock::within;
use crate::exchange::Exchange;
use crate::filter::{AuthProtocol, Context, ExternalAuth, GrpcAuth, HeaderChange, HttpAuth, Outgoing};
use crate::reason::Reason;
use crate::replay::Copied;
use crate::route::Rule;
use crate::subrequest::{CONNECT, Subrequest};
use crate::underscores;
use crate::upstream::Sent;

/// How long the service may take to its answer, and between two reads of the body of a refusal.
const WITHIN: Duration = Duration::from_secs(10);

/// The service's refusal, which is the client's answer.
pub struct Denied {
    /// Its head.
    pub response: Response<()>,
    /// Its body.
    pub body: DeniedBody,
    /// Counts at the service's endpoint until the end.
    pub picked: Picked,
}

/// The body of a refusal.
pub enum DeniedBody {
    /// As it comes.
    Streamed(Download),
    /// All of it.
    Whole(Bytes),
}

/// Asks the service about a request; what it says goes into the request. What it may see of the body is read before.
///
/// # Errors
/// [`Reason::AuthUnavailable`] without an answer, [`Reason::RequestTimeout`] when the rule gives the whole exchange no more time,
/// and as [`Arriving::whole`].
pub async fn ask(
    auth: &ExternalAuth,
    exchange: &mut Exchange,
    rule: &Rule,
    context: &Context<'_>,
    request: &mut Outgoing,
    arriving: &mut Arriving,
) -> Result<Option<Denied>, Reason> {
    let body = match auth.max_body {
        0 => None,
        most => arriving.whole(exchange, rule, most.into()).await?,
    };
    // Without trailers: with them the question could not tell its length.
    let body = body.map(Copied::into_data).unwrap_or_default();
    let own = Instant::now() + WITHIN;
    let whole = rule.timeouts.request.map(|limit| exchange.start + limit);
    let question = Question { auth, rule, whole, until: whole.map_or(own, |whole| whole.min(own)) };
    match &auth.protocol {
        AuthProtocol::Http(http) => question.by_http(http, exchange, context, request, body).await,
        AuthProtocol::Grpc(grpc) => {
            let size = if arriving.is_empty() { Some(0) } else { grpc::size(&request.headers) };
            question.by_grpc(grpc, exchange, context, request, body, size).await
        }
    }
}

struct Question<'a> {
    auth: &'a ExternalAuth,
    rule: &'a Rule,
    /// When the exchange must be over.
    whole: Option<Instant>,
    /// When the service must have answered.
    until: Instant,
}

impl Question<'_> {
    async fn by_http(
        &self,
        auth: &HttpAuth,
        exchange: &Exchange,
        context: &Context<'_>,
        request: &mut Outgoing,
        body: Bytes,
    ) -> Result<Option<Denied>, Reason> {
        let head = auth.question(context.method, request, !body.is_empty()).ok_or(Reason::BadPath)?;
        match self.send(exchange, head, body).await? {
            (Sent::Answered(mut response, body), _) if auth.is_yes(response.status()) => {
                auth.grant(std::mem::take(response.headers_mut()), request);
                Sent::Answered(response, body).discard();
                Ok(None)
            }
            (Sent::Answered(response, body), picked) => {
                let until = self.whole.map(|whole| (whole, Reason::RequestTimeout));
                let body = DeniedBody::Streamed(Download::new(body, Some(WITHIN), until));
                Ok(Some(Denied { response, body, picked }))
            }
            // Nobody asked it to switch protocols.
            (Sent::Switched(..), _) => Err(Reason::AuthUnavailable),
        }
    }

    async fn by_grpc(
        &self,
        auth: &GrpcAuth,
        exchange: &mut Exchange,
        context: &Context<'_>,
        request: &mut Outgoing,
        body: Bytes,
        size: Option<u64>,
    ) -> Result<Option<Denied>, Reason> {
        let head = grpc::head(self.until.saturating_duration_since(Instant::now()));
        let question = grpc::question(auth, exchange, context, request, &body, size);
        let (sent, picked) = self.send(exchange, head, question).await?;
        let Sent::Answered(response, body) = sent else { return Err(Reason::AuthUnavailable) };
        match within(Some(self.until), grpc::read(response, body)).await.flatten() {
            Some(Verdict::Passes(changes, removed, of_answer)) => {
                changes.iter().for_each(|change| change.apply(&mut request.headers));
                for name in &removed {
                    request.headers.remove(name);
                }
                let named = changes.iter().map(HeaderChange::name).chain(&removed);
                underscores::remove(&mut request.headers, |name| named.clone().any(|taken| taken == name));
                exchange.effects.of_answer.extend(of_answer);
                Ok(None)
            }
            Some(Verdict::Denied(response, body)) => {
                Ok(Some(Denied { response, body: DeniedBody::Whole(body), picked }))
            }
            None => Err(self.unanswered()),
        }
    }

    async fn send(&self, exchange: &Exchange, head: Request<()>, body: Bytes) -> Result<(Sent, Picked), Reason> {
        let question = Subrequest {
            cluster: &self.auth.cluster,
            head,
            body: (!body.is_empty()).then(|| Copied::new(body)),
            connect: self.rule.timeouts.connect.unwrap_or(CONNECT),
            pause: Duration::ZERO,
            until: self.until,
        };
        question.send(&exchange.client.worker).await.ok_or_else(|| self.unanswered())
    }

    fn unanswered(&self) -> Reason {
        let late = self.whole.is_some_and(|whole| whole <= Instant::now());
        if late { Reason::RequestTimeout } else { Reason::AuthUnavailable }
    }
}
