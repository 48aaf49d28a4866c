//! Who may look at what.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::ca::authenticate::AuthenticatorChain;
use crate::ca::identity::TrustDomains;
use crate::writer::{Heard, Pace, start};

/// The pages of a control plane that knows nothing.
fn admin(metrics_local_only: bool) -> Admin {
    let (_, events) = crate::source::channel();
    let heard = Heard {
        wanted: Arc::<crate::xds::demand::Demand>::default().follow(),
        verdicts: crate::xds::verdict::channel().1,
        keys: watch::channel(Default::default()).1,
        asked: Arc::<crate::xds::demand::Demand<crate::credential::Want>>::default().follow(),
        access: watch::channel(Default::default()).1,
        speaks: watch::channel(0).1,
    };
    let (published, questions, _) =
        start(Arc::default(), Pace::Window(Duration::from_millis(5)), Vec::new(), heard, events).expect("a thread");
    let domains = TrustDomains::new("cluster.local".parse().expect("a domain"), Vec::new());
    Admin {
        ready: watch::channel(true).1,
        registry: SharedRegistry::default(),
        published,
        questions,
        connections: Arc::default(),
        problems: Problems::default(),
        ca: ca::Ca::default(),
        originals: Originals::Folder(PathBuf::from("of nobody")),
        cluster: "Kubernetes".into(),
        // Nobody can prove anything.
        authenticate: Arc::new(AuthenticatorChain::new(Arc::new(domains), Vec::new())),
        system_namespaces: Arc::default(),
        metrics_local_only,
        profile: true,
        stopping: CancellationToken::new(),
        levels: scopes::Levels::new("", Box::new(|_| Ok(()))),
    }
}

async fn status(pages: &Router, path: &str, from: &str) -> u16 {
    let mut request = Request::get(path).body(Body::empty()).expect("a request");
    let from: SocketAddr = format!("{from}:1").parse().expect("an address");
    request.extensions_mut().insert(ConnectInfo(from));
    // A header proves nothing.
    request.headers_mut().insert("x-forwarded-for", "127.0.0.1".parse().expect("a value"));
    pages.clone().oneshot(request).await.expect("an answer").status().as_u16()
}

/// Whoever reached istiod's port could read about proxies of all namespaces.
#[tokio::test]
async fn cve_2026_31838_debug_pages_are_for_nobody_unknown() {
    let pages = monitoring_pages(admin(false));
    let names =
        debug::names().chain(["", "pprof", "pprof/", "pprof/cmdline", "pprof/symbol", "pprof/profile?seconds=0"]);
    for path in names.map(|name| format!("/debug/{name}")).chain(["/debug".to_owned()]) {
        for from in ["10.0.0.1", "[fd00::1]", "[::ffff:10.0.0.1]"] {
            assert_eq!(status(&pages, &path, from).await, 401, "{path} from {from}");
        }
        for from in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
            // Some need an argument, a CA, or a graph, which has ended here.
            let answer = status(&pages, &path, from).await;
            assert!(matches!(answer, 200 | 400 | 404 | 503), "{path} from {from}: {answer}");
        }
    }
    assert_eq!(status(&pages, "/debug/provenancez?type=Address&name=x", "10.0.0.1").await, 401);
    assert_eq!(status(&pages, "/metrics", "10.0.0.1").await, 200);
    assert_eq!(status(&monitoring_pages(admin(true)), "/metrics", "10.0.0.1").await, 403);
    assert_eq!(status(&pages, "/scopej", "10.0.0.1").await, 403);
    assert_eq!(status(&pages, "/scopej", "127.0.0.1").await, 200);
    // The port that probes ask has no other pages.
    assert_eq!(status(&health_pages(admin(false)), "/debug/syncz", "127.0.0.1").await, 404);
}
