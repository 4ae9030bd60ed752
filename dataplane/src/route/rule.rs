//! A rule, compiled: everything that a request needs is parsed and looked up.

use std::sync::Arc;

use snapshot::{Refusal, Retry, Timeouts};

use super::weighted::Weighted;
use crate::cluster::{Cluster, ClusterRegistry};
use crate::filter::Filter;
use crate::limit::LimiterRegistry;
use crate::persistence::Sessions;
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
    /// When it is tried again, besides what is always safe.
    pub retry: Option<Retry>,
    /// How a client stays on its backend and endpoint; goes before what the backends' clusters say.
    pub(crate) sessions: Option<Arc<Sessions>>,
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
pub type Backends = Weighted<Backend>;

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

impl Target {
    /// Compiles a target.
    ///
    /// # Errors
    /// Says which cluster does not exist.
    pub(super) fn compile(source: &snapshot::Target, clusters: &ClusterRegistry) -> Result<Self, String> {
        match source {
            snapshot::Target::Cluster(name) => match clusters.get(name) {
                Some(cluster) => Ok(Target::Cluster(cluster.clone())),
                None => Err(format!("the cluster {name:?} does not exist")),
            },
            snapshot::Target::Refuse(refusal) => Ok(Target::Refuse(reason(*refusal))),
        }
    }

    /// The cluster to which it refers.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub fn reach(&self) -> Result<&Arc<Cluster>, Reason> {
        match self {
            Target::Cluster(cluster) => Ok(cluster),
            Target::Refuse(reason) => Err(*reason),
        }
    }

    /// The cluster to which it refers, if it refers to one.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Target::Cluster(cluster) => Some(cluster),
            Target::Refuse(_) => None,
        }
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
        let (filters, action) = match Filter::compile_all(&source.filters, clusters, limiters)? {
            Some(filters) => (filters, compile_action(&source.action, clusters, limiters)?),
            None => (Box::default(), Action::Refuse(Reason::Unsupported)),
        };
        let sessions = source.persistence.as_ref().map(|sessions| Sessions::new(sessions, &source.name)).transpose()?;
        Ok(Self {
            name: source.name.as_str().into(),
            filters,
            action,
            timeouts: source.timeouts.clone(),
            retry: source.retry.clone(),
            sessions: sessions.map(Arc::new),
            max_body: source.max_body,
        })
    }

    /// The filters that a response of the data plane itself goes through: those of the rule and, once one was chosen, of its backend,
    /// by its place.
    pub fn filters_of_responses(&self, backend: Option<usize>) -> impl Iterator<Item = &[Filter]> {
        let backend = match (&self.action, backend) {
            (Action::Forward(backends), Some(place)) => backends.iter().nth(place).map(|backend| &*backend.filters),
            _ => None,
        };
        backend.into_iter().chain([&*self.filters])
    }

    /// The clusters to which the rule refers.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let backends = match &self.action {
            Action::Forward(backends) => Some(backends),
            Action::Refuse(_) => None,
        };
        let backends = || backends.into_iter().flat_map(Weighted::iter);
        let filters = self.filters.iter().chain(backends().flat_map(|backend| &backend.filters));
        backends().filter_map(|backend| backend.target.cluster()).chain(filters.filter_map(Filter::cluster))
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
    let mut choices = Vec::with_capacity(backends.len());
    for backend in backends {
        let choice = match Filter::compile_all(&backend.filters, clusters, limiters)? {
            Some(filters) => Backend { target: Target::compile(&backend.target, clusters)?, filters },
            None => Backend { target: Target::Refuse(Reason::Unsupported), filters: Box::default() },
        };
        choices.push((backend.weight, choice));
    }
    Ok(Action::Forward(Weighted::new(choices)))
}

fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NotFound => Reason::NoRoute,
        Refusal::InvalidBackend => Reason::InvalidBackend,
        Refusal::Unavailable => Reason::Unavailable,
        Refusal::Unsupported => Reason::Unsupported,
    }
}
