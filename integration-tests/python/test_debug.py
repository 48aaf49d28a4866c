"""Debug pages: who may see them, in istiod's shapes, over HTTP and over xDS as
istioctl asks for them."""

import json
import time
import urllib.error
import urllib.request

import grpc
import pytest
from discovery import ADDRESS, DeltaStream, _Stream, bearer
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from envoy.service.status.v3 import csds_pb2
from fairway import ROOT, Fairway, objects, outside

ISTIOCTL = "sidecar~127.0.0.1~test-1.istio-system~istio-system.svc.cluster.local"


class Asking(_Stream):
    """Asks as istioctl does."""

    def __init__(self, channel, metadata=()):
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        super().__init__(stub.StreamAggregatedResources, metadata)

    def ask(self, type_url, *names, node=ISTIOCTL):
        self.send(discovery_pb2.DiscoveryRequest(
            type_url=type_url, resource_names=names, node=base_pb2.Node(id=node), response_nonce="of now",
        ))
        return self.receive()


@pytest.fixture
def exposed(binary, mesh, tmp_path):
    """A control plane whose pages can be reached from elsewhere."""
    fairway = Fairway(binary, mesh, tmp_path)
    port = fairway.monitoring.split(":")[1]
    fairway.monitoring = f"0.0.0.0:{port}"
    with fairway as running:
        running.monitoring, running.outside = f"127.0.0.1:{port}", f"{outside()}:{port}"
        yield running
        print(running.log())


def get(address, path, **headers):
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def token(fairway, namespace, account, audience="istio-ca"):
    import subprocess

    return subprocess.run(
        [fairway.binary, "token", "--stateDir", fairway.state, "--namespace", namespace, "--serviceAccount", account,
         "--audience", audience],
        check=True, capture_output=True, text=True, timeout=10,
    ).stdout.strip()


def test_others_prove_who_they_are(exposed):
    path = "/debug/syncz"
    assert get(exposed.monitoring, path)[0] == 200
    assert get(exposed.outside, path)[0] == 401
    assert get(exposed.outside, path, Authorization="Bearer nonsense")[0] == 401
    assert get(exposed.outside, path, **{"X-Forwarded-For": "127.0.0.1"})[0] == 401
    system = token(exposed, "istio-system", "default")
    assert get(exposed.outside, path, Authorization=f"Bearer {system}")[0] == 200
    other = token(exposed, "default", "sleep")
    assert get(exposed.outside, path, Authorization=f"Bearer {other}")[0] == 403
    # The metrics are for Prometheus, which proves nothing.
    assert get(exposed.outside, "/metrics")[0] == 200


def test_a_token_for_the_pages_is_good_for_nothing_else(exposed):
    weak = token(exposed, "istio-system", "default", audience="fairway-debug")
    assert get(exposed.outside, "/debug/syncz", **{"fairway-token": weak})[0] == 200
    with exposed.tls() as channel, Asking(channel, bearer(weak)) as stream, pytest.raises(grpc.RpcError) as refused:
        stream.ask("istio.io/debug/syncz")
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_page_in_a_browser_cannot_ask(fairway):
    assert get(fairway.monitoring, "/debug/syncz", Host="rebound.example")[0] == 403


def test_all_pages_answer(fairway):
    names = json.loads(get(fairway.monitoring, "/debug/list")[1])
    assert {"syncz", "config_dump", "connections", "adsz", "ambientz"} <= set(names)
    wanting = {"provenancez": "?type=Address&name=none", "objectz": "?kind=Service&namespace=default&name=reviews"}
    for name in [*names, "list"]:
        status, body = get(fairway.monitoring, f"/debug/{name}{wanting.get(name, '')}")
        of_a_proxy = {"config_dump", "edsz", "ecdsz", "ndsz", "sidecarz"}
        expected = 400 if name in of_a_proxy else {"provenancez": 404}.get(name, 200)
        assert status == expected, (name, body)
        if status == 200:
            json.loads(body)
    assert get(fairway.monitoring, "/debug/nothing")[0] == 404


def page(fairway, path):
    status, body = get(fairway.monitoring, f"/debug/{path}")
    assert status == 200, body
    return json.loads(body)


def test_all_that_istioctl_collects_is_there(fairway):
    # What `istioctl bug-report` asks for.
    asked = [
        "adsz", "ambientz", "authorizationz", "cachez", "clusterz", "configz", "endpointShardz", "endpointz", "inject",
        "instancesz", "krtz", "mcsz", "mesh", "networkz", "push_status", "registryz", "resourcesz", "syncz", "telemetryz",
    ]
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.subscribe_all()
        shown = {name: page(fairway, name) for name in asked}
    assert shown["endpointz"] == shown["endpointShardz"]
    assert (shown["mcsz"], shown["inject"], shown["networkz"]) == ([], {}, [])


