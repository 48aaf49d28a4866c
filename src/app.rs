//! The only wiring: sources → writer → servers, and how they start and end.
//!
//! Order of a start: health and monitoring ports answer at once; sources are
//! read; the root is found or made; only when everything has synced are the
//! gRPC ports bound, so that nobody ever sees an empty or half a mesh. On
//! SIGTERM streams are ended one by one with a retryable status, spread over half
//! of the given time, and what is left after all of it is dropped.

mod authority;
mod balance;
mod cluster;
mod edge;
mod gateways;
mod keys;
mod listen;
mod logging;
mod statuses;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::scopes::Levels;
use crate::admin::{self, Admin, SharedRegistry};
use crate::ca::access::Access;
use crate::ca::metrics::CaMetrics;
use crate::config::{self, Discovery, Environment, Traces};
use crate::controller::replicas::Judgements;
use crate::credential::Want;
use crate::model::Settings;
use crate::model::auto_allocation::Pools;
use crate::model::key_set::Fetched;
use crate::model::mesh::MeshConfig;
use crate::source::originals::Originals;
use crate::source::{self, Problems};
use crate::spans;
use crate::writer::{self, Heard, Pace, Published};
use crate::xds::demand::Demand;
use crate::xds::server::{Options, Secrets, Xds};
use crate::xds::verdict;

use authority::Setup;

/// How long commits are at least apart under churn.
const WINDOW: Duration = Duration::from_millis(10);

/// Runs the control plane until SIGTERM or SIGINT.
pub fn run(flags: Discovery, unknown_flags: Vec<String>) -> anyhow::Result<()> {
    let (environment, unknown_variables) = Environment::read(std::env::vars()).map_err(anyhow::Error::msg)?;
    let levels = logging::start(&flags)?;
    let unknown: Vec<_> = unknown_flags.into_iter().chain(unknown_variables).collect();
    if !unknown.is_empty() {
        tracing::warn!(settings = unknown.join(", "), "settings of istiod that have no effect here");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shutdown = flags.shutdown_duration;
    let result = runtime.block_on(serve(flags, environment, levels));
    // What is left now is stuck, and has had its time.
    runtime.shutdown_timeout(shutdown.min(Duration::from_secs(1)));
    result
}

/// Tasks that are expected to live as long as the process.
struct Tasks {
    /// They are dropped when the process ends.
    background: JoinSet<Ended>,
    /// They have somebody at the other end, and are given time.
    servers: JoinSet<Ended>,
    stop: CancellationToken,
}

type Ended = (&'static str, anyhow::Result<()>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.background.spawn(async move { (name, task.await) });
    }

    /// The error of a background task that has ended with one.
    fn failure(&mut self) -> Option<anyhow::Error> {
        let ended = std::iter::from_fn(|| self.background.try_join_next());
        ended.map(|ended| unexpected(Some(ended))).min_by_key(|error| error.to_string() == "graph")
    }

    /// A server, which ends in its own time when told to.
    fn serve(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.servers.spawn(async move { (name, task.await) });
    }

    /// A task that ends by itself when the process stops.
    fn spawn_stoppable(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async move {
            task.await;
            Ok(())
        });
    }
}

async fn serve(flags: Discovery, environment: Environment, levels: Levels) -> anyhow::Result<()> {
    // From the first moment on: a signal during the start must end it too.
    let signal = signal()?;
    tokio::pin!(signal);
    let mut tasks = Tasks { background: JoinSet::new(), servers: JoinSet::new(), stop: CancellationToken::new() };
    let drain = CancellationToken::new();
    let result = tokio::select! {
        started = start(flags.clone(), environment, levels, &mut tasks, drain.clone()) => match started {
            Ok(()) => tokio::select! {
                name = &mut signal => {
                    tracing::info!(signal = name, "draining");
                    Ok(())
                }
                ended = tasks.background.join_next() => Err(unexpected(ended)),
                ended = tasks.servers.join_next() => Err(unexpected(ended)),
            },
            // A task that failed is why the start did.
            Err(error) => Err(tasks.failure().unwrap_or(error)),
        },
        name = &mut signal => {
            tracing::info!(signal = name, "stopping before the start was complete");
            return Ok(());
        }
    };
    drain.cancel();
    tasks.stop.cancel();
    let rest = async { while tasks.servers.join_next().await.is_some() {} };
    if tokio::time::timeout(flags.shutdown_duration, rest).await.is_err() {
        tracing::warn!("some streams did not end in time");
    }
    if spans::on() {
        // It waits for its own thread.
        let _ = tokio::task::spawn_blocking(spans::stop).await;
    }
    result
}

