//! What the two ends of the stream agree on besides the messages.

/// The name in the server's certificate, whatever address the data plane connects to.
pub const SERVER_NAME: &str = "sluice-controller";

/// The largest message that either end takes, in bytes. What does not fit into one is sent in parts.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The most bytes of a message of a data plane: a Hello of some 150,000 resources. A Hello that would be larger lists as many as
/// fit.
pub const MAX_HELLO: usize = 16 << 20;

/// The largest batch that a data plane takes, in bytes over all its parts. A first batch holds everything: this is room for
/// about 400,000 routes or 80,000 certificates.
pub const MAX_BATCH: usize = 512 << 20;

/// The filters that this version knows, by their field names in the protocol; a data plane sends them in its Hello.
pub const CAPABILITIES: &[&str] = &[
    "request_headers",
    "response_headers",
    "redirect",
    "rewrite",
    "https_redirect",
    "trailing_slash_redirect",
    "nginx_headers",
    "strict_transport_security",
    "rate_limit",
    "connection_limit",
    "mirror",
    "cors",
    "external_auth",
];
