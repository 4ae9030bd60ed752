//! `Programmed`: what a Gateway and a ListenerSet say of themselves and of each of their listeners, as data planes tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::{GatewayStatus, ListenerSetStatus, ListenerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use translate::{DataPlane, Kind, ObjectKey, Statuses};

use super::{Fingerprint, Gate, Observed, Refused, Target, Write, value};
use crate::stream::Acks;

/// A status with listeners.
pub(super) trait Listening: Clone + Serialize {
    /// Its own conditions.
    fn conditions(&self) -> &[Condition];
    /// Its own conditions, and its listeners.
    fn parts_mut(&mut self) -> (&mut [Condition], &mut [ListenerStatus]);
}

macro_rules! listening {
    ($($status:ident)*) => {
        $(impl Listening for $status {
            fn conditions(&self) -> &[Condition] {
                self.conditions.as_deref().unwrap_or_default()
            }

            fn parts_mut(&mut self) -> (&mut [Condition], &mut [ListenerStatus]) {
                (self.conditions.as_deref_mut().unwrap_or_default(), self.listeners.as_deref_mut().unwrap_or_default())
            }
        })*
    };
}

listening!(GatewayStatus ListenerSetStatus);

/// What is known of data planes and of the statuses that the API server holds.
pub(super) struct World<'a> {
    pub statuses: &'a Statuses,
    pub observed: &'a BTreeMap<Target, Observed>,
    pub gate: &'a mut Gate,
    pub acks: &'a Acks,
    pub refused: &'a BTreeMap<DataPlane, Refused>,
    pub now: Instant,
}

impl World<'_> {
    /// What to write of an object whose listeners `gateway` serves: false with reason `Pending` until all its data planes
    /// run this generation, and with `Invalid` where they do not take a listener.
    pub fn unwritten<T: Listening>(
        &mut self,
        kind: Kind,
        object: &ObjectKey,
        gateway: &ObjectKey,
        status: &T,
    ) -> Option<(Target, Arc<Write>)> {
        let target = Target { kind, object: object.clone() };
        let observed = self.observed.get(&target)?;
        let generation = status.conditions().iter().find_map(|condition| condition.observed_generation);
        let token = Fingerprint::of(&json!(generation));
        let plane = self.statuses.data_plane(gateway);
        let told = self.refused.get(&plane).map(|refused| refused.listeners(status, kind, object));
        let status = told.as_ref().unwrap_or(status);
        let status = match self.gate.check(&target, &plane, token, self.acks, self.now) {
            // A data plane that only went away or did not come back yet still serves what was programmed.
            Err(why) if observed.programmed.is_none() || observed.programmed != generation => {
                value(pending(status, &why.to_string()))
            }
            _ => value(status),
        };
        let fingerprint = Fingerprint::of(&status);
        (fingerprint != observed.fingerprint).then(|| (target, Arc::new(Write { status, fingerprint })))
    }
}

/// Makes `Programmed` false where it is true.
pub(super) fn unset(conditions: &mut [Condition], reason: &str, message: &str) {
    let programmed =
        conditions.iter_mut().filter(|condition| condition.type_ == "Programmed" && condition.status == "True");
    for condition in programmed {
        condition.status = "False".into();
        condition.reason = reason.into();
        condition.message = message.into();
    }
}

fn pending<T: Listening>(status: &T, why: &str) -> T {
    let mut status = status.clone();
    let (conditions, listeners) = status.parts_mut();
    unset(conditions, "Pending", why);
    for listener in listeners {
        unset(&mut listener.conditions, "Pending", why);
    }
    status
}
