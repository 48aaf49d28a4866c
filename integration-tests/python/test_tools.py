"""What an operator sees with the tools at hand: grpcurl and buf, both by
server reflection, and the gRPC health service."""

import json
import subprocess

import pytest
from discovery import ADDRESS, AUTHORIZATION
from fairway import ROOT
from grpc_health.v1 import health_pb2, health_pb2_grpc

BIN = ROOT / ".cache/bin"
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def run(*command):
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command} failed with {done.returncode}: {done.stderr}\n{done.stdout}"
    return done.stdout


def grpcurl(*arguments):
    return run(BIN / "grpcurl", "-plaintext", "-max-time", "10", *arguments)


def buf_curl(*arguments):
    return run(BIN / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments)


def test_grpcurl_lists_the_services(fairway):
    services = grpcurl(fairway.grpc, "list").split()
    assert {ADS, "grpc.health.v1.Health"} <= set(services)
    assert "DeltaAggregatedResources" in grpcurl(fairway.grpc, "describe", ADS)


def test_buf_lists_the_methods(fairway):
    methods = buf_curl("--list-methods", f"http://{fairway.grpc}").split()
    assert {f"{ADS}/StreamAggregatedResources", f"{ADS}/DeltaAggregatedResources"} <= set(methods)


@pytest.mark.parametrize("call", [
    pytest.param(lambda at, method, data: grpcurl("-d", data, at, method), id="grpcurl"),
    pytest.param(lambda at, method, data: buf_curl("-d", data, f"http://{at}/{method}"), id="buf"),
])
@pytest.mark.parametrize("method", ["StreamAggregatedResources", "DeltaAggregatedResources"])
@pytest.mark.parametrize("type_url, expected", [
    (ADDRESS, "bookinfo-productpage"),
    (AUTHORIZATION, "cluster.local/ns/default/sa/sleep"),
])
def test_a_table_prints_as_readable_json(fairway, call, method, type_url, expected):
    """The client ends its side at once: the answer comes all the same, and
    then the stream ends well."""
    printed = call(fairway.grpc, f"{ADS}/{method}", json.dumps({"typeUrl": type_url, "node": {"id": "ztunnel~127.0.0.1~me.istio-system~istio-system.svc.cluster.local"}}))
    response = json.loads(printed)
    resource = response["resources"][0]
    assert resource.get("resource", resource)["@type"] == type_url
    assert expected in printed, "the Any is expanded"


def test_the_health_service_says_serving(fairway):
    assert "SERVING" in grpcurl(fairway.grpc, "grpc.health.v1.Health/Check")
    with fairway.plaintext() as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
