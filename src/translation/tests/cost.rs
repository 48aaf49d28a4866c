//! What a change costs, in transforms, bytes and rows; time is for the bench.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::*;

fn put(world: &mut World, text: &str) {
    world.apply(objects(text).into_iter().map(Change::Put));
}

/// How often the transforms of each collection have run.
fn recomputed(world: &World) -> BTreeMap<&'static str, u64> {
    world.translation.graph.stats().into_iter().map(|stats| (stats.name, stats.recomputed)).collect()
}

fn given(proxy: Option<Scope>) -> Given {
    Given { proxy, ..Given::new("") }
}

fn waypoint() -> Scope {
    Scope::Waypoint(WaypointScope {
        namespace: "shop".into(),
        gateway: "waypoint".into(),
        capabilities: Capabilities::STOCK,
        families: Families::V4,
        loopback: None,
        place: Place::default(),
    })
}

/// A service that a waypoint serves, and its routes.
fn service(at: usize, version: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{at}, namespace: shop}}\n\
         spec: {{clusterIP: 10.1.{}.{}, selector: {{app: s{at}}}, ports: [{{port: 80, appProtocol: http}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{at}, namespace: shop}}\n\
         spec:\n  hosts: [s{at}]\n  http:\n",
        at / 256,
        at % 256
    );
    for route in 0..5 {
        writeln!(
            text,
            "  - match: [{{uri: {{prefix: /{route}/}}}}]\n    route: [{{destination: {{host: s{at}}}}}]\n    \
             headers: {{response: {{set: {{version: {version}}}}}}}"
        )
        .unwrap();
    }
    text + "---\n"
}

/// One listener has the routes of all services. A change of one of them runs
/// the transforms of that one, and most of the bytes are those of before.
#[test]
fn a_route_costs_its_service() {
    const SERVICES: usize = 200;
    let mut world = World::new(&given(Some(waypoint())));
    let mut text =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}\n\
                    ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
                    metadata: {name: waypoint, namespace: shop}\nspec:\n  gatewayClassName: istio-waypoint\n  \
                    listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n\
                    status: {addresses: [{type: Hostname, value: waypoint.shop}]}\n---\n"
            .to_owned();
    (0..SERVICES).for_each(|at| text += &service(at, "v1"));
    put(&mut world, &text);
    let before = recomputed(&world);
    assert_eq!(before["waypoint_chains"], SERVICES as u64);
    let frames = |world: &World| {
        let layer = world.views.layer(ResourceType::Listener, Some(&waypoint()));
        (0..).map_while(|number| layer.frames(number)).flatten().collect::<Vec<_>>()
    };
    let old: HashSet<_> = frames(&world).iter().map(|frame| frame.as_ptr()).collect();
    // Kept, or other bytes could come to be at the same place.
    let _kept = world.views.clone();

    put(&mut world, &service(123, "v2"));
    let mut ran = recomputed(&world);
    ran.retain(|name, count| {
        *count -= before[name];
        *count > 0 && name.starts_with("waypoint_")
    });
    let once =
        ["waypoint_chains", "waypoint_inspections", "waypoint_main_listener", "waypoint_parts", "waypoint_references"];
    assert_eq!(ran, once.map(|name| (name, 1)).into());

    let (mut new, mut all) = (0, 0);
    for frame in frames(&world) {
        all += frame.len();
        new += if old.contains(&frame.as_ptr()) { 0 } else { frame.len() };
    }
    assert!(all > 400_000 && new > 0 && new * 3 < all, "{new} bytes of {all} are new");
}

/// The routes of one host of a gateway.
fn host(at: usize, version: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: s{at}, namespace: shop}}\nspec:\n  hosts: [s{at}.example.com]\n  gateways: [gw]\n  http:\n  \
         - headers: {{response: {{set: {{version: {version}}}}}}}\n    route: [{{destination: {{host: web}}}}]\n"
    )
}

/// One route configuration has all hosts of a port. A change of one of them runs
/// the transforms of that one, and most of the bytes are those of before.
#[test]
fn a_route_of_a_gateway_costs_its_host() {
    const HOSTS: usize = 1000;
    let scope = proxy("# Proxy: router shop/istio=ingressgateway").expect("it names one");
    let mut world = World::new(&given(Some(scope.clone())));
    let mut text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: shop}\n\
                    spec:\n  selector: {istio: ingressgateway}\n  \
                    servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                    spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, appProtocol: http}]}\n"
        .to_owned();
    (0..HOSTS).for_each(|at| text += &host(at, "v1"));
    put(&mut world, &text);
    let before = recomputed(&world);
    assert_eq!(before["gateway_virtual_hosts"], HOSTS as u64);
    let frames = |world: &World| {
        let layer = world.views.layer(ResourceType::Routes, Some(&scope));
        (0..).map_while(|number| layer.frames(number)).flatten().collect::<Vec<_>>()
    };
    let old: HashSet<_> = frames(&world).iter().map(|frame| frame.as_ptr()).collect();
    let _kept = world.views.clone();

    put(&mut world, &host(123, "v2"));
    let mut ran = recomputed(&world);
    ran.retain(|name, count| {
        *count -= before[name];
        *count > 0 && name.starts_with("gateway_")
    });
    let once = [
        "gateway_parts",
        "gateway_route_configurations",
        "gateway_route_references",
        "gateway_routes",
        "gateway_virtual_hosts",
    ];
    assert_eq!(ran, once.map(|name| (name, 1)).into());
    let (mut new, mut all) = (0, 0);
    for frame in frames(&world) {
        all += frame.len();
        new += if old.contains(&frame.as_ptr()) { 0 } else { frame.len() };
    }
    assert!(all > 400_000 && new > 0 && new * 3 < all, "{new} bytes of {all} are new");
}

/// Pods that change for as long as the process lives, each time to labels that
/// there have never been, leave nothing behind.
#[test]
fn churn_leaves_nothing_behind() {
    const PODS: usize = 8;
    let pod = |at: usize, change: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p{at}\n  namespace: shop\n  uid: u{at}-{change}\n  \
             labels: {{app: s1, version: \"{change}\", only-{change}: x}}\n\
             spec: {{nodeName: n{}, serviceAccountName: a{}}}\n\
             status: {{phase: Running, podIP: 10.2.{}.{}}}\n---\n",
            change % 3,
            change % 5,
            change % 200,
            at
        )
    };
    let mut world = World::new(&given(None));
    put(&mut world, &service(1, "v1"));
    let round = |world: &mut World, change: usize| {
        put(world, &(0..PODS).map(|at| pod(at, change)).collect::<String>());
    };
    let sizes = |world: &World| {
        let rows: Vec<_> = world.translation.graph.stats().iter().map(|stats| (stats.name, stats.rows)).collect();
        (rows, world.views.addresses.len())
    };
    round(&mut world, 1);
    let before = sizes(&world);
    for change in 2..300 {
        round(&mut world, change);
        if change % 7 == 0 {
            world.apply([Change::Delete(Kind::Pod, ObjectKey::new("shop", "p3"))]);
        }
    }
    round(&mut world, 300);
    assert_eq!(sizes(&world), before);
}
