//! A rule, compiled: everything that a request needs is parsed and looked up.

use std::sync::Arc;

use snapshot::{Refusal, Timeouts};

use crate::cluster::{Cluster, ClusterRegistry};
use crate::filter::Filter;
use crate::limit::LimiterRegistry;
use crate::random;
use crate::reason::Reason;

/// What happens to a request that was found to belong here.
#[derive(Debug)]
pub struct Rule {
    /// For people and metrics, see [`snapshot::Rule::name`].
    pub name: Arc<str>,
    /// Applied in order.
    pub filters: Box<[Filter]>,
    /// Where the request goes.
    pub action: Action,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Largest request body in bytes; `None` is unlimited.
    pub max_body: Option<u64>,
}

/// What a rule does once its filters have passed the request.
#[derive(Debug)]
pub enum Action {
    /// Sends it to one of these.
    Forward(Backends),
    /// Answers with this reason.
    Refuse(Reason),
}

/// Backends with their shares.
#[derive(Debug)]
pub struct Backends {
    /// The sum of the weights up to and with the backend at the same place.
    cumulative: Box<[u64]>,
    choices: Box<[Backend]>,
}

/// One choice among a rule's backends.
#[derive(Debug)]
pub struct Backend {
    /// Where this share goes.
    pub target: Target,
    /// Filters of this backend only, applied after the rule's.
    pub filters: Box<[Filter]>,
}

/// Where a backend's share of requests goes.
#[derive(Debug)]
pub enum Target {
    /// To an endpoint of this cluster.
    Cluster(Arc<Cluster>),
    /// Nowhere; it is answered with this reason.
    Refuse(Reason),
}

impl Backends {
    /// One of them, at random by weight.
    ///
    /// # Errors
    /// [`Reason::InvalidBackend`] when all weights are 0 (Gateway API).
    pub fn choose(&self) -> Result<&Backend, Reason> {
        if let [only] = &*self.choices
            && self.cumulative.last().is_some_and(|&sum| sum > 0)
        {
            return Ok(only);
        }
        let point = random::below(self.cumulative.last().copied().unwrap_or_default());
        let position = self.cumulative.partition_point(|&sum| sum <= point);
        self.choices.get(position).ok_or(Reason::InvalidBackend)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.choices.iter()
    }
}

impl Rule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// Says which reference or value is invalid.
    pub(crate) fn compile(
        source: &snapshot::Rule,
        clusters: &ClusterRegistry,
        limiters: &mut LimiterRegistry,
    ) -> Result<Self, String> {
        let (filters, action) = match Filter::compile_all(&source.filters, limiters)? {
            Some(filters) => (filters, compile_action(&source.action, clusters, limiters)?),
            None => (Box::default(), Action::Refuse(Reason::Unsupported)),
        };
        let timeouts = source.timeouts.clone();
        Ok(Self { name: source.name.as_str().into(), filters, action, timeouts, max_body: source.max_body })
    }

    /// The clusters to which the rule refers.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let backends = match &self.action {
            Action::Forward(backends) => &*backends.choices,
            Action::Refuse(_) => &[],
        };
        backends.iter().filter_map(|backend| match &backend.target {
            Target::Cluster(cluster) => Some(cluster),
            Target::Refuse(_) => None,
        })
    }
}

fn compile_action(
    source: &snapshot::Action,
    clusters: &ClusterRegistry,
    limiters: &mut LimiterRegistry,
) -> Result<Action, String> {
    let backends = match source {
        snapshot::Action::Forward(backends) => backends,
        snapshot::Action::Refuse(refusal) => return Ok(Action::Refuse(reason(*refusal))),
    };
    let mut sum = 0;
    let mut cumulative = Vec::with_capacity(backends.len());
    let mut choices = Vec::with_capacity(backends.len());
    for backend in backends {
        sum += u64::from(backend.weight);
        cumulative.push(sum);
        choices.push(match Filter::compile_all(&backend.filters, limiters)? {
            Some(filters) => Backend { target: compile_target(&backend.target, clusters)?, filters },
            None => Backend { target: Target::Refuse(Reason::Unsupported), filters: Box::default() },
        });
    }
    Ok(Action::Forward(Backends { cumulative: cumulative.into(), choices: choices.into() }))
}

fn compile_target(source: &snapshot::Target, clusters: &ClusterRegistry) -> Result<Target, String> {
    match source {
        snapshot::Target::Cluster(name) => match clusters.get(name) {
            Some(cluster) => Ok(Target::Cluster(cluster.clone())),
            None => Err(format!("the cluster {name:?} does not exist")),
        },
        snapshot::Target::Refuse(refusal) => Ok(Target::Refuse(reason(*refusal))),
    }
}

fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NotFound => Reason::NoRoute,
        Refusal::InvalidBackend => Reason::InvalidBackend,
        Refusal::Unavailable => Reason::Unavailable,
        Refusal::Unsupported => Reason::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(weights: &[u32]) -> Backends {
        let backends = weights.iter().map(|&weight| snapshot::Backend {
            weight,
            target: snapshot::Target::Refuse(Refusal::NotFound),
            filters: Vec::new(),
        });
        let source = snapshot::Action::Forward(backends.collect());
        match compile_action(&source, &ClusterRegistry::default(), &mut LimiterRegistry::default()).unwrap() {
            Action::Forward(backends) => backends,
            Action::Refuse(reason) => panic!("{reason:?}"),
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let backends = backends(&[1, 0, 3]);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            let chosen: *const Backend = backends.choose().unwrap();
            counts[backends.iter().position(|backend| std::ptr::eq(backend, chosen)).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_200..2_800).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn no_weight_at_all_is_an_invalid_backend() {
        assert_eq!(backends(&[0]).choose().unwrap_err(), Reason::InvalidBackend);
        assert_eq!(backends(&[0, 0]).choose().unwrap_err(), Reason::InvalidBackend);
        assert_eq!(backends(&[]).choose().unwrap_err(), Reason::InvalidBackend);
    }
}
