//! Whether the proxy can be sent traffic.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::any;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::admin;
use crate::agent::status::{Proxy, configured, pages};

/// Serves pages on a port of its own.
pub(super) async fn serve(router: Router) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, AbortOnDropHandle::new(server))
}

/// What Envoy's admin port says, and what it was asked.
#[derive(Clone, Default)]
pub(super) struct Admin {
    pub(super) stats: Arc<Mutex<Vec<String>>>,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
}

impl Admin {
    /// Pages that answer with each of the texts, and then with the last again.
    pub(super) fn pages(&self) -> Router {
        let admin = self.clone();
        Router::new().fallback(any(move |method: Method, uri: Uri| {
            admin.asked.lock().unwrap().push(format!("{method} {uri}"));
            let mut stats = admin.stats.lock().unwrap();
            let page = if uri.path() == "/stats" && stats.len() > 1 { stats.remove(0) } else { stats[0].clone() };
            async move { page }
        }))
    }
}

fn page(cds: u64, lds: u64, state: u64, workers: u64) -> String {
    format!(
        "cluster_manager.cds.update_rejected: 0\ncluster_manager.cds.update_success: {cds}\n\
         listener_manager.lds.update_success: {lds}\nlistener_manager.workers_started: {workers}\nserver.state: {state}\n"
    )
}

#[test]
fn envoy_is_configured_when_it_has_clusters_and_listeners_and_serves() {
    let says = |page: &str, part: &str| {
        let reason = configured(page).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    };
    says("", "no configuration");
    says(&page(1, 0, 2, 0), "no listeners");
    says(&page(0, 1, 2, 0), "no clusters");
    says(&page(1, 1, 3, 0), "initializing");
    says(&page(1, 1, 1, 1), "draining");
    says(&page(1, 1, 0, 0), "workers");
    says("listener_manager.lds.update_rejected: 2\ncluster_manager.cds.update_success: 1\n", "rejected");
    assert_eq!(configured(&page(1, 2, 0, 1)), Ok(()));
}

async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    match admin::text(address, Method::GET, path).await {
        Ok(text) => (StatusCode::OK, text),
        Err(admin::AdminError::Status(status)) => (status, String::new()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn readiness_needs_envoy_a_certificate_and_configuration() {
    let envoy = Admin::default();
    envoy.stats.lock().unwrap().extend([page(1, 0, 2, 0), page(1, 1, 0, 1)]);
    let (admin, _server) = serve(envoy.pages()).await;
    let proxy = Arc::new(Proxy::new(admin));
    let (status, _pages) = serve(pages(proxy.clone())).await;
    let ready = || async { get(status, "/healthz/ready").await.0 == StatusCode::OK };

    assert!(!ready().await && get(status, "/healthz/live").await.0 != StatusCode::OK);
    proxy.running.store(true, Relaxed);
    assert!(proxy.ready().await.unwrap_err().contains("certificate"));
    assert_eq!(get(status, "/healthz/live").await.0, StatusCode::OK);
    proxy.certificate.send_replace(Some(jiff::Timestamp::now()));
    assert!(!ready().await, "no listeners yet");
    assert!(ready().await);
    let asked = envoy.asked.lock().unwrap().len();
    // What Envoy has reached it does not lose, so it is not asked again.
    assert!(ready().await && envoy.asked.lock().unwrap().len() == asked);
    proxy.draining.store(true, Relaxed);
    assert!(!ready().await);
    assert_eq!(get(status, "/healthz/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_envoys_and_the_agents() {
    let envoy = Admin::default();
    envoy.stats.lock().unwrap().push("# TYPE envoy_x counter\nenvoy_x{} 7\n".into());
    let (admin, _server) = serve(envoy.pages()).await;
    let proxy = Arc::new(Proxy::new(admin));
    proxy.certificate.send_replace(Some(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100)));
    let (status, _pages) = serve(pages(proxy)).await;
    let (_, text) = get(status, "/stats/prometheus").await;
    assert!(text.ends_with("envoy_x{} 7\n") && text.contains("istio_agent_cert_expiry_seconds{"), "{text}");
    assert_eq!(*envoy.asked.lock().unwrap(), ["GET /stats/prometheus"]);
}
