//! `fairway agent`: runs a stock Envoy as a proxy of the mesh, in place of
//! pilot-agent.
//!
//! It gets the workload's certificate and serves it to Envoy, forwards Envoy's
//! xDS stream with the token, writes the bootstrap, answers probes, and ends
//! Envoy so that no connection is cut that had time to end. Of the control plane
//! it knows the protocol and nothing else. See `docs/agent.md`.
//!
//! Everything runs on the main thread, because Envoy is tied to the thread that
//! starts it, and there is little to do.

pub mod admin;
pub mod bootstrap;
pub mod certificate;
pub mod drain;
pub mod metrics;
pub mod node;
pub mod process;
pub mod proxy_config;
pub mod renewal;
pub mod sds;
pub mod secrets;
pub mod settings;
pub mod socket;
pub mod status;
pub mod upstream;
pub mod xds_proxy;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tracing_subscriber::EnvFilter;

use crate::config::agent::{Agent, AgentEnvironment};

use secrets::Secrets;
use settings::Settings;
use status::Proxy;

/// Runs the agent until Envoy ends, by itself or after SIGTERM or SIGINT.
pub fn run(flags: Agent, unknown_flags: Vec<String>) -> anyhow::Result<ExitCode> {
    let (environment, unknown_variables) = AgentEnvironment::read(std::env::vars()).map_err(anyhow::Error::msg)?;
    let bootstrap_only = flags.bootstrap_only;
    start_logging(&flags)?;
    let (settings, problems) = Settings::new(flags, environment).map_err(anyhow::Error::msg)?;
    let unknown: Vec<_> = unknown_flags.into_iter().chain(unknown_variables).chain(problems).collect();
    if !unknown.is_empty() {
        tracing::warn!(settings = unknown.join(", "), "settings of pilot-agent that have no effect here");
    }
    if bootstrap_only {
        println!("{}", settings.write_bootstrap()?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings))
}

fn start_logging(flags: &Agent) -> anyhow::Result<()> {
    let filter = crate::config::log_filter(&flags.log_output_level);
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("--log_output_level: {filter}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = match flags.log_as_json {
        true => builder.json().flatten_event(true).try_init(),
        false => builder.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// A task that is expected to live as long as the agent.
type Ended = (&'static str, anyhow::Result<()>);

async fn serve(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut tasks: JoinSet<Ended> = JoinSet::new();
    let proxy = Arc::new(Proxy::new(settings.admin()));
    start(&settings, &proxy, &mut tasks).await?;
    let bootstrap = settings.write_bootstrap()?;
    let envoy = settings.envoy(&bootstrap)?;
    tracing::info!(
        node = settings.node.id,
        admin = settings.admin_port,
        status = settings.status_port,
        probes = settings.envoy_status_port,
        metrics = settings.envoy_prometheus_port,
        bootstrap = %bootstrap.display(),
        "ports and files"
    );
    let mut running = envoy.start()?;
    proxy.running.store(true, Relaxed);
    tracing::info!(program = %envoy.program.display(), pid = running.id(), "Envoy started");
    let status = tokio::select! {
        ended = running.ended() => {
            let status = ended?;
            tracing::error!(%status, "Envoy ended, and so does the agent");
            status
        }
        name = signals.next() => {
            tracing::info!(signal = name, "ending");
            proxy.draining.store(true, Relaxed);
            let hurry = async { _ = signals.next().await };
            let status = drain::end(&settings.drain(), &mut running, hurry).await?;
            tracing::info!(%status, "Envoy ended");
            // Asked to end, it did, however that looked.
            return Ok(ExitCode::SUCCESS);
        }
        ended = tasks.join_next() => {
            let error = match ended {
                Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name} ended"),
                Some(Ok((name, Err(error)))) => error.context(name),
                Some(Err(error)) => anyhow::anyhow!("a task panicked: {error}"),
                None => anyhow::anyhow!("nothing is running"),
            };
            running.stop(settings.kill_after).await?;
            return Err(error);
        }
    };
    Ok(ExitCode::from(process::exit_code(status)))
}

/// Everything that Envoy needs.
async fn start(settings: &Settings, proxy: &Arc<Proxy>, tasks: &mut JoinSet<Ended>) -> anyhow::Result<()> {
    let address = SocketAddr::new(settings.listen_address, settings.status_port);
    let pages = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    let service = status::pages(proxy.clone());
    tasks.spawn(async move { ("status pages", axum::serve(pages, service).await.map_err(Into::into)) });

    let secrets = Secrets::default();
    let sds = UnixListenerStream::new(socket::bind(&settings.sds_path)?);
    let service = sds::Sds::server(secrets.clone());
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(sds);
    tasks.spawn(async move { ("secret discovery", server.await.map_err(Into::into)) });
    let files = secrets.clone().follow_files();
    tasks.spawn(async move {
        files.await;
        ("secrets in files", Ok(()))
    });

    let xds = socket::bind(&settings.xds_path)?;
    let upstream = Arc::new(settings.discovery.clone());
    tasks.spawn(async move { ("xDS proxy", xds_proxy::serve(xds, upstream).await) });

    let (ca, identity, ttl) = (settings.ca.clone(), settings.identity.clone(), settings.secret_ttl);
    let (grace, counted) = (settings.grace, proxy.clone());
    let roots = match &settings.ca.roots {
        Some(upstream::Roots::File(path)) => Some(path.clone()),
        _ => None,
    };
    let issue = move || {
        let (ca, identity) = (ca.clone(), identity.clone());
        async move { certificate::request(&ca, &identity, ttl).await }
    };
    tasks.spawn(async move {
        let issued = |result: Result<certificate::Workload, ()>| {
            counted.requests.0.fetch_add(1, Relaxed);
            match result {
                Ok(workload) => {
                    secrets.set_workload(&workload);
                    counted.certificate.send_replace(Some(workload.expires));
                }
                Err(()) => _ = counted.requests.1.fetch_add(1, Relaxed),
            }
        };
        renewal::keep(grace, roots.as_deref(), issue, issued).await;
        ("certificate renewal", Ok(()))
    });
    Ok(())
}

/// What asks the agent to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
