//! What a client speaks, by the scheme of the URL.

use http::Uri;

/// What a client speaks on the connection that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http,
    Https,
    Tls,
    Tcp,
    Udp,
}

impl Spoken {
    /// Every scheme that a URL may have.
    pub(super) const SCHEMES: [(&str, Self); 5] =
        [("http", Self::Http), ("https", Self::Https), ("tls", Self::Tls), ("tcp", Self::Tcp), ("udp", Self::Udp)];

    /// By a URL's scheme; HTTP for what no question has.
    pub(super) fn of(url: &Uri) -> Self {
        let named = |(scheme, _): &&(&str, Self)| url.scheme_str() == Some(scheme);
        Self::SCHEMES.iter().find(named).map_or(Self::Http, |(_, spoken)| *spoken)
    }

    /// The scheme.
    pub(super) fn scheme(self) -> &'static str {
        Self::SCHEMES.iter().find(|(_, spoken)| *spoken == self).map_or("http", |(scheme, _)| scheme)
    }

    /// The port where a URL names none.
    pub(super) fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https | Self::Tls => Some(443),
            Self::Tcp | Self::Udp => None,
        }
    }

    /// Whether there are requests.
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether the client begins with a ClientHello.
    pub(super) fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}
