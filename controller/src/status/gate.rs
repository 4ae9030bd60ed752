//! Whether the data planes run what a status is about to claim.

use std::collections::BTreeMap;

use crds::gateway::GatewayStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use snapshot::ResourceId;
use translate::{DataPlane, Kind, ObjectKey, Statuses};

use super::{Fingerprint, Target};
use crate::stream::Acks;

/// Why a status has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// There is nobody who could run it.
    #[error("No data plane is connected and ready.")]
    Nobody,
    /// The cluster knows of more than are connected here.
    #[error("Not every ready data plane is connected to this controller yet.")]
    Absent,
    /// Somebody does not run it yet.
    #[error("Not every ready data plane has acknowledged this configuration yet.")]
    Behind,
}

/// Remembers which publication each status waits for.
#[derive(Debug, Default)]
pub struct Gate {
    current: u64,
    /// How many data planes the cluster holds for ready, where that is known.
    ready: BTreeMap<DataPlane, usize>,
    waiting: BTreeMap<Target, (Fingerprint, u64)>,
}

impl Gate {
    /// Notes the number of the newest publication.
    pub fn published(&mut self, publication: u64) {
        self.current = publication;
    }

    /// Notes how many data planes of each group the cluster holds for ready. A controller that just started has heard of few.
    pub fn expect(&mut self, ready: BTreeMap<DataPlane, usize>) {
        self.ready = ready;
    }

    /// Whether every ready data plane runs a publication as new as the one that was current when `token` last changed;
    /// otherwise why not.
    pub fn check(&mut self, target: &Target, plane: &DataPlane, token: Fingerprint, acks: &Acks) -> Result<(), Wait> {
        let now = (token, self.current);
        let waiting = self.waiting.entry(target.clone()).or_insert(now);
        if waiting.0 != token {
            *waiting = now;
        }
        let ready = acks.connected(plane).filter(|(_, connected)| connected.ready).count();
        if ready == 0 {
            Err(Wait::Nobody)
        } else if !acks.programmed(plane, waiting.1) {
            Err(Wait::Behind)
        } else if self.ready.get(plane).is_some_and(|expected| ready < *expected) {
            Err(Wait::Absent)
        } else {
            Ok(())
        }
    }

    /// Forgets objects that have no status any more.
    pub fn forget_except(&mut self, statuses: &Statuses) {
        self.waiting.retain(|target, _| match target.kind {
            Kind::Gateway => statuses.gateways.contains_key(&target.object),
            Kind::HTTPRoute => statuses.routes.contains_key(&(target.kind, target.object.clone())),
            _ => statuses.ingresses.contains_key(&target.object),
        });
    }
}

/// The status of a Gateway, `Programmed` false with reason `Invalid` where data planes reject what the status claims to be served.
pub fn refused(status: &GatewayStatus, gateway: &ObjectKey, rejected: &BTreeMap<&ResourceId, &str>) -> GatewayStatus {
    let mut status = status.clone();
    let mut names = Vec::new();
    for listener in status.listeners.iter_mut().flatten() {
        let id = ResourceId::new(snapshot::Kind::Listener, format!("{gateway}/{}", listener.name));
        if let Some(why) = rejected.get(&id) {
            refuse(&mut listener.conditions, &format!("The data planes do not take the listener: {why}."));
            names.push(listener.name.as_str());
        }
    }
    if let (false, Some(conditions)) = (names.is_empty(), &mut status.conditions) {
        let message = format!("The data planes do not take listener {}: see its conditions.", names.join(", "));
        refuse(conditions, &message);
    }
    status
}

fn refuse(conditions: &mut [Condition], message: &str) {
    let programmed =
        conditions.iter_mut().filter(|condition| condition.type_ == "Programmed" && condition.status == "True");
    for condition in programmed {
        condition.status = "False".into();
        condition.reason = "Invalid".into();
        condition.message = message.into();
    }
}