/// Every task has an owner that notices its end; this is it.
fn unexpected(ended: Option<Result<Ended, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name} ended"),
        Some(Ok((name, Err(error)))) => error.context(name),
        Some(Err(error)) => anyhow::anyhow!("a task panicked: {error}"),
        None => anyhow::anyhow!("nothing is running"),
    }
}

async fn start(
    flags: Discovery,
    environment: Environment,
    levels: Levels,
    tasks: &mut Tasks,
    drain: CancellationToken,
) -> anyhow::Result<()> {
    let system_namespace = flags.namespace.clone().unwrap_or_else(|| environment.pod_namespace.clone());
    let settings = Arc::new(Settings {
        cluster: environment.cluster.as_str().into(),
        domain: flags.domain.as_str().into(),
        system_namespace: system_namespace.as_str().into(),
        revision: environment.revision.as_str().into(),
        mesh_file: mesh_file(&flags)?,
        dry_run_policies: environment.dry_run_policies,
        keys_fetched_by: keys::fetched_by(&environment),
        credentials_by_name: flags.config_dir.is_none(),
        persistent_sessions: environment.persistent_sessions,
        gateways_in_own_namespace: environment.gateways_in_own_namespace,
        ingress_namespace: environment.ingress_namespace.as_str().into(),
        all_services_at_gateways: !environment.filter_gateway_clusters,
        http10: environment.http10,
        auto_allocation: environment.auto_allocation.map(|(v4, v6)| Pools { v4, v6 }),
    });
    trace(&environment)?;
    let address = |flag, text: &str| config::address(flag, text).map_err(anyhow::Error::msg);
    let grpc = address("grpcAddr", &flags.grpc_addr)?;
    let secure = address("secureGRPCAddr", &flags.secure_grpc_addr)?;
    let http = address("httpAddr", &flags.http_addr)?;
    let monitoring = address("monitoringAddr", &flags.monitoring_addr)?;

    // The graph, and what feeds it.
    let pace = match environment.debounce {
        Some((quiet, most)) => Pace::Debounce { quiet, most },
        None => Pace::Window(WINDOW),
    };
    let problems = Problems::default();
    let demand = Arc::<Demand>::default();
    let (verdicts, hearing) = verdict::channel();
    let (sender, events) = source::channel();
    let (keys, fetched) = watch::channel(Fetched::default());
    let node_proxies = authority::node_proxies(&environment)?;
    let asked = Arc::<Demand<Want>>::default();
    let (access, may_list) = watch::channel(Access::new());
    let (speaks, spoken) = watch::channel(0);
    let heard = Heard {
        wanted: demand.follow(),
        verdicts: hearing,
        keys: fetched,
        asked: asked.follow(),
        access: may_list,
        speaks: spoken,
    };
    let (published, questions, writer_ended) = writer::start(settings.clone(), pace, node_proxies, heard, events)?;
    tasks.spawn("graph", async move {
        let _ = writer_ended.await;
        bail!("the graph's thread ended")
    });
    let (originals, cluster) = match &flags.config_dir {
        Some(folder) => {
            let (folder, problems) = (folder.clone(), problems.clone());
            let originals = Originals::Folder(folder.clone());
            tasks.spawn("file source", async move { Ok(source::file::run(folder, sender, problems).await?) });
            (originals, None)
        }
        None => {
            let wanted = published.wanted_objects.clone();
            let to = (sender, problems.clone());
            let (client, definitions) = cluster::watch(tasks, &flags, &environment, &settings, wanted, to).await?;
            let system_namespace = settings.system_namespace.clone();
            (Originals::Cluster { client: client.clone(), system_namespace }, Some((client, definitions)))
        }
    };
    let (client, definitions) = cluster.unzip();
    if let Some(client) = &client {
        cluster::ask_for_access(tasks, client.clone(), asked.follow(), access);
    }
    let secrets = Secrets { vault: published.vault.clone(), asked };

    // What answers from the beginning.
    let registry = SharedRegistry::default();
    registry.register(|registry| admin::metrics::register(registry, published.clone(), problems.clone()));
    keys::fetch(tasks, &environment, client.is_none(), &registry, published.wanted_keys.clone(), keys)?;
    let setup = Setup { flags: &flags, environment: &environment, settings: &settings, client: client.as_ref() };
    let trust = setup.trust_domains()?;
    let authenticator = setup.authenticator(&trust, &[])?;
    let options = Options {
        control_plane: control_plane(&environment),
        authenticate_encrypted: environment.xds_auth,
        authenticate_plaintext: environment.xds_auth && environment.xds_auth_plaintext,
        check_identity: environment.xds_identity_check,
        ambient: environment.ambient,
        max_message: environment.max_message.unwrap_or(Options::default().max_message),
        max_age: Some(flags.keepalive_max_server_connection_age).filter(|age| *age < Duration::MAX),
        // The rest of the time is for what is under way then.
        drain: flags.shutdown_duration / 2,
        ..Options::default()
    };
    let views = published.views.clone();
    let xds = registry.register(|registry| {
        Xds::new(views, authenticator.clone(), options, (demand, verdicts), secrets, drain.clone(), registry)
    });

    let (ready, is_ready) = watch::channel(false);
    let ca = admin::ca::Ca::default();
    let pages = Admin {
        ready: is_ready,
        registry: registry.clone(),
        published: published.clone(),
        questions,
        connections: xds.connections().clone(),
        problems: problems.clone(),
        ca: ca.clone(),
        originals,
        cluster: settings.cluster.clone(),
        authenticate: setup.authenticator(&trust, &[admin::access::AUDIENCE])?,
        system_namespaces: std::iter::once(settings.system_namespace.clone())
            .chain(environment.debug_namespaces.iter().map(|namespace| namespace.as_str().into()))
            .collect(),
        metrics_local_only: environment.metrics_local_only,
        profile: flags.profile,
        stopping: drain.clone(),
        levels,
    };
    xds.answer_with(Arc::new(pages.clone()));
    let mut health = admin::health_pages(pages.clone());
    if grpc.is_none() {
        health = health.merge(listen::plaintext_routes(&xds).await?);
    }
    for (name, address, routes) in
        [("health pages", http, health), ("monitoring pages", monitoring, admin::monitoring_pages(pages))]
    {
        if let Some(address) = address {
            let listener = bind(address).await?;
            tracing::info!(address = %listener.local_addr()?, "{name}");
            let stop = tasks.stop.clone();
            let service = routes.into_make_service_with_connect_info::<SocketAddr>();
            tasks.serve(name, async move {
                Ok(axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await?)
            });
        }
    }

    synced(&published).await?;
    looked_up(&published).await;
    tasks.spawn("trust domain", authority::follow_trust_domains(trust.clone(), published.mesh.clone()));

    // What needs the mesh to be known.
    let mesh = published.mesh.borrow().clone();
    trust.set(
        mesh.trust_domain.parse()?,
        mesh.trust_domain_aliases.iter().map(|one| one.parse()).collect::<Result<_, _>>()?,
    );
    let signer = setup.authority(tasks, &trust, &registry, problems).await?;
    if let Some(signer) = &signer {
        ca.show(signer.clone());
    }
    if let (Some(client), Some(signer), false) = (&client, &signer, flags.read_only) {
        cluster::write(tasks, client.clone(), &environment, &settings, signer, &published);
    }
    // What proxies say that are connected to other replicas.
    let (of_others, others) = watch::channel(Arc::<Judgements>::default());
    if let (Some(client), Some(definitions), true, false) =
        (&client, definitions, environment.deploy_gateways, flags.read_only)
    {
        let connections = (xds.connections().clone(), others.clone());
        let api = (client.clone(), definitions);
        let facts = (published.gateways.clone(), published.revisions.clone());
        gateways::write(tasks, api, facts, &flags, &environment, &settings, connections);
    }
    if let (Some(client), false) = (&client, flags.read_only) {
        statuses::write(tasks, client, &environment, &settings, &published, (speaks, others));
        statuses::allocate(tasks, client, &environment, &settings, &published);
        let said = (published.rejections.clone(), of_others);
        balance::keep(tasks, client.clone(), &environment, &settings, xds.connections().clone(), said);
    }
    let keepalive = edge::Keepalive {
        interval: flags.keepalive_interval,
        timeout: flags.keepalive_timeout,
        max_streams: environment.max_streams,
    };
    if let Some(address) = grpc {
        let bound = bind(address).await?;
        tracing::info!(address = %bound.local_addr()?, "plaintext gRPC");
        let port = edge::Port { name: "grpc", xds: xds.clone(), certificates: None, tls: None, keepalive };
        tasks.serve("plaintext gRPC", port.serve(bound, drain.clone()));
    }
    if let Some(address) = secure {
        let serving = setup.serving(tasks, &mesh, signer.clone())?;
        let certificates = signer.map(|signer| {
            let metrics = registry.register(CaMetrics::new);
            setup.certificates(signer, authenticator, trust, &published, metrics, ca.denials)
        });
        let bound = bind(address).await?;
        tracing::info!(address = %bound.local_addr()?, "TLS gRPC");
        let certificates = certificates.transpose()?.map(Arc::new);
        let port = edge::Port { name: "grpc-tls", xds, certificates, tls: Some(serving), keepalive };
        tasks.serve("TLS gRPC", port.serve(bound, drain));
    }
    ready.send_replace(true);
    tracing::info!("ready");
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        // Machines without IPv6 have no address for both families.
        Err(_) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen at {address}"))
}

