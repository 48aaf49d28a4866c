//! What a waypoint on a stock Envoy logs and counts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fairway_integration_tests::echo::Backend;
use fairway_integration_tests::eventually;
use serde_json::Value;
use tokio::net::TcpListener;

use super::policies::policy;
use super::protocols::line;
use super::{SERVICE, Scene, access_log, count, pod, status, subsets, virtual_service};

/// The value of a metric that has all of these labels, summed over the others.
fn sum(page: &str, metric: &str, labels: &[(&str, &str)]) -> u64 {
    let lines = page.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{')));
    let has = |line: &&str| labels.iter().all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")));
    lines.filter(has).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Requests are counted by service, route, subset, caller and answer, also those
/// that a policy refuses: at Envoy under Envoy's names, at the agent under
/// Istio's.
pub async fn metrics() {
    let scene = Scene::new("metrics").await;
    let _echoes = (scene.echo(11, "v11").await, scene.echo(12, "v12").await);
    let routes = virtual_service(
        "
  - name: split
    match: [{uri: {prefix: /}}]
    route:
    - {destination: {host: $name, subset: v11}, weight: 50}
    - {destination: {host: $name, subset: v12}, weight: 50}",
    );
    let deny = policy("deny", "  action: DENY\n  rules: [{to: [{operation: {methods: [DELETE]}}]}]");
    let telemetry = "
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: $name, namespace: default}
spec:
  targetRefs: [{kind: Service, group: \"\", name: $name}]
  metrics:
  - overrides:
    - match: {metric: REQUEST_COUNT}
      tagOverrides: {request_method: {value: request.method}, response_flags: {operation: REMOVE}}
";
    let mesh = [SERVICE, &pod(11), &pod(12), &subsets(&[11, 12]), &routes, &deny, telemetry].concat();
    scene.apply(&mesh).await;
    let client = scene.world.client("reader").await;
    let at = scene.service();
    let by = count(&client, &at, 40, &[]).await;
    for _ in 0..3 {
        assert_eq!(status(&client, &at, "DELETE", "/", &[]).await, 403);
    }
    let host = format!("{}.default.svc.cluster.local", scene.name);
    let reader = "spiffe://cluster.local/ns/default/sa/reader";
    let common = [("destination_service", host.as_str()), ("reporter", "waypoint"), ("source_principal", reader)];
    let with = |more: &[(&'static str, &'static str)]| [&common[..], more].concat();
    let waypoint = &scene.world.waypoint;
    eventually("forty-three requests to be counted", || async {
        let page = waypoint.page("/stats/prometheus").await;
        match sum(&page, "envoy_istio_requests_total", &common) {
            43 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let page = waypoint.page("/stats/prometheus").await;
    let requests = |more: &[(&'static str, &'static str)]| sum(&page, "envoy_istio_requests_total", &with(more));
    assert_eq!(requests(&[("response_code", "200"), ("route_name", "split"), ("request_method", "GET")]), 40);
    assert_eq!(requests(&[("response_code", "403"), ("request_method", "DELETE")]), 3);
    for version in ["v11", "v12"] {
        let cluster = format!("inbound-vip|80|http/{version}|{host}");
        let own = [("upstream_cluster", cluster.as_str()), ("response_code", "200")];
        let labels = [&common[..], &own].concat();
        let counted = sum(&page, "envoy_istio_requests_total", &labels);
        assert_eq!(counted as usize, by.get(version).copied().unwrap_or_default(), "{version}");
    }
    let own = page.lines().filter(|line| line.starts_with("envoy_istio_requests_total{") && line.contains(&host));
    assert!(own.clone().count() > 0 && own.clone().all(|line| !line.contains("response_flags=")), "{page}");
    // Envoy adds up histograms every few seconds.
    eventually("the durations of all requests", || async {
        let page = waypoint.page("/stats/prometheus").await;
        match sum(&page, "envoy_istio_request_duration_milliseconds_count", &with(&[("response_code", "200")])) {
            40 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // What scrapes the agent finds the names that dashboards for Istio have.
    let merged = waypoint.agent_page("/stats/prometheus").await;
    assert_eq!(sum(&merged, "istio_requests_total", &with(&[("response_code", "200")])), 40);
    assert!(merged.contains("# TYPE istio_requests_total counter"), "{merged}");
    assert!(!merged.contains("envoy_istio_"), "{merged}");
    scene.end().await;
}

/// Connections are counted when they end.
pub async fn connections() {
    let scene = Scene::new("connections").await;
    scene.keep(Backend::line(SocketAddr::new(scene.ip(11).into(), 8080), "line").await);
    let service = SERVICE.replace("name: http, port: 80", "name: tcp, port: 80");
    scene.apply(&[&*service, &pod(11)].concat()).await;
    let client = scene.world.client("caller").await;
    for _ in 0..3 {
        assert_eq!(line(&client, &scene.service(), "hello\n").await, Ok("line hello\n".into()));
    }
    let host = format!("{}.default.svc.cluster.local", scene.name);
    let labels = [("destination_service", host.as_str()), ("request_protocol", "tcp")];
    eventually("three connections to be counted", || async {
        let page = scene.world.waypoint.page("/stats/prometheus").await;
        let count = |name: &str| sum(&page, &format!("envoy_istio_tcp_{name}_total"), &labels);
        match (count("connections_closed"), count("received_bytes"), count("sent_bytes")) {
            (3, 18, 33) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    scene.end().await;
}

/// The lines of the log about a scene.
fn lines(scene: &Scene) -> Vec<Value> {
    let text = std::fs::read_to_string(access_log()).unwrap_or_default();
    let own = format!("/{}/", scene.name);
    let lines = text.lines().filter(|line| line.contains(&own));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// A Telemetry says where is logged, in which format, and what of it.
pub async fn access_logs() {
    let scene = Scene::new("logged").await;
    let _echo = scene.echo(11, "v11").await;
    let telemetry = "
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: $name, namespace: default}
spec:
  targetRefs: [{kind: Service, group: \"\", name: $name}]
  accessLogging:
  - providers: [{name: lines}]
    filter: {expression: \"response.code >= 400 && !request.path.contains('quiet')\"}
";
    scene.apply(&[SERVICE, &pod(11), telemetry].concat()).await;
    let client = scene.world.client("caller").await;
    let path = |rest: &str| format!("/{}/{rest}", scene.name);
    for (rest, wanted) in [("one", 200), ("quiet?status=404", 404), ("two?status=404", 404), ("three?status=500", 500)]
    {
        assert_eq!(status(&client, &scene.service(), "GET", &path(rest), &[]).await, wanted);
    }
    // Envoy writes every few seconds.
    let logged = eventually("two lines in the log", || async {
        let lines = lines(&scene);
        if lines.len() >= 2 { Ok(lines) } else { Err(lines) }
    })
    .await;
    let codes: Vec<_> = logged.iter().map(|line| (line["path"].clone(), line["code"].clone())).collect();
    let wanted = [(path("two?status=404").into(), 404.into()), (path("three?status=500").into(), 500.into())];
    assert_eq!(codes, wanted, "{logged:?}");
    assert_eq!(logged[0]["caller"], "spiffe://cluster.local/ns/default/sa/caller");
    assert_eq!(logged[0]["cluster"], format!("inbound-vip|80|http|{}.default.svc.cluster.local", scene.name));
    scene.end().await;
}

/// Spans go to a collector of Zipkin that is a service of the mesh, for every
/// request that nobody decided about, with the tags that were asked for.
pub async fn traces() {
    let scene = Scene::new("traced").await;
    let echo = scene.echo(11, "v11").await;
    let address = SocketAddr::new(scene.ip(21).into(), 9411);
    let collector = Collector::start(address).await;
    let ip = scene.ip(21);
    let mesh = format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: zipkin, namespace: default}}
spec: {{clusterIP: 127.$n.20, selector: {{app: zipkin}}, ports: [{{name: http, port: 9411, targetPort: 9411}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: zipkin, namespace: default, labels: {{app: zipkin}}}}
spec: {{serviceAccountName: default, nodeName: node-a, containers: [{{name: c}}]}}
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: $name, namespace: default}}
spec:
  targetRefs: [{{kind: Service, group: \"\", name: $name}}]
  tracing:
  - providers: [{{name: zipkin}}]
    randomSamplingPercentage: 100
    customTags:
      caller: {{formatter: {{value: '%FILTER_STATE(io.istio.peer_principal:PLAIN)%'}}}}
      fixed: {{literal: {{value: abc}}}}
"
    );
    scene.apply(&[SERVICE, &pod(11), &mesh].concat()).await;
    let client = scene.world.client("caller").await;
    assert_eq!(status(&client, &scene.service(), "GET", "/traced", &[]).await, 200);
    assert!(echo.seen()[0]["headers"]["x-b3-traceid"].is_string(), "the service is told of the trace");
    // Envoy sends spans every few seconds.
    let span = eventually("a span", || async {
        let spans = collector.spans();
        let url = |span: &Value| span["tags"]["http.url"].as_str().is_some_and(|url| url.ends_with("/traced"));
        spans.iter().find(|span| url(span)).cloned().ok_or(spans)
    })
    .await;
    assert_eq!(span["tags"]["fixed"], "abc", "{span}");
    assert_eq!(span["tags"]["caller"], "spiffe://cluster.local/ns/default/sa/caller");
    assert_eq!(span["tags"]["istio.canonical_service"], "waypoint");
    assert_eq!(span["traceId"].as_str().unwrap().len(), 32);
    scene.end().await;
}

/// A collector of Zipkin's traces. It ends when it is dropped.
struct Collector {
    spans: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let spans = Arc::<Mutex<Vec<Value>>>::default();
        let kept = spans.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let kept = kept.clone();
                    async move {
                        let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
                        let sent: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
                        let mut kept = kept.lock().unwrap();
                        let room = 1000_usize.saturating_sub(kept.len());
                        kept.extend(sent.into_iter().take(room));
                        Ok::<_, hyper::Error>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
                    }
                });
                connections.spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        Self { spans, task }
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().unwrap().clone()
    }
}
