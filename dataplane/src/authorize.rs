//! Asking whether a request may pass. Without an answer it may not.

use std::time::Duration;

use http::{Method, Response};
use tokio::time::Instant;

use crate::arriving::Arriving;
use crate::balance::Picked;
use crate::body::Download;
use crate::exchange::Exchange;
use crate::filter::{ExternalAuth, Outgoing};
use crate::reason::Reason;
use crate::route::Rule;
use crate::subrequest::{CONNECT, Subrequest};
use crate::upstream::Sent;

/// How long the service may take to the head of its answer, and between two reads of the body of a refusal.
const WITHIN: Duration = Duration::from_secs(10);

/// The service's refusal, which is the client's answer.
pub struct Denied {
    /// Its head.
    pub response: Response<()>,
    /// Its body.
    pub body: Download,
    /// Counts at the service's endpoint until the end.
    pub picked: Picked,
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
    method: &Method,
    request: &mut Outgoing,
    arriving: &mut Arriving,
) -> Result<Option<Denied>, Reason> {
    let body = match auth.max_body() {
        0 => None,
        most => arriving.whole(exchange, rule, most.into()).await?,
    };
    let own = Instant::now() + WITHIN;
    let whole = rule.timeouts.request.map(|limit| exchange.start + limit);
    let head = auth.question(method, request, body.is_some()).ok_or(Reason::BadPath)?;
    let question = Subrequest {
        cluster: auth.cluster(),
        head,
        body,
        connect: rule.timeouts.connect.unwrap_or(CONNECT),
        pause: Duration::ZERO,
        until: whole.map_or(own, |whole| whole.min(own)),
    };
    let Some((sent, picked)) = question.send(&exchange.client.worker).await else {
        let late = whole.is_some_and(|whole| whole <= Instant::now());
        return Err(if late { Reason::RequestTimeout } else { Reason::AuthUnavailable });
    };
    match sent {
        Sent::Answered(mut response, body) if auth.is_yes(response.status()) => {
            auth.grant(std::mem::take(response.headers_mut()), request);
            Sent::Answered(response, body).discard();
            Ok(None)
        }
        Sent::Answered(response, body) => {
            let until = whole.map(|whole| (whole, Reason::RequestTimeout));
            Ok(Some(Denied { response, body: Download::new(body, Some(WITHIN), until), picked }))
        }
        // Nobody asked it to switch protocols.
        Sent::Switched(..) => Err(Reason::AuthUnavailable),
    }
}