async fn synced(published: &Published) -> anyhow::Result<()> {
    let mut synced = published.synced.clone();
    synced.wait_for(|synced| *synced).await.context("the graph's thread ended")?;
    let views = published.views.borrow().clone();
    tracing::info!(
        addresses = views.addresses.len(),
        policies = views.authorizations.len(),
        "everything has been read"
    );
    Ok(())
}

/// Waits until what objects refer to has been looked for, but not for long: a
/// proxy that asks for something else is not to wait for that.
async fn looked_up(published: &Published) {
    let mut vault = published.vault.clone();
    let complete = vault.wait_for(|vault| vault.is_complete());
    if tokio::time::timeout(Duration::from_secs(10), complete).await.is_err() {
        tracing::warn!("some Secrets that are referred to cannot be read");
    }
}

fn mesh_file(flags: &Discovery) -> anyhow::Result<Option<Arc<MeshConfig>>> {
    let text = match std::fs::read_to_string(&flags.mesh_config) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("cannot read {}", flags.mesh_config.display())),
    };
    let mesh = MeshConfig::from_yaml(&text).map_err(anyhow::Error::msg);
    let mesh = mesh.with_context(|| format!("{}", flags.mesh_config.display()))?;
    for word in mesh.words() {
        tracing::warn!(file = %flags.mesh_config.display(), field = word.field, message = word.message, "mesh configuration");
    }
    Ok(Some(Arc::new(mesh)))
}

/// Has traces sent, if somebody has said where to.
fn trace(environment: &Environment) -> anyhow::Result<()> {
    let Some(endpoint) = &environment.traces.endpoint else { return Ok(()) };
    if !spans::AVAILABLE {
        tracing::warn!(endpoint, "there are no traces: this build is without the feature otel");
        return Ok(());
    }
    let Traces { endpoint: _, service, share } = &environment.traces;
    spans::start(&spans::Settings {
        endpoint: endpoint.clone(),
        service: service.clone(),
        instance: environment.pod_name.clone(),
        share: *share,
    })?;
    tracing::info!(endpoint, share, "sending traces");
    Ok(())
}

/// What istioctl reads to tell replicas and versions apart.
fn control_plane(environment: &Environment) -> String {
    serde_json::json!({
        "Component": "istiod",
        "ID": environment.pod_name,
        "Info": {"version": concat!(env!("CARGO_PKG_VERSION"), "-fairway")},
    })
    .to_string()
}

fn signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
