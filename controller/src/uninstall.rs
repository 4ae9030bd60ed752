//! `sluice uninstall`: takes back what the controllers wrote to objects that stay when they go.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use futures::{StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use translate::{Kind, ObjectKey, Settings};

use crate::kinds::api_resource;
use crate::status::{self, Target};
use crate::write::{reason, reason_of_client, within};

/// How many objects are listed at a time.
const PAGE: u32 = 500;
/// How many objects are written at once.
const AT_ONCE: usize = 8;

/// Take back what the controllers wrote to your objects, before `helm uninstall`
///
/// Clears the statuses of Ingresses, Gateways, ListenerSets, routes, policies and GatewayClasses as far as this installation wrote
/// them: addresses, conditions, and its entries in lists that it shares with other controllers. What others wrote stays.
///
/// The controllers must not run, since they would write all of it again: scale their Deployment to 0 first. Data planes go on
/// with what they have until they are deleted. Works with the current context of the kubeconfig or, inside a pod, with its
/// ServiceAccount; that of the controllers has the rights.
///
/// Exits with 0 when all is clear, 1 when some objects could not be cleared, 2 when controllers still run, the cluster cannot
/// be reached or an argument is wrong.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl scale -n sluice deployment/sluice-controller --replicas=0
  sluice uninstall --clear-status --dry-run
  sluice uninstall --clear-status
  helm uninstall -n sluice sluice

  sluice uninstall --clear-status --namespace edge --election-id edge-leader --context production")]
pub struct Args {
    /// Clear the statuses that this installation wrote
    #[arg(long, required = true)]
    clear_status: bool,

    /// Only say what would be cleared
    #[arg(long)]
    dry_run: bool,

    /// The namespace of the installation
    #[arg(long, env = "POD_NAMESPACE", default_value = "sluice")]
    namespace: String,

    /// The name of the Lease of its controllers: as long as one of them holds it, nothing is cleared
    #[arg(long, default_value = "sluice-leader")]
    election_id: String,

    /// As the controllers have it: the value of kubernetes.io/ingress.class
    #[arg(long, default_value = "sluice")]
    ingress_class: String,

    /// As the controllers have it: spec.controller of their IngressClasses
    #[arg(long, default_value = "sluice.dev/ingress-controller")]
    controller_class: String,

    /// As the controllers have it: spec.controllerName of their GatewayClasses
    #[arg(long, default_value = "sluice.dev/gateway-controller")]
    gateway_controller_name: String,

    /// The kubeconfig to use; default: as kubectl
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig to use
    #[arg(long)]
    context: Option<String>,
}

/// What became of the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// How many of each kind are clear now, or would be.
    pub objects: BTreeMap<Kind, usize>,
    /// What could not be cleared, and why.
    pub failures: Vec<String>,
}

/// The command.
pub fn main(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return wrong(&error),
    };
    runtime.block_on(async {
        let client = match client(args).await {
            Ok(client) => client,
            Err(error) => return wrong(&error),
        };
        if let Err(error) = nobody_leads(&client, &args.namespace, &args.election_id).await {
            return wrong(&error);
        }
        let settings = Settings {
            ingress_controller: args.controller_class.clone(),
            ingress_class: args.ingress_class.clone(),
            gateway_controller: args.gateway_controller_name.clone(),
            ..Settings::default()
        };
        let cleared = clear_status(&client, &status::controllers(&settings), args.dry_run).await;
        println!("{}", cleared.text(args.dry_run));
        for failure in &cleared.failures {
            eprintln!("{failure}");
        }
        if cleared.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
    })
}

impl Cleared {
    fn text(&self, dry_run: bool) -> String {
        let what = if dry_run { "would be cleared" } else { "cleared" };
        if self.objects.is_empty() {
            return format!("no status {what}");
        }
        let counts: Vec<_> = self.objects.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        format!("statuses {what}: {}", counts.join(", "))
    }
}

fn wrong(error: &dyn fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(2)
}

async fn client(args: &Args) -> Result<Client, String> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let config = match &args.kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file).map_err(|error| format!("{}: {error}", file.display()))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| error.to_string())
        }
        None if args.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| error.to_string()),
        None => Config::infer().await.map_err(|error| error.to_string()),
    };
    Client::try_from(config?).map_err(|error| error.to_string())
}

