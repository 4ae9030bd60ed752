//! Routes: attachments, rules, matches, actions.

use std::time::Duration;

use super::{
    DecodeError, enumeration, fields, list, nanoseconds, not_blank, not_empty, optional, positive, same_variants,
    status, unset,
};
use crate::{
    Action, Attachment, Backend, Match, PathMatch, Rank, Refusal, Retry, Route, Rule, Target, Timeouts, ValueMatch,
    ValuePattern, proto,
};

same_variants!(Refusal { NotFound, InvalidBackend, Unavailable, Unsupported });

impl From<&Route> for proto::Route {
    fn from(route: &Route) -> Self {
        Self { attachments: list(&route.attachments), rules: list(&route.rules) }
    }
}

impl TryFrom<proto::Route> for Route {
    type Error = DecodeError;

    fn try_from(wire: proto::Route) -> Result<Self, DecodeError> {
        Ok(Self { attachments: fields(wire.attachments, "attachments")?, rules: fields(wire.rules, "rules")? })
    }
}

impl From<&Attachment> for proto::Attachment {
    fn from(attachment: &Attachment) -> Self {
        Self { listener: attachment.listener.clone(), hostnames: list(&attachment.hostnames) }
    }
}

impl TryFrom<proto::Attachment> for Attachment {
    type Error = DecodeError;

    fn try_from(wire: proto::Attachment) -> Result<Self, DecodeError> {
        Ok(Self {
            listener: not_blank(wire.listener, "listener")?,
            hostnames: not_empty(fields(wire.hostnames, "hostnames")?, "hostnames")?,
        })
    }
}

impl From<&Rule> for proto::Rule {
    fn from(rule: &Rule) -> Self {
        use proto::rule::Action as Wire;
        let action = match &rule.action {
            Action::Forward(backends) => Wire::Forward(proto::Forward { backends: list(backends) }),
            Action::Refuse(refusal) => Wire::Refuse(proto::Refusal::from(*refusal).into()),
        };
        Self {
            name: rule.name.clone(),
            matches: list(&rule.matches),
            filters: list(&rule.filters),
            action: Some(action),
            timeouts: Some((&rule.timeouts).into()),
            retry: rule.retry.as_ref().map(Into::into),
            persistence: rule.persistence.as_ref().map(Into::into),
            max_body: rule.max_body,
            origins: rule.origins.clone(),
        }
    }
}

impl TryFrom<proto::Rule> for Rule {
    type Error = DecodeError;

    fn try_from(wire: proto::Rule) -> Result<Self, DecodeError> {
        use proto::rule::Action as Wire;
        let action = match wire.action.ok_or_else(|| unset("action"))? {
            Wire::Forward(forward) => {
                Action::Forward(not_empty(fields(forward.backends, "forward.backends")?, "forward.backends")?)
            }
            Wire::Refuse(refusal) => Action::Refuse(enumeration::<proto::Refusal, _>(refusal, "refuse")?),
        };
        Ok(Self {
            name: wire.name,
            matches: not_empty(fields(wire.matches, "matches")?, "matches")?,
            filters: fields(wire.filters, "filters")?,
            action,
            timeouts: wire.timeouts.ok_or_else(|| unset("timeouts"))?.into(),
            retry: optional(wire.retry, "retry")?,
            persistence: optional(wire.persistence, "persistence")?,
            max_body: wire.max_body,
            origins: wire.origins,
        })
    }
}

impl From<&Retry> for proto::Retry {
    fn from(retry: &Retry) -> Self {
        Self {
            attempts: retry.attempts,
            statuses: retry.statuses.iter().map(|status| u32::from(*status)).collect(),
            backoff: nanoseconds(retry.backoff),
        }
    }
}

impl TryFrom<proto::Retry> for Retry {
    type Error = DecodeError;

    fn try_from(wire: proto::Retry) -> Result<Self, DecodeError> {
        let statuses =
            wire.statuses.into_iter().map(|code| status(code, "statuses", |code| (400..600).contains(&code)));
        let attempts = positive(wire.attempts, "attempts")?;
        if attempts > Retry::MOST_ATTEMPTS {
            return Err(DecodeError::new("attempts", format!("{attempts} is more than {}", Retry::MOST_ATTEMPTS)));
        }
        Ok(Self {
            attempts,
            statuses: statuses.collect::<Result<_, _>>()?,
            backoff: Duration::from_nanos(wire.backoff),
        })
    }
}

