//! Between the typed model and the wire: `From` on the way out, `TryFrom` on the way in.
//!
//! Decoding parses every value into the model's closed types again. What does not fit fails with the field's name.

mod auth;
mod cluster;
mod cors;
mod filter;
mod l4;
mod listener;
mod route;
mod session;
mod settings;
mod stream;

use std::time::Duration;

use ipnet::IpNet;
use prost::Message as _;

use crate::{Resource, proto};

/// Bytes that are not a resource, or a value that the model does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct DecodeError {
    field: String,
    reason: String,
}

impl DecodeError {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same error seen from the message that holds the field.
    fn inside(mut self, parent: impl std::fmt::Display) -> Self {
        self.field = if self.field.is_empty() { parent.to_string() } else { format!("{parent}.{}", self.field) };
        self
    }
}

impl Resource {
    /// The wire encoding. Equal resources have equal encodings.
    pub fn encode(&self) -> Vec<u8> {
        use proto::resource::Resource as Wire;
        let resource = match self {
            Resource::Settings(settings) => Wire::Settings(settings.into()),
            Resource::Certificate(certificate) => Wire::Certificate(certificate.into()),
            Resource::Listener(listener) => Wire::Listener(listener.into()),
            Resource::Endpoints(endpoints) => Wire::Endpoints(endpoints.into()),
            Resource::Cluster(cluster) => Wire::Cluster(cluster.into()),
            Resource::Route(route) => Wire::Route(route.into()),
            Resource::L4Route(route) => Wire::L4Route(route.into()),
        };
        proto::Resource { resource: Some(resource) }.encode_to_vec()
    }

    /// Parses the wire encoding. Fails for bytes that are no message, and for every value outside of the model; an unknown
    /// [`Filter`](crate::Filter) alone is a value of the model.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use proto::resource::Resource as Wire;
        let message =
            proto::Resource::decode(bytes).map_err(|error| DecodeError::new("resource", error.to_string()))?;
        match message.resource {
            Some(Wire::Settings(settings)) => field(settings, "settings").map(Resource::Settings),
            Some(Wire::Certificate(certificate)) => field(certificate, "certificate").map(Resource::Certificate),
            Some(Wire::Listener(listener)) => field(listener, "listener").map(Resource::Listener),
            Some(Wire::Endpoints(endpoints)) => field(endpoints, "endpoints").map(Resource::Endpoints),
            Some(Wire::Cluster(cluster)) => field(cluster, "cluster").map(Resource::Cluster),
            Some(Wire::Route(route)) => field(route, "route").map(Resource::Route),
            Some(Wire::L4Route(route)) => field(route, "l4_route").map(Resource::L4Route),
            None => Err(DecodeError::new("resource", "is of a kind that is not known here")),
        }
    }
}

/// An enum whose variants have the same names on both sides, besides the wire's `Unspecified`.
macro_rules! same_variants {
    ($name:ident { $($variant:ident),+ }) => {
        impl From<$name> for crate::proto::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => Self::$variant),+ }
            }
        }

        impl TryFrom<crate::proto::$name> for $name {
            type Error = crate::DecodeError;

            fn try_from(value: crate::proto::$name) -> Result<Self, Self::Error> {
                match value {
                    $(crate::proto::$name::$variant => Ok(Self::$variant),)+
                    crate::proto::$name::Unspecified => Err(crate::DecodeError::new("", "is not set")),
                }
            }
        }
    };
}
use same_variants;

fn list<'a, W: From<&'a T>, T>(items: &'a [T]) -> Vec<W> {
    items.iter().map(W::from).collect()
}

fn field<W, T: TryFrom<W, Error = DecodeError>>(value: W, name: &str) -> Result<T, DecodeError> {
    T::try_from(value).map_err(|error| error.inside(name))
}

fn required<W, T: TryFrom<W, Error = DecodeError>>(value: Option<W>, name: &str) -> Result<T, DecodeError> {
    field(value.ok_or_else(|| unset(name))?, name)
}

fn optional<W, T: TryFrom<W, Error = DecodeError>>(value: Option<W>, name: &str) -> Result<Option<T>, DecodeError> {
    value.map(|value| field(value, name)).transpose()
}

fn fields<W, T: TryFrom<W, Error = DecodeError>>(values: Vec<W>, name: &str) -> Result<Vec<T>, DecodeError> {
    let parse = |(index, value)| T::try_from(value).map_err(|error| error.inside(format_args!("{name}[{index}]")));
    values.into_iter().enumerate().map(parse).collect()
}

fn enumeration<W, T>(value: i32, name: &str) -> Result<T, DecodeError>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = DecodeError>,
{
    let known =
        W::try_from(value).map_err(|_| DecodeError::new(name, format!("the value {value} is not known here")))?;
    field(known, name)
}

/// An alternative that is absent, or newer than this reader.
fn unset(name: &str) -> DecodeError {
    DecodeError::new(name, "is not set, or not known here")
}

fn not_empty<T>(values: Vec<T>, name: &str) -> Result<Vec<T>, DecodeError> {
    if values.is_empty() { Err(DecodeError::new(name, "is empty")) } else { Ok(values) }
}

fn not_blank(value: String, name: &str) -> Result<String, DecodeError> {
    if value.is_empty() { Err(DecodeError::new(name, "is empty")) } else { Ok(value) }
}

fn positive(value: u32, name: &str) -> Result<u32, DecodeError> {
    if value == 0 { Err(DecodeError::new(name, "is 0")) } else { Ok(value) }
}

fn port(value: u32, name: &str) -> Result<u16, DecodeError> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(DecodeError::new(name, format!("{value} is not a port"))),
    }
}

fn status(value: u32, name: &str, allowed: impl Fn(u16) -> bool) -> Result<u16, DecodeError> {
    match u16::try_from(value) {
        Ok(status) if allowed(status) => Ok(status),
        _ => Err(DecodeError::new(name, format!("the status {value} is not allowed"))),
    }
}

/// Saturates at 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn cidrs(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(IpNet::to_string).collect()
}

fn networks(cidrs: Vec<String>, name: &str) -> Result<Vec<IpNet>, DecodeError> {
    let parse = |(index, cidr): (usize, String)| {
        cidr.parse().map_err(|_| DecodeError::new(format!("{name}[{index}]"), format!("{cidr:?} is not a CIDR")))
    };
    cidrs.into_iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests;
