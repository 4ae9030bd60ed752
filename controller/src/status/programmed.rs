//! `Programmed`: what a Gateway and a ListenerSet say of themselves and of each of their listeners, as data planes tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::{GatewayStatus, ListenerSetStatus, ListenerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use translate::DataPlane;

use super::gate::Claim;
use super::{Fingerprint, Gate, Observed, Refused, Target, Write, value};
use crate::stream::Acks;

/// A status with listeners.
pub(super) trait Listening: Clone + Serialize {
    /// Its own conditions.
    fn conditions(&self) -> &[Condition];
    /// Its listeners.
    fn listeners(&self) -> &[ListenerStatus];
    /// Its own conditions, and its listeners.
    fn parts_mut(&mut self) -> (&mut [Condition], &mut [ListenerStatus]);
}

macro_rules! listening {
    ($($status:ident)*) => {
        $(impl Listening for $status {
            fn conditions(&self) -> &[Condition] {
                self.conditions.as_deref().unwrap_or_default()
            }

            fn listeners(&self) -> &[ListenerStatus] {
                self.listeners.as_deref().unwrap_or_default()
            }

            fn parts_mut(&mut self) -> (&mut [Condition], &mut [ListenerStatus]) {
                (self.conditions.as_deref_mut().unwrap_or_default(), self.listeners.as_deref_mut().unwrap_or_default())
            }
        })*
    };
}

listening!(GatewayStatus ListenerSetStatus);

/// What is known of the data planes that serve a status.
pub(super) struct World<'a> {
    pub gate: &'a mut Gate,
    pub acks: &'a Acks,
    pub refused: &'a BTreeMap<DataPlane, Refused>,
    pub now: Instant,
}

impl World<'_> {
    /// What to write of an object whose listeners `plane` serves: false with reason `Pending` until all its data planes are there and
    /// run this generation with these listeners, and with `Invalid` where they do not take a listener.
    pub fn unwritten<T: Listening>(
        &mut self,
        target: &Target,
        observed: &Observed,
        plane: &DataPlane,
        status: &T,
    ) -> Option<Arc<Write>> {
        let generation = status.conditions().iter().find_map(|condition| condition.observed_generation);
        // A Secret or a grant that comes makes a listener of the same generation.
        let served = status.listeners().iter().filter(|listener| is_programmed(&listener.conditions));
        let served: Vec<_> = served.map(|listener| listener.name.as_str()).collect();
        let token = Fingerprint::of(&json!([generation, served]));
        let told = self.refused.get(plane).map(|refused| refused.listeners(status, target.kind, &target.object));
        let status = told.as_ref().unwrap_or(status);
        let wait = self.gate.check(&Claim { target, token, acks: self.acks, now: self.now }, plane);
        let status = match (self.gate.lacking(plane), wait) {
            (Some(why), _) => value(pending(status, generation, None, why)),
            (None, Err(why)) => value(pending(status, generation, Some(observed), &why.to_string())),
            (None, Ok(())) => value(status),
        };
        let fingerprint = Fingerprint::of(&status);
        (fingerprint != observed.fingerprint).then(|| Arc::new(Write { status, fingerprint }))
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

fn is_programmed(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Programmed" && condition.status == "True")
}

/// The status as long as data planes do not run it. One that only went away or did not come back yet still serves what is
/// `observed` as programmed.
fn pending<T: Listening>(status: &T, generation: Option<i64>, observed: Option<&Observed>, why: &str) -> T {
    let mut status = status.clone();
    let (conditions, listeners) = status.parts_mut();
    let told = |programmed: Option<i64>| programmed.is_some() && programmed == generation;
    if !told(observed.and_then(|observed| observed.programmed)) {
        unset(conditions, "Pending", why);
    }
    let before = |name: &str| observed.and_then(|observed| observed.listeners.get(name).copied());
    for listener in listeners.iter_mut().filter(|listener| !told(before(&listener.name))) {
        unset(&mut listener.conditions, "Pending", why);
    }
    status
}
