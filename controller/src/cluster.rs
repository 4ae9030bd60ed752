//! `sluice controller`: everything wired together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use translate::{Kind, Memo, ObjectKey, Stored};

use crate::bootstrap::{self, BootstrapError};
use crate::build::{Builder, Outputs};
use crate::ca::CaError;
use crate::class_guard::ClassGuard;
use crate::events::Teller;
use crate::fetch::Fetcher;
use crate::keys::{Keeper, Users};
use crate::kinds::Watched;
use crate::last_good::{self, Recorder};
use crate::leader::Election;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::provision::{self, Provisioner, Template};
use crate::shutdown::{self, Shutdown};
use crate::status::{self, Writer};
use crate::store::{Change, Store};
use crate::stream::{self, Authenticator, Publisher, ServeError, ServiceAccount};
use crate::{admin, watch as watches};

/// Changes that wait while a translation runs; then the watches wait.
const CHANGES: usize = 1024;
/// How long writes in flight may take after the request to stop.
const FINISH: Duration = Duration::from_secs(5);

/// Why a controller does not start, or stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        #[source]
        error: std::io::Error,
    },
    /// The installation's objects cannot be read or made.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The server's certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CaError),
    /// The stream cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A translation or a task was cut off.
    #[error("a task of the controller failed: {0}")]
    Task(#[from] JoinError),
}

/// A controller that is set up and listens.
pub struct Controller {
    /// Where data planes connect to.
    pub stream_address: SocketAddr,
    /// Where health and metrics are served.
    pub admin_address: SocketAddr,
    tasks: JoinSet<Result<(), Error>>,
    writers: JoinSet<()>,
    election: Election,
    leads: watch::Receiver<bool>,
    stop_writers: shutdown::Trigger,
}

