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
    Scope::from(WaypointScope {
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
    assert_eq!(recomputed(&world)["waypoint_chains"], SERVICES as u64);
    let once =
        ["waypoint_chains", "waypoint_inspections", "waypoint_main_listener", "waypoint_parts", "waypoint_references"];
    costs_little(&mut world, (&waypoint(), ResourceType::Listener), &service(123, "v2"), "waypoint_", &once);
}

/// A change of one object runs these of the transforms with a prefix, once each,
/// and most of the bytes of the resources are those of before.
fn costs_little(
    world: &mut World,
    (scope, ty): (&Scope, ResourceType),
    change: &str,
    prefix: &str,
    transforms: &[&'static str],
) {
    let before = recomputed(world);
    let frames = |world: &World| {
        let layer = world.views.layer(ty, Some(scope));
        (0..).map_while(|number| layer.frames(number)).flatten().collect::<Vec<_>>()
    };
    let old: HashSet<_> = frames(world).iter().map(|frame| frame.as_ptr()).collect();
    // Kept, or other bytes could come to be at the same place.
    let _kept = world.views.clone();

    put(world, change);
    let mut ran = recomputed(world);
    ran.retain(|name, count| {
        *count -= before[name];
        *count > 0 && name.starts_with(prefix)
    });
    assert_eq!(ran, transforms.iter().map(|name| (*name, 1)).collect());

    let (mut new, mut all) = (0, 0);
    for frame in frames(world) {
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
    assert_eq!(recomputed(&world)["gateway_virtual_hosts"], HOSTS as u64);
    let once = [
        "gateway_parts",
        "gateway_route_configurations",
        "gateway_route_references",
        "gateway_routes",
        "gateway_virtual_hosts",
    ];
    costs_little(&mut world, (&scope, ResourceType::Routes), &host(123, "v2"), "gateway_", &once);
}

/// What of the mesh's configuration nothing reads is read by nobody again.
#[test]
fn a_setting_of_the_mesh_that_is_not_read_costs_nothing() {
    let mut world = World::new(&given(Some(waypoint())));
    let mesh = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data: {{mesh: '{text}'}}\n"
        )
    };
    put(&mut world, &(mesh("protocolDetectionTimeout: 1s") + "---\n" + &service(1, "v1")));
    let before = recomputed(&world);
    let ran = |world: &World| -> Vec<&str> {
        recomputed(world).into_iter().filter(|(name, runs)| before[name] != *runs).map(|(name, _)| name).collect()
    };
    put(&mut world, &mesh("protocolDetectionTimeout: 2s"));
    assert_eq!(ran(&world), ["configmaps", "mesh_config"]);
    put(&mut world, &mesh("discoverySelectors: [{matchLabels: {a: b}}]"));
    assert!(ran(&world).contains(&"kubernetes_services"), "what is read is");
}
