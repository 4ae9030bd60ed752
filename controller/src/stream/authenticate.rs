//! Who a data plane is: the ServiceAccount whose token it shows, and the pod that the token was made for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dataplane::diagnostics::Seldom;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// The audience for which data planes' tokens are made.
pub const TOKEN_AUDIENCE: &str = "sluice";

/// Longer ones are not looked at.
const MAX_TOKEN: usize = 16 << 10;

/// What strangers can bring about again and again is logged once in this time.
static REVIEW_FAILED: Seldom = Seldom::new(Duration::from_secs(10));

/// What the API server tells about the pod that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// A Kubernetes ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Who shows a token, and for how long the token says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The ServiceAccount.
    pub account: ServiceAccount,
    /// The pod that the token is bound to, in the account's namespace; kubelets make no other tokens.
    pub pod: Option<String>,
    /// When the token ends, if it does.
    pub(super) expires: Option<SystemTime>,
}

/// How tokens are checked. No token is kept.
#[derive(Clone)]
pub enum Authenticator {
    /// By the API server, for [`TOKEN_AUDIENCE`].
    TokenReview(Client),
    /// By this table, where there is no API server.
    Static(BTreeMap<String, ServiceAccount>),
}

impl Authenticator {
    /// Who shows the bearer token that the metadata hold. `UNAUTHENTICATED` without a valid one, `UNAVAILABLE` when it cannot be checked.
    pub(super) async fn identity(&self, metadata: &MetadataMap) -> Result<Identity, Status> {
        let token = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .filter(|token| token.len() <= MAX_TOKEN)
            .ok_or_else(|| {
                Status::unauthenticated("a data plane must send its ServiceAccount token as bearer token")
            })?;
        let known = match self {
            Authenticator::TokenReview(client) => review(client, token).await?,
            Authenticator::Static(accounts) => accounts.get(token).map(|account| (account.clone(), None)),
        };
        let (account, pod) = known.ok_or_else(|| {
            Status::unauthenticated(format!(
                "the token is not a valid ServiceAccount token for the audience {TOKEN_AUDIENCE}"
            ))
        })?;
        Ok(Identity { account, pod, expires: expiry(token) })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authenticator::TokenReview(_) => f.write_str("TokenReview"),
            Authenticator::Static(_) => f.write_str("Static"),
        }
    }
}

async fn review(client: &Client, token: &str) -> Result<Option<(ServiceAccount, Option<String>)>, Status> {
    let spec = TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
    let review = TokenReview { spec, ..Default::default() };
    let answer =
        Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await.map_err(|error| {
            if REVIEW_FAILED.is_due() {
                tracing::warn!(%error, "the API server cannot review a data plane's token");
            }
            Status::unavailable("the token cannot be reviewed at the moment")
        })?;
    Ok(reviewed(answer))
}

/// An authenticator that knows nothing of audiences answers with none: such an answer does not count.
fn reviewed(review: TokenReview) -> Option<(ServiceAccount, Option<String>)> {
    let status = review.status.filter(|status| status.authenticated == Some(true))?;
    status.audiences?.iter().find(|audience| *audience == TOKEN_AUDIENCE)?;
    let user = status.user?;
    let (namespace, name) = user.username.as_ref()?.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let account = ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
    let pod = user.extra.and_then(|mut extra| extra.remove(POD_NAME)?.into_iter().next());
    Some((account, pod))
}

/// When a token ends, by its claim `exp` (RFC 7519, section 4.1.4). To be asked of reviewed tokens only: nothing is verified here.
fn expiry(token: &str) -> Option<SystemTime> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

    use super::*;

    fn answer(username: &str, audience: &str, authenticated: bool) -> TokenReview {
        let user = UserInfo { username: Some(username.to_owned()), ..Default::default() };
        let status = TokenReviewStatus {
            authenticated: Some(authenticated),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(user),
            ..Default::default()
        };
        TokenReview { status: Some(status), ..Default::default() }
    }

    #[test]
    fn only_an_authenticated_service_account_of_our_audience_counts() {
        const PROXY: &str = "system:serviceaccount:shop:proxy";
        let proxy = ServiceAccount { namespace: "shop".into(), name: "proxy".into() };
        assert_eq!(reviewed(answer(PROXY, "sluice", true)), Some((proxy, None)));
        assert_eq!(reviewed(answer(PROXY, "sluice", false)), None);
        assert_eq!(reviewed(answer(PROXY, "other", true)), None);
        assert_eq!(reviewed(answer("admin", "sluice", true)), None);
        assert_eq!(reviewed(TokenReview::default()), None);
    }

    #[test]
    fn the_pod_is_the_one_that_the_api_server_names() {
        let mut review = answer("system:serviceaccount:shop:proxy", "sluice", true);
        let user = review.status.as_mut().unwrap().user.as_mut().unwrap();
        user.extra = Some([(POD_NAME.to_owned(), vec!["proxy-1".to_owned()])].into());
        assert_eq!(reviewed(review).unwrap().1.as_deref(), Some("proxy-1"));
    }

    #[test]
    fn a_token_ends_when_it_says_so() {
        let token = |claims: &str| format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(expiry(&token(r#"{"iss":"x","exp":1700000000}"#)), Some(at));
        for endless in [&token(r#"{"exp":"soon"}"#), &token("{}"), "", "opaque", "a.b.c"] {
            assert_eq!(expiry(endless), None, "{endless}");
        }
    }
}
