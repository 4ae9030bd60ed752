//! The scenarios, in the order in which they run on one cluster.

mod addresses;
mod answers;
mod bad_input;
mod churn;
mod examples;
mod failures;
mod limits;
mod sockets;

use anyhow::Result;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::suite::Suite;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A property of the product that holds or does not.
pub struct Scenario {
    pub name: &'static str,
    /// Returns figures to print.
    pub run: for<'a> fn(&'a mut Suite) -> LocalBoxFuture<'a, Result<String>>,
}

/// The WebSockets are opened early and looked at last; the shared data planes that they go through are rolled, never cut.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "helm_install_ready_within_60s", run: |suite| answers::helm_install(suite).boxed_local() },
    Scenario { name: "examples_answer", run: |suite| examples::apply(suite).boxed_local() },
    Scenario { name: "ingress_answers", run: |suite| answers::ingress_answers(suite).boxed_local() },
    Scenario { name: "httproute_answers", run: |suite| answers::httproute_answers(suite).boxed_local() },
    Scenario { name: "tls_certificate_per_sni", run: |suite| answers::certificate_per_name(suite).boxed_local() },
    Scenario { name: "client_address_is_kept", run: |suite| addresses::kept(suite).boxed_local() },
    Scenario { name: "rate_limit", run: |suite| limits::rate_limit(suite).boxed_local() },
    Scenario { name: "stickiness_while_pods_come_and_go", run: |suite| limits::stickiness(suite).boxed_local() },
    Scenario { name: "100_websockets_open", run: |suite| sockets::open(suite).boxed_local() },
    Scenario { name: "secret_rotated_50_times_under_load", run: |suite| churn::secret_rotated(suite).boxed_local() },
    Scenario { name: "deployment_rolled_under_load", run: |suite| churn::deployment_rolled(suite).boxed_local() },
    Scenario { name: "200_route_edits_under_load", run: |suite| churn::route_edits(suite).boxed_local() },
    Scenario { name: "bad_secrets_are_explained", run: |suite| bad_input::secrets(suite).boxed_local() },
    Scenario { name: "bad_object_among_200_good_ones", run: |suite| bad_input::among_good_ones(suite).boxed_local() },
    Scenario {
        name: "all_controllers_killed_under_load",
        run: |suite| failures::controllers_killed(suite).boxed_local(),
    },
    Scenario {
        name: "dataplane_restarted_without_controllers",
        run: |suite| failures::dataplane_restarted(suite).boxed_local(),
    },
    Scenario {
        name: "last_good_survives_controllers",
        run: |suite| bad_input::last_good_survives(suite).boxed_local(),
    },
    Scenario { name: "dataplanes_rolled_under_load", run: |suite| failures::dataplanes_rolled(suite).boxed_local() },
    Scenario { name: "100_websockets_live_through_all", run: |suite| sockets::alive(suite).boxed_local() },
];