def test_registry_in_the_shape_of_istiods_model(fairway):
    services = {one["hostname"]: one for one in page(fairway, "registryz")}
    reviews = services["reviews.bookinfo.svc.cluster.local"]
    [declared] = [one for one in objects(fairway.config, "Service") if one["metadata"]["name"] == "reviews"]
    address = declared["spec"]["clusterIP"]
    assert reviews["Attributes"]["ServiceRegistry"] == "Kubernetes"
    assert reviews["Attributes"]["Name"] == "reviews" and reviews["Attributes"]["Namespace"] == "bookinfo"
    assert reviews["Attributes"]["LabelSelectors"] == declared["spec"]["selector"]
    assert reviews["ports"] == [{"name": "http", "port": 9080, "protocol": "HTTP"}]
    assert reviews["defaultAddress"] == address
    assert reviews["clusterVIPs"] == {"Addresses": {"Kubernetes": [address]}}
    assert (reviews["Resolution"], reviews["MeshExternal"]) == (0, False)

    shards = page(fairway, "endpointShardz")["reviews.bookinfo.svc.cluster.local"]["bookinfo"]
    pods = {one["metadata"]["name"]: one for one in objects(fairway.config, "Pod") if one["metadata"]["name"].startswith("reviews")}
    endpoints = shards["Shards"]["Kubernetes/Kubernetes"]
    assert {address for one in endpoints for address in one["Addresses"]} == {
        pod["status"]["podIP"] for pod in pods.values()
    }
    for endpoint in endpoints:
        assert endpoint["ServicePortName"] == "http" and endpoint["EndpointPort"] == 9080
        assert endpoint["ServiceAccount"] == "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews"
        assert endpoint["HealthStatus"] == 1 and endpoint["Namespace"] == "bookinfo"
    assert list(shards["ServiceAccounts"]) == ["spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews"]


def test_services_of_a_proxy(fairway):
    pod = next(one for one in objects(fairway.config, "Pod") if one["metadata"]["name"].startswith("reviews"))
    name = f"{pod['metadata']['name']}.bookinfo"
    node = base_pb2.Node(id=f"ztunnel~10.0.0.1~{name}~bookinfo.svc.cluster.local")
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.send(discovery_pb2.DeltaDiscoveryRequest(type_url=ADDRESS, node=node))
        stream.receive()
        [target] = page(fairway, "instancesz")[name]
        assert target["Service"]["hostname"] == "reviews.bookinfo.svc.cluster.local"
        assert target["Port"] == {"name": "http", "port": 9080, "protocol": "HTTP", "TargetPort": 9080}
        scope = page(fairway, f"sidecarz?proxyID={name}")
        assert scope["namespace"] == "bookinfo" and len(scope["services"]) == len(page(fairway, "registryz"))
    assert get(fairway.monitoring, f"/debug/sidecarz?proxyID={name}")[0] == 404