/// Fails as long as a controller holds the Lease.
async fn nobody_leads(client: &Client, namespace: &str, name: &str) -> Result<(), String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = leases.get_opt(name).await.map_err(|error| {
        format!("cannot read Lease {namespace}/{name}, to see whether controllers run: {}", reason_of_client(&error))
    })?;
    let Some(spec) = lease.and_then(|lease| lease.spec) else { return Ok(()) };
    let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else { return Ok(()) };
    let duration = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let is_over = spec.renew_time.is_none_or(|renewed| {
        jiff::Timestamp::now().duration_since(renewed.0) > jiff::SignedDuration::from_secs(duration)
    });
    match is_over {
        true => Ok(()),
        false => Err(format!(
            "the controller {holder} holds Lease {namespace}/{name} and would write all statuses again: scale the \
             controllers' Deployment to 0 and try again in {duration} s"
        )),
    }
}

/// Clears what was written under these names (see [`status::controllers`]).
pub async fn clear_status(client: &Client, controllers: &[String], dry_run: bool) -> Cleared {
    let mut cleared = Cleared::default();
    let kinds = Kind::ALL.iter().copied().filter(|kind| Target::of(*kind, &ObjectKey::new("", "")).is_some());
    for kind in kinds {
        if let Err(error) = clear_kind(client, kind, controllers, dry_run, &mut cleared).await {
            cleared.failures.push(format!("{kind}: cannot be listed: {}", reason_of_client(&error)));
        }
    }
    cleared
}

async fn clear_kind(
    client: &Client,
    kind: Kind,
    controllers: &[String],
    dry_run: bool,
    cleared: &mut Cleared,
) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &api_resource(kind));
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = match api.list(&page).await {
            Ok(list) => list,
            // The cluster does not have the kind.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error),
        };
        let ours = list.items.iter().filter(|object| status::is_written(kind, object, controllers));
        let ours = ours.map(|object| Target { kind, object: ObjectKey::of(&object.metadata) });
        let results = stream::iter(ours.collect::<Vec<_>>()).map(|target| async move {
            let result = match dry_run {
                true => Ok(()),
                false => within(status::clear(client.clone(), controllers, &target)).await,
            };
            (target, result)
        });
        for (target, result) in results.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            match result {
                Ok(()) => *cleared.objects.entry(kind).or_default() += 1,
                Err(error) => {
                    cleared.failures.push(format!("{kind} {}: not cleared: {}", target.object, reason(&error)));
                }
            }
        }
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page.continue_token = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::api_server;

    #[tokio::test]
    async fn nothing_is_cleared_while_a_controller_leads() {
        let (client, mut requests) = api_server::start().await;
        let mut lease = async |spec: serde_json::Value| {
            let client = client.clone();
            let asking = tokio::spawn(async move { nobody_leads(&client, "edge", "leader").await });
            let asked = requests.next().await;
            assert_eq!(asked.what, "GET /apis/coordination.k8s.io/v1/namespaces/edge/leases/leader");
            match spec.is_null() {
                true => asked.not_found(),
                false => asked.answer(200, &json!({"metadata": {"name": "leader"}, "spec": spec})),
            }
            asking.await.unwrap()
        };
        let held = |renewed: &str| json!({"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": renewed});
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let refused = lease(held(&now)).await.unwrap_err();
        assert!(refused.contains("one") && refused.contains("scale"), "{refused}");
        assert_eq!(lease(held("2026-01-01T00:00:00.000000Z")).await, Ok(()));
        assert_eq!(lease(json!({"holderIdentity": "", "renewTime": now})).await, Ok(()));
        assert_eq!(lease(json!(null)).await, Ok(()));
    }

    #[test]
    fn what_to_do_has_to_be_said() {
        #[derive(Debug, Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        assert!(Cli::try_parse_from(["uninstall"]).is_err());
        let cli = Cli::try_parse_from(["uninstall", "--clear-status"]).unwrap();
        assert!(cli.args.clear_status && !cli.args.dry_run);
    }
}
