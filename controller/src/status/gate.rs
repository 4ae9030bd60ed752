//! Whether the data planes run what a status is about to claim.

use std::collections::BTreeMap;

use translate::{DataPlane, Kind, Statuses};

use super::{Fingerprint, Target};
use crate::stream::Acks;

/// Why a status has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// There is nobody who could run it.
    #[error("No data plane is connected and ready.")]
    Nobody,
    /// Somebody does not run it yet.
    #[error("Not every ready data plane has acknowledged this configuration yet.")]
    Behind,
}

/// Remembers which publication each status waits for.
#[derive(Debug, Default)]
pub struct Gate {
    current: u64,
    waiting: BTreeMap<Target, (Fingerprint, u64)>,
}

impl Gate {
    /// Notes the number of the newest publication.
    pub fn published(&mut self, publication: u64) {
        self.current = publication;
    }

    /// Whether every ready data plane runs a publication as new as the one that was current when `token` last changed;
    /// otherwise why not.
    pub fn check(&mut self, target: &Target, plane: &DataPlane, token: Fingerprint, acks: &Acks) -> Result<(), Wait> {
        let now = (token, self.current);
        let waiting = self.waiting.entry(target.clone()).or_insert(now);
        if waiting.0 != token {
            *waiting = now;
        }
        if acks.programmed(plane, waiting.1) {
            return Ok(());
        }
        let ready = acks.connected(plane).any(|(_, connected)| connected.ready);
        Err(if ready { Wait::Behind } else { Wait::Nobody })
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
