//! Why the data planes of a Gateway do not start, as the cluster tells of their pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{View, names};
use crate::context::Context;

/// Why a pod does not run.
pub(super) struct Trouble {
    /// The reason of the Gateway's `Programmed`.
    pub(super) reason: &'static str,
    /// In words, with the pod's name.
    pub(super) message: String,
}

/// What keeps every pod that serves the Gateway from running; `None` while one of them has no such trouble, or there is none.
pub(super) fn trouble(context: &Context, view: &View) -> Option<Trouble> {
    let (plane, class) = (view.plane.as_ref()?, &view.object.spec.gateway_class_name);
    let pods = names::pods(context.resources, context.settings, plane, class);
    let pods = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let mut all = pods.map(of_pod).collect::<Option<Vec<_>>>()?;
    if all.is_empty() { None } else { Some(all.swap_remove(0)) }
}

fn of_pod(pod: &Arc<Pod>) -> Option<Trouble> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        let why = condition.message.as_deref().unwrap_or("no node takes it").trim_end_matches('.');
        return Some(Trouble {
            reason: "NoResources",
            message: format!(
                "Pod {name} of the data planes finds no node: {why}. Add nodes, or let the pods request less \
                 (spec.resources of a GatewayConfig)."
            ),
        });
    }
    let waiting =
        status.container_statuses.iter().flatten().find_map(|container| container.state.as_ref()?.waiting.as_ref())?;
    let reason = waiting.reason.as_deref().unwrap_or("Waiting");
    let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    Some(Trouble {
        reason: "Pending",
        message: format!(
            "Pod {name} of the data planes does not run: {reason}{message}. See the pod's events and its log."
        ),
    })
}
