//! What listeners speak.

use crds::gateway::Listener;

use crate::{Kind, Transport};

/// The supported protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, terminated here.
    Https,
    /// TLS that is passed on as it is.
    TlsPassthrough,
    /// TLS, terminated here, whatever is inside.
    TlsTerminate,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The protocol of a listener; `None` for one that is not supported.
    pub fn of(listener: &Listener) -> Option<Self> {
        match listener.protocol.as_str() {
            "HTTP" => Some(Self::Http),
            "HTTPS" => Some(Self::Https),
            "TLS" if passes_through(listener) => Some(Self::TlsPassthrough),
            "TLS" => Some(Self::TlsTerminate),
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    /// The kinds of routes that make sense on it.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Http | Self::Https => &[Kind::HTTPRoute, Kind::GRPCRoute],
            Self::TlsPassthrough => &[Kind::TLSRoute],
            Self::TlsTerminate => &[Kind::TLSRoute, Kind::TCPRoute],
            Self::Tcp => &[Kind::TCPRoute],
            Self::Udp => &[Kind::UDPRoute],
        }
    }

    /// The protocols on which routes of this kind make sense, for sentences.
    pub fn names_for(kind: Kind) -> &'static str {
        match kind {
            Kind::TLSRoute => "TLS",
            Kind::TCPRoute => "TCP, or TLS with mode Terminate",
            Kind::UDPRoute => "UDP",
            _ => "HTTP or HTTPS",
        }
    }

    /// Whether TLS ends here, so that certificates are needed.
    pub fn terminates_tls(self) -> bool {
        matches!(self, Self::Https | Self::TlsTerminate)
    }

    /// Whether connections tell a host name by which listeners of one port are told apart.
    pub fn has_hostname(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether listeners of the two can have the same port number: either they are told apart by host name, or they have
    /// nothing to do with each other.
    pub fn gets_along_with(self, other: Self) -> bool {
        let by_server_name = |protocol| matches!(protocol, Self::Https | Self::TlsPassthrough | Self::TlsTerminate);
        self == other || self.transport() != other.transport() || by_server_name(self) && by_server_name(other)
    }

    /// The protocol under it: ports of different ones are different ports.
    pub fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            _ => Transport::Tcp,
        }
    }
}

/// Whether a listener leaves TLS closed.
pub(super) fn passes_through(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.mode.as_deref() == Some("Passthrough"))
}