def test_what_a_waypoint_is_told_of_and_why(fairway):
    name = "waypoint-6b8d9f7c55-r4wzn.bookinfo"
    node = base_pb2.Node(id=f"waypoint~10.244.1.30~{name}~bookinfo.svc.cluster.local")
    node.metadata.update({"LABELS": {"gateway.networking.k8s.io/gateway-name": "waypoint"}, "NAMESPACE": "bookinfo"})
    cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.send(discovery_pb2.DeltaDiscoveryRequest(type_url=cluster, node=node))
        stream.receive()
        shown = page(fairway, f"sidecarz?proxyID={name}")
    facts = shown["scope"]["Waypoint"]
    assert (facts["namespace"], facts["gateway"], facts["families"]) == ("bookinfo", "waypoint", "V4")
    hosts = {one["hostname"] for one in shown["services"]}
    assert "reviews.bookinfo.svc.cluster.local" in hosts and "sleep.default.svc.cluster.local" not in hosts


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: seen, namespace: default, annotations: {who: asked}}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [elsewhere]}}]}]}
"""


def test_configuration_as_it_is_written_and_whether_it_is_in_force(fairway, mesh):
    def shown():
        return {one["metadata"]["name"]: one for one in page(fairway, "configz?kind=AuthorizationPolicy")}

    def until(holds):
        deadline = time.monotonic() + 10
        while not holds(shown()):
            assert time.monotonic() < deadline, shown()
            time.sleep(0.05)
        return shown()

    (mesh / "seen.yaml").write_text(POLICY)
    seen = until(lambda now: now.get("seen", {}).get("inForce"))["seen"]
    assert seen["spec"]["rules"] == [{"from": [{"source": {"namespaces": ["elsewhere"]}}]}]
    assert seen["metadata"]["annotations"] == {"who": "asked"} and "problem" not in seen

    debug = page(fairway, "authorizationz")["authorization_policies"]
    [policy] = [one for one in debug["namespace_to_policies"]["default"] if one["name"] == "seen"]
    assert policy["spec"] == seen["spec"] and policy["inForce"]
    assert debug["root_namespace"] == "istio-system"
    assert page(fairway, "pushcontext")["AuthorizationPolicies"] == debug
    assert page(fairway, "configz?namespace=nowhere") == []
    assert {one["kind"] for one in page(fairway, "configz?kind=service")} == {"Service"}

    # Broken on disk; the last version that could be read goes on.
    (mesh / "seen.yaml").write_text(POLICY.replace("[elsewhere]", "7"))
    broken = until(lambda now: "namespaces" in now["seen"].get("problem", ""))["seen"]
    assert not broken["inForce"] and "the last version that could be read is in force" in broken["problem"]
    assert b"private" not in get(fairway.monitoring, "/debug/configz?kind=Secret")[1].encode()
    assert get(fairway.monitoring, "/debug/configz?kind=Secret")[0] == 400


def test_what_the_graph_holds_and_why(fairway):
    collections = {one["name"]: one["state"] for one in page(fairway, "krtz")}
    assert collections["services"] == {"synced": True, "rows": len(objects(fairway.config, "Service"))}
    [mesh_services] = page(fairway, "krtz?collection=mesh_services")
    key = "bookinfo/reviews.bookinfo.svc.cluster.local"
    assert key in mesh_services["state"]["outputs"]
    [one] = page(fairway, f"krtz?collection=mesh_services&key={key}")
    assert list(one["state"]["outputs"]) == [key]
    assert list(one["state"]["inputs"]) == ["services bookinfo/reviews"]
    status, body = get(fairway.monitoring, "/debug/krtz?collection=nothing")
    assert status == 404 and "nothing" in body


def test_what_is_encoded(fairway):
    names = page(fairway, "cachez")
    assert "bookinfo/reviews.bookinfo.svc.cluster.local" in names[ADDRESS]
    sizes = page(fairway, "cachez?sizes=true")
    assert set(sizes) == {*names, "total"} and sizes["total"].endswith("kB")
    assert page(fairway, "cachez?clear=true").startswith("nothing is kept")
    # Nothing was cleared by that.
    assert page(fairway, "cachez") == names


def test_what_could_not_be_honoured_by_reason(fairway, mesh):
    (mesh / "bad.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: default}\n"
        "spec: {clusterIPs: [nonsense], ports: [{port: 80}]}\n"
    )
    deadline = time.monotonic() + 10
    while not (said := page(fairway, "push_status")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [[place, entry]] = said["InvalidAddress"].items()
    assert place == "Service default/bad spec.clusterIPs" and "nonsense" in entry["message"]


def test_syncz_is_what_istioctl_and_kiali_read(fairway):
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.subscribe_all()
        [row] = json.loads(get(fairway.monitoring, "/debug/syncz")[1])
        assert row["proxy"] == "ztunnel-8hxkd.istio-system"
        assert row["proxy_type"] == "ztunnel"
        assert row["cluster_id"] == "Kubernetes"
        address = row["resources"][ADDRESS]
        assert address["sent"] and address["sentTime"].endswith("Z")
        connections = json.loads(get(fairway.monitoring, "/debug/connections")[1])
        assert connections["totalClients"] == 1
        assert connections["clients"][0]["connectionId"].startswith("ztunnel-8hxkd.istio-system-")


def test_istioctl_is_told_over_tls(fairway):
    system = bearer(token(fairway, "istio-system", "default"))
    with fairway.plaintext() as other, DeltaStream(other) as ztunnel, fairway.tls() as channel:
        ztunnel.subscribe_all()
        with Asking(channel, system) as stream:
            response = stream.ask("istio.io/debug/syncz")
            assert json.loads(response.control_plane.identifier)["Component"] == "istiod"
            [resource] = response.resources
            config = csds_pb2.ClientConfig()
            assert resource.Unpack(config)
            assert config.node.id == "ztunnel-8hxkd.istio-system"
            assert config.node.metadata["NAMESPACE"] == "istio-system"
            states = {one.type_url: one.config_status for one in config.generic_xds_configs}
            assert states[ADDRESS] in (csds_pb2.SYNCED, csds_pb2.STALE)
            # What istioctl itself is on the stream for is not a proxy.
            dump = stream.ask("istio.io/debug/config_dump", "ztunnel-8hxkd.istio-system")
            assert {one.type_url for one in dump.resources} >= {ADDRESS}
            assert not stream.ask("istio.io/debug/config_dump", "nobody.istio-system").resources
            page = stream.ask("istio.io/debug", "list")
            assert "syncz" in json.loads(page.resources[0].value)
            missing = stream.ask("istio.io/debug", "config_dump?proxyID=nobody.istio-system")
            assert b"Proxy not connected to this Pilot instance" in missing.resources[0].value
            unknown = stream.ask("istio.io/debug", "nothing")
            assert b"404 page not found" in unknown.resources[0].value


@pytest.mark.parametrize("type_url, names, told", [
    ("istio.io/debug/syncz", [], []),
    ("istio.io/debug/config_dump", ["ztunnel-8hxkd.istio-system"], []),
    ("istio.io/debug", ["syncz"], grpc.StatusCode.PERMISSION_DENIED),
    ("istio.io/debug", ["config_dump?proxyID=ztunnel-8hxkd.istio-system"], b"Proxy not connected"),
])
def test_other_namespaces_are_told_of_their_own(fairway, type_url, names, told):
    node = "sidecar~127.0.0.1~sleep-1.default~default.svc.cluster.local"
    with fairway.plaintext() as other, DeltaStream(other) as ztunnel, fairway.tls() as channel:
        ztunnel.subscribe_all()
        with Asking(channel, bearer(token(fairway, "default", "sleep"))) as stream:
            if isinstance(told, grpc.StatusCode):
                with pytest.raises(grpc.RpcError) as refused:
                    stream.ask(type_url, *names, node=node)
                assert refused.value.code() == told
            else:
                resources = stream.ask(type_url, *names, node=node).resources
                assert [one.value[:len(told)] for one in resources] == ([told] if told else [])


def test_nothing_is_told_in_plaintext(fairway):
    with fairway.plaintext() as channel:
        for metadata in [[], bearer(token(fairway, "istio-system", "default"))]:
            for type_url in ["istio.io/debug/syncz", "istio.io/debug/config_dump", "istio.io/debug"]:
                with Asking(channel, metadata) as stream, pytest.raises(grpc.RpcError) as refused:
                    stream.ask(type_url, "syncz")
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_reference_lists_what_there_is(fairway):
    written = (ROOT / "docs/debug.md").read_text()
    for name in json.loads(get(fairway.monitoring, "/debug/list")[1]):
        assert f"`/debug/{name}" in written


def put(address, path, body):
    request = urllib.request.Request(f"http://{address}{path}", data=json.dumps(body).encode(), method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_levels_of_the_log_are_set_as_istioctl_sets_them(fairway):
    levels = lambda: {one["name"]: one["output_level"] for one in json.loads(get(fairway.monitoring, "/scopej")[1])}
    before = levels()
    assert before["default"] == before["ads"] == "info"
    said = "unknown resource type ignored"

    def ask():
        with fairway.plaintext() as channel, Asking(channel) as stream:
            stream.send(discovery_pb2.DiscoveryRequest(type_url="no/such", node=base_pb2.Node(id=ISTIOCTL)))
            # Answered after the one before.
            stream.ask("type.googleapis.com/istio.workload.Address")
        return said in fairway.log()

    assert not ask()
    scope = {"name": "ads", "output_level": "debug", "stack_trace_level": "none"}
    assert put(fairway.monitoring, "/scopej/ads", scope)[0] == 202
    assert levels() == {**before, "ads": "debug"}
    assert ask()
    # As `--stack-trace-reset` does.
    assert put(fairway.monitoring, "/scopej/ads", {"name": "ads", "stack_trace_level": "none"})[0] == 202
    assert levels()["ads"] == "debug"
    status, reason = put(fairway.monitoring, "/scopej/ads", {"name": "ads", "output_level": "loud"})
    assert status == 400 and "output_level" in reason and "none, error, warn, info, debug" in reason
    status, reason = put(fairway.monitoring, "/scopej/nothing", {"name": "nothing", "output_level": "debug"})
    assert status == 400 and "unknown scope name: nothing" in reason


def test_levels_of_the_log_are_for_this_machine(exposed):
    system = token(exposed, "istio-system", "default")
    assert get(exposed.outside, "/scopej", Authorization=f"Bearer {system}")[0] == 403
    assert get(exposed.monitoring, "/scopej", Host="rebound.example")[0] == 403
    assert get(exposed.monitoring, "/scopej")[0] == 200


def test_the_mesh_configuration_is_shown(binary, mesh, tmp_path):
    (mesh / "istio.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        "data: {mesh: 'trustDomain: x.example\n\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}\n"
    )
    with Fairway(binary, mesh, tmp_path) as fairway:
        said = json.loads(get(fairway.monitoring, "/debug/mesh")[1])
        assert said["trustDomain"] == "x.example" and said["rootNamespace"] == "istio-system"
        # It is not read, and still somebody's setting.
        assert said["outboundTrafficPolicy"] == {"mode": "REGISTRY_ONLY"}