impl From<&Match> for proto::Match {
    fn from(condition: &Match) -> Self {
        use proto::r#match::Path;
        let path = match &condition.path {
            PathMatch::Exact(path) => Path::Exact(path.clone()),
            PathMatch::Prefix(path) => Path::Prefix(path.clone()),
            PathMatch::LastElement(element) => Path::LastElement(element.clone()),
            PathMatch::Regex(regex) => Path::Regex(regex.clone()),
        };
        Self {
            path: Some(path),
            method: condition.method.clone(),
            headers: list(&condition.headers),
            query: list(&condition.query),
            rank: Some((&condition.rank).into()),
        }
    }
}

impl TryFrom<proto::Match> for Match {
    type Error = DecodeError;

    fn try_from(wire: proto::Match) -> Result<Self, DecodeError> {
        use proto::r#match::Path;
        let path = match wire.path.ok_or_else(|| unset("path"))? {
            Path::Exact(path) => PathMatch::Exact(path),
            Path::Prefix(path) => PathMatch::Prefix(path),
            Path::LastElement(element) => PathMatch::LastElement(element),
            Path::Regex(regex) => PathMatch::Regex(regex),
        };
        Ok(Self {
            path,
            method: wire.method,
            headers: fields(wire.headers, "headers")?,
            query: fields(wire.query, "query")?,
            rank: wire.rank.ok_or_else(|| unset("rank"))?.into(),
        })
    }
}

impl From<&ValueMatch> for proto::ValueMatch {
    fn from(condition: &ValueMatch) -> Self {
        use proto::value_match::Value;
        let value = match &condition.value {
            ValuePattern::Exact(value) => Value::Exact(value.clone()),
            ValuePattern::Regex(regex) => Value::Regex(regex.clone()),
        };
        Self { name: condition.name.clone(), value: Some(value) }
    }
}

impl TryFrom<proto::ValueMatch> for ValueMatch {
    type Error = DecodeError;

    fn try_from(wire: proto::ValueMatch) -> Result<Self, DecodeError> {
        use proto::value_match::Value;
        let value = match wire.value.ok_or_else(|| unset("value"))? {
            Value::Exact(value) => ValuePattern::Exact(value),
            Value::Regex(regex) => ValuePattern::Regex(regex),
        };
        Ok(Self { name: not_blank(wire.name, "name")?, value })
    }
}

impl From<&Rank> for proto::Rank {
    fn from(rank: &Rank) -> Self {
        Self { specificity: rank.specificity, created: rank.created, object: rank.object.clone(), rule: rank.rule }
    }
}

impl From<proto::Rank> for Rank {
    fn from(wire: proto::Rank) -> Self {
        Self { specificity: wire.specificity, created: wire.created, object: wire.object, rule: wire.rule }
    }
}

impl From<&Backend> for proto::Backend {
    fn from(backend: &Backend) -> Self {
        use proto::backend::Target as Wire;
        let target = match &backend.target {
            Target::Cluster(name) => Wire::Cluster(name.clone()),
            Target::Refuse(refusal) => Wire::Refuse(proto::Refusal::from(*refusal).into()),
        };
        Self { weight: backend.weight, target: Some(target), filters: list(&backend.filters) }
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = DecodeError;

    fn try_from(wire: proto::Backend) -> Result<Self, DecodeError> {
        use proto::backend::Target as Wire;
        let target = match wire.target.ok_or_else(|| unset("target"))? {
            Wire::Cluster(name) => Target::Cluster(not_blank(name, "cluster")?),
            Wire::Refuse(refusal) => Target::Refuse(enumeration::<proto::Refusal, _>(refusal, "refuse")?),
        };
        Ok(Self { weight: wire.weight, target, filters: fields(wire.filters, "filters")? })
    }
}

impl From<&Timeouts> for proto::Timeouts {
    fn from(timeouts: &Timeouts) -> Self {
        Self {
            connect: timeouts.connect.map(nanoseconds),
            read: timeouts.read.map(nanoseconds),
            send: timeouts.send.map(nanoseconds),
            request: timeouts.request.map(nanoseconds),
            backend_request: timeouts.backend_request.map(nanoseconds),
        }
    }
}

impl From<proto::Timeouts> for Timeouts {
    fn from(wire: proto::Timeouts) -> Self {
        Self {
            connect: wire.connect.map(Duration::from_nanos),
            read: wire.read.map(Duration::from_nanos),
            send: wire.send.map(Duration::from_nanos),
            request: wire.request.map(Duration::from_nanos),
            backend_request: wire.backend_request.map(Duration::from_nanos),
        }
    }
}
