"""Incremental xDS: what ztunnel relies on (plaintext and TLS)."""

import ipaddress

import pytest
from discovery import ADDRESS, AUTHORIZATION, DeltaStream, bearer, contents, versions
from fairway import Fairway, change, objects

PRODUCTPAGE = "Kubernetes//Pod/bookinfo/productpage-v1-5b9c7d6f48-x2k4p"
STATIC_STRICT = "istio-system/istio_converted_static_strict"
# istio.workload.TunnelProtocol.
NONE, HBONE = 0, 1


@pytest.fixture
def stream(channel):
    """A fresh delta stream."""
    with DeltaStream(channel[0], channel[1]) as stream:
        yield stream


def test_both_types_are_answered_with_the_whole_mesh(stream, mesh):
    responses = stream.subscribe_all()

    addresses = contents(responses[ADDRESS])
    pods = {f"Kubernetes//Pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in objects(mesh, "Pod")}
    endpoints = {f"Kubernetes/networking.istio.io/ServiceEntry/bookinfo/payments/192.0.2.{last}" for last in (10, 11)}
    services = {
        f"{service['metadata']['namespace']}/{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
        for service in objects(mesh, "Service")
    }
    assert set(addresses) == pods | endpoints | services | {"bookinfo/payments.example.com"}

    policies = contents(responses[AUTHORIZATION])
    assert set(policies) == {"bookinfo/productpage-viewer", STATIC_STRICT}


def test_a_pod_is_described_as_its_ztunnel_needs_it(stream):
    workload = contents(stream.subscribe_all()[ADDRESS])[PRODUCTPAGE].workload

    assert workload.name == "productpage-v1-5b9c7d6f48-x2k4p"
    assert workload.namespace == "bookinfo"
    assert workload.service_account == "bookinfo-productpage"
    assert workload.node == "node-a"
    assert workload.workload_name == "productpage-v1"
    assert (workload.canonical_name, workload.canonical_revision) == ("productpage", "v1")
    assert list(workload.addresses) == [ipaddress.ip_address("10.244.1.10").packed]
    assert workload.tunnel_protocol == HBONE
    assert (workload.locality.region, workload.locality.zone) == ("north", "north-1")
    [(service, ports)] = workload.services.items()
    assert service == "bookinfo/productpage.bookinfo.svc.cluster.local"
    assert [(port.service_port, port.target_port) for port in ports.ports] == [(9080, 9080)]
    assert sorted(workload.authorization_policies) == ["bookinfo/productpage-viewer", STATIC_STRICT]


def test_ztunnel_itself_is_no_tunnelled_workload(stream):
    addresses = contents(stream.subscribe_all()[ADDRESS])
    assert addresses["Kubernetes//Pod/istio-system/ztunnel-8hxkd"].workload.tunnel_protocol == NONE


def test_nothing_follows_an_ack(stream):
    stream.subscribe_all()
    stream.expect_silence()


def test_a_change_is_one_delta_with_only_what_changed(stream, mesh):
    stream.subscribe_all()
    change(mesh / "clients.yaml", "10.244.2.20", "10.244.2.99")

    response = stream.receive()
    name = "Kubernetes//Pod/default/notsleep-6d6c8669b5-z3dlm"
    changed = contents(response)
    assert (response.type_url, list(changed), list(response.removed_resources)) == (ADDRESS, [name], [])
    assert list(changed[name].workload.addresses) == [ipaddress.ip_address("10.244.2.99").packed]
    stream.ack(response)
    stream.expect_silence()


def test_a_removed_file_removes_its_resources(stream, mesh):
    stream.subscribe_all()
    (mesh / "external.yaml").unlink()

    response = stream.receive()
    assert contents(response) == {}
    assert sorted(response.removed_resources) == [
        "Kubernetes/networking.istio.io/ServiceEntry/bookinfo/payments/192.0.2.10",
        "Kubernetes/networking.istio.io/ServiceEntry/bookinfo/payments/192.0.2.11",
        "bookinfo/payments.example.com",
    ]
    stream.ack(response)
    stream.expect_silence()


def test_a_policy_arrives_before_the_workload_that_names_it(stream, mesh):
    """A workload that names a policy ztunnel does not have yet is left open."""
    stream.subscribe_all()
    (mesh / "ratings.yaml").write_text("""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ratings-viewer, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: ratings}}
  rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/bookinfo-reviews]}}]}]
""")
    first = stream.receive()
    assert list(contents(first)) == ["bookinfo/ratings-viewer"]
    stream.ack(first)
    second = stream.receive()
    [workload] = contents(second).values()
    assert "bookinfo/ratings-viewer" in workload.workload.authorization_policies


def test_a_broken_file_changes_nothing(stream, mesh):
    stream.subscribe_all()
    (mesh / "broken.yaml").write_text("apiVersion: v1\nkind: [")
    stream.expect_silence()


def test_a_reconnect_with_current_versions_gets_empty_responses(channel):
    with DeltaStream(channel[0], channel[1]) as stream:
        have = {type_url: versions(response) for type_url, response in stream.subscribe_all().items()}

    with DeltaStream(channel[0], channel[1]) as stream:
        for type_url in [ADDRESS, AUTHORIZATION]:
            stream.subscribe(type_url, have=have[type_url])
            response = stream.receive()
            assert response.type_url == type_url
            assert contents(response) == {} and not response.removed_resources
            stream.ack(response)
        stream.expect_silence()


def test_a_reconnect_hears_of_what_changed_meanwhile(channel):
    with DeltaStream(channel[0], channel[1]) as stream:
        have = versions(stream.subscribe_all()[ADDRESS])
    have[PRODUCTPAGE] = "stale"
    del have["bookinfo/ratings.bookinfo.svc.cluster.local"]
    have["Kubernetes//Pod/bookinfo/gone"] = "any"

    with DeltaStream(channel[0], channel[1]) as stream:
        stream.subscribe(ADDRESS, have=have)
        response = stream.receive()
        assert set(contents(response)) == {PRODUCTPAGE, "bookinfo/ratings.bookinfo.svc.cluster.local"}
        assert list(response.removed_resources) == ["Kubernetes//Pod/bookinfo/gone"]


def test_versions_survive_a_restart_of_the_control_plane(binary, mesh, tmp_path):
    seen = []
    for _ in range(2):
        with Fairway(binary, mesh, tmp_path) as running, running.plaintext() as channel, DeltaStream(channel) as stream:
            seen.append({type_url: versions(response) for type_url, response in stream.subscribe_all().items()})
    assert seen[0] == seen[1]


def test_a_refused_response_is_not_sent_again(stream, mesh):
    stream.subscribe(ADDRESS)
    stream.nack(stream.receive(), f"{PRODUCTPAGE}: refused by a test")
    stream.expect_silence()
    # The stream goes on.
    change(mesh / "clients.yaml", "10.244.2.20", "10.244.2.99")
    assert list(contents(stream.receive())) == ["Kubernetes//Pod/default/notsleep-6d6c8669b5-z3dlm"]


def test_an_unknown_type_leaves_the_stream_alive(stream):
    stream.subscribe("type.googleapis.com/example.Unknown")
    stream.subscribe(ADDRESS, node=False)
    response = stream.receive()
    if response.type_url != ADDRESS:
        assert not response.resources, "an answer to an unknown type can only be empty"
        response = stream.receive()
    assert PRODUCTPAGE in contents(response)


def test_single_names_can_be_subscribed(stream):
    stream.subscribe(ADDRESS, names=[PRODUCTPAGE, "Kubernetes//Pod/bookinfo/never"])
    response = stream.receive()
    found = contents(response)
    assert PRODUCTPAGE in found
    # A ztunnel is told of the pods on its own node without asking.
    others = [address for name, address in found.items() if name != PRODUCTPAGE]
    assert {address.workload.node for address in others} == {found[PRODUCTPAGE].workload.node}
    assert list(response.removed_resources) == ["Kubernetes//Pod/bookinfo/never"]


def test_clients_of_one_mesh_see_the_same(fairway):
    with fairway.plaintext() as plaintext, fairway.tls() as tls:
        with DeltaStream(plaintext) as one, DeltaStream(tls, bearer(fairway.ztunnel_token("node-b"))) as other:
            mine, theirs = one.subscribe_all(), other.subscribe_all()
    assert {type_url: versions(mine[type_url]) for type_url in mine} == {
        type_url: versions(theirs[type_url]) for type_url in theirs
    }
