//! Who a data plane is: the ServiceAccount whose token it shows.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// The audience for which data planes' tokens are made.
pub const TOKEN_AUDIENCE: &str = "sluice";

/// Longer ones are not looked at.
const MAX_TOKEN: usize = 16 << 10;

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

/// How tokens are checked. No token is kept.
#[derive(Clone)]
pub enum Authenticator {
    /// By the API server, for [`TOKEN_AUDIENCE`].
    TokenReview(Client),
    /// By this table, where there is no API server.
    Static(BTreeMap<String, ServiceAccount>),
}

impl Authenticator {
    /// The account whose bearer token the metadata hold. `UNAUTHENTICATED` without a valid one, `UNAVAILABLE` when it cannot be checked.
    pub(super) async fn account(&self, metadata: &MetadataMap) -> Result<ServiceAccount, Status> {
        let token = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .filter(|token| token.len() <= MAX_TOKEN)
            .ok_or_else(|| {
                Status::unauthenticated("a data plane must send its ServiceAccount token as bearer token")
            })?;
        let account = match self {
            Authenticator::TokenReview(client) => review(client, token).await?,
            Authenticator::Static(accounts) => accounts.get(token).cloned(),
        };
        account.ok_or_else(|| {
            Status::unauthenticated(format!(
                "the token is not a valid ServiceAccount token for the audience {TOKEN_AUDIENCE}"
            ))
        })
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

async fn review(client: &Client, token: &str) -> Result<Option<ServiceAccount>, Status> {
    let spec = TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
    let review = TokenReview { spec, ..Default::default() };
    let answer =
        Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(%error, "the API server cannot review a data plane's token");
            Status::unavailable("the token cannot be reviewed at the moment")
        })?;
    Ok(account(answer))
}

/// An authenticator that knows nothing of audiences answers with none: such an answer does not count.
fn account(review: TokenReview) -> Option<ServiceAccount> {
    let status = review.status.filter(|status| status.authenticated == Some(true))?;
    status.audiences?.iter().find(|audience| *audience == TOKEN_AUDIENCE)?;
    let username = status.user?.username?;
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
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
        assert_eq!(account(answer(PROXY, "sluice", true)), Some(proxy));
        assert_eq!(account(answer(PROXY, "sluice", false)), None);
        assert_eq!(account(answer(PROXY, "other", true)), None);
        assert_eq!(account(answer("admin", "sluice", true)), None);
        assert_eq!(account(TokenReview::default()), None);
    }
}