impl Controller {
    /// Serves health, makes or reads the installation's keys as soon as the API server lets it, listens, and starts every task.
    pub async fn start(options: Options, client: Client, metrics: Metrics, shutdown: Shutdown) -> Result<Self, Error> {
        let mut tasks = JoinSet::new();
        let (ready, ready_receiver) = watch::channel(false);
        let admin_listener = listen(options.admin_address).await?;
        let local =
            |listener: &TcpListener, address| listener.local_addr().map_err(|error| Error::Listen { address, error });
        let admin_address = local(&admin_listener, options.admin_address)?;
        let admin = admin::serve(admin_listener, ready_receiver.clone(), metrics.clone(), shutdown.clone());
        tasks.spawn(async move {
            admin.await;
            Ok(())
        });

        let keys = || bootstrap::keys(&client, &options.namespace, &options.installation_secret);
        let keys = bootstrap::patiently(keys).await?;
        let trusted = keys.trusted();
        let authority = || bootstrap::publish_ca(&client, &options.namespace, &options.ca_config_map, &trusted);
        bootstrap::patiently(authority).await?;
        let (server, server_receiver) = watch::channel(keys.issue_server()?);
        let (trusted, trusted_receiver) = watch::channel(keys.trusted());
        let mut settings = options.settings();
        keys.apply_to(&mut settings);
        let (settings, settings_receiver) = watch::channel(Arc::new(settings));

        let stream_listener = listen(options.stream_address).await?;
        let stream_address = local(&stream_listener, options.stream_address)?;

        let publisher = Publisher::new(metrics.refused_sessions());
        let (unwritten, unwritten_receiver) = watch::channel(Arc::default());
        let (reports, reports_receiver) = watch::channel(Arc::default());
        let (infrastructure, infrastructure_receiver) = watch::channel(Arc::default());
        let (taken, taken_receiver) = watch::channel(Arc::default());
        let (classes, classes_receiver) = watch::channel(Arc::default());
        let (unrecorded, unrecorded_receiver) = watch::channel(Arc::default());
        let (leads_sender, leads) = watch::channel(false);
        let controllers = status::controllers(&options.settings());

        let mut kinds = Vec::new();
        let (sender, changes) = mpsc::channel(CHANGES);
        {
            let mut watches = Watches {
                client: &client,
                sender: sender.clone(),
                metrics: &metrics,
                tasks: &mut tasks,
                kinds: &mut kinds,
            };
            macro_rules! watch {
                ($($kind:ident)*) => { $(watches.add::<translate::objects::$kind>();)* };
            }
            translate::every_kind!(watch);
        }
        let record = ObjectKey::new(options.namespace.as_str(), options.last_good_secret.as_str());
        let records = last_good::follow(client.clone(), record.clone(), sender.clone());
        let installation = options.installation();
        let deployments = provision::follow(client.clone(), installation.clone(), sender);
        tasks.spawn(async move {
            tokio::join!(records, deployments);
            Ok(())
        });
        let builder = Builder {
            fetcher: Fetcher::new(client.clone()),
            store: Store::new(kinds, controllers.clone()),
            settings: settings_receiver,
            shared: ServiceAccount {
                namespace: options.shared_service_account.0.namespace.clone(),
                name: options.shared_service_account.0.name.clone(),
            },
            shared_service: options.shared_service.clone().map(|service| service.0),
            publisher: publisher.clone(),
            outputs: Outputs { unwritten, reports, infrastructure, classes, unrecorded, ready },
            leads: leads.clone(),
            taken: taken_receiver,
            metrics: metrics.clone(),
            memo: Memo::default(),
        };
        let stop = shutdown.clone();
        tasks.spawn(async move { Ok(builder.run(changes, stop).await?) });
        let authenticator = Authenticator::TokenReview(client.clone());
        tasks.spawn(async move {
            match stream::serve(stream_listener, server_receiver, authenticator, publisher).await? {}
        });

        let (stop_writers, stopping) = shutdown::channel();
        let mut writers = JoinSet::new();
        let writer = Writer {
            client: client.clone(),
            controllers,
            unwritten: unwritten_receiver,
            leader: leads.clone(),
            metrics: metrics.clone(),
        };
        writers.spawn(writer.run(stopping.clone()));
        let teller = Teller {
            client: client.clone(),
            instance: options.pod_name.clone(),
            reports: reports_receiver,
            leader: leads.clone(),
            metrics: metrics.clone(),
        };
        writers.spawn(teller.run(stopping.clone()));
        let provisioner = Provisioner {
            client: client.clone(),
            template: Template {
                image: options.dataplane_image.clone(),
                pull_policy: options.dataplane_image_pull_policy.clone(),
                pull_secrets: options.dataplane_image_pull_secret.clone(),
                state_size_limit: options.dataplane_state_size_limit.clone(),
                tunnel_idle_seconds: options.dataplane_tunnel_idle_seconds,
                udp_idle_seconds: options.dataplane_udp_idle_seconds,
                replicas: options.gateway_replicas,
                user: (options.gateway_pod_user != 0).then_some(options.gateway_pod_user),
                controllers: format!("{}:{}", options.stream_host(), options.stream_address.port()),
                ca: keys.trusted(),
                installation,
                network_policies: options.gateway_network_policies,
                metrics_annotations: options.gateway_metrics_annotations,
            },
            instance: options.pod_name.clone(),
            plan: infrastructure_receiver,
            taken,
            trusted: trusted_receiver,
            leader: leads.clone(),
        };
        writers.spawn(provisioner.run(stopping.clone()));
        let guard = ClassGuard { client: client.clone(), classes: classes_receiver, leader: leads.clone() };
        writers.spawn(guard.run(stopping.clone()));
        let keeper = Keeper {
            client: client.clone(),
            namespace: options.namespace.clone(),
            secret: options.installation_secret.clone(),
            ca_config_map: options.ca_config_map.clone(),
            keys,
            leader: leads.clone(),
            users: Users { settings, server, trusted },
        };
        writers.spawn(keeper.run(stopping.clone()));
        let recorder =
            Recorder { client: client.clone(), place: record, unrecorded: unrecorded_receiver, leader: leads.clone() };
        writers.spawn(recorder.run(stopping.clone()));
        let election = Election {
            client,
            namespace: options.namespace,
            name: options.election_id,
            identity: options.pod_name,
            ready: ready_receiver,
            metrics,
        };
        writers.spawn(election.clone().run(leads_sender, stopping));
        tracing::info!(%stream_address, %admin_address, "started");
        Ok(Self { stream_address, admin_address, tasks, writers, election, leads, stop_writers })
    }

    /// Whether this replica writes statuses, now and whenever it changes.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Runs until `shutdown` or until a task fails; then finishes the writes in flight and frees the Lease.
    pub async fn run(mut self, mut shutdown: Shutdown) -> Result<(), Error> {
        let result = loop {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Ok(())) => {} // a watch whose changes nobody takes any more
                    Ok(Err(error)) => break Err(error),
                    Err(error) => break Err(error.into()),
                },
                () = shutdown.requested() => break Ok(()),
            }
        };
        self.stop_writers.stop();
        let finished = async { while self.writers.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, finished).await.is_err() {
            tracing::warn!("writes in flight did not end in time");
            self.writers.shutdown().await;
        }
        self.election.release().await;
        result
    }
}

/// Starts watches and remembers which kinds the store has to wait for.
struct Watches<'a> {
    client: &'a Client,
    sender: mpsc::Sender<Change>,
    metrics: &'a Metrics,
    tasks: &'a mut JoinSet<Result<(), Error>>,
    kinds: &'a mut Vec<Kind>,
}

impl Watches<'_> {
    fn add<T: Watched>(&mut self) {
        self.kinds.push(<T as Stored>::KIND);
        let watch = watches::run::<T>(self.client.clone(), self.sender.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            watch.await;
            Ok(())
        });
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error })
}
