"""An xDS client with timeouts: streams that say what they receive, and
resources decoded with our own contracts."""

import queue
import threading

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.rpc import status_pb2

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"

# Long enough for a debug build under load; a passing test never waits it out.
ANSWER_SECONDS = 10
# How long nothing has to happen to be called silence.
SILENCE_SECONDS = 1.0

NODE_ID = "ztunnel~10.244.1.2~ztunnel-8hxkd.istio-system~istio-system.svc.cluster.local"


def bearer(token):
    """The metadata that carries a token, as ztunnel sends it."""
    return [("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes")] if token else []


class _Stream:
    """One bidirectional call. Responses and the error that ends it arrive in
    a queue, so that every wait has a limit."""

    def __init__(self, call, metadata):
        self._requests = queue.Queue()
        self._responses = queue.Queue()
        self._call = call(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._requests.put(None)
        self._call.cancel()

    def _read(self):
        try:
            for response in self._call:
                self._responses.put(response)
            self._responses.put(EOFError("the server ended the stream"))
        except grpc.RpcError as error:
            self._responses.put(error)

    def send(self, request):
        """Sends a request and nothing else."""
        self._requests.put(request)

    def receive(self):
        """The next response. Raises what ended the stream."""
        try:
            response = self._responses.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise AssertionError(f"no response within {ANSWER_SECONDS} s") from None
        if isinstance(response, Exception):
            raise response
        return response

    def expect_silence(self):
        """Fails if the server sends anything for a while."""
        try:
            response = self._responses.get(timeout=SILENCE_SECONDS)
        except queue.Empty:
            return
        if isinstance(response, Exception):
            raise response
        raise AssertionError(f"expected silence, received {response}")


class DeltaStream(_Stream):
    """Incremental xDS, as ztunnel speaks it."""

    def __init__(self, channel, metadata=()):
        super().__init__(ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources, metadata)

    def subscribe(self, type_url, have=None, names=(), node=True):
        """The first request for a type. `have` maps the names kept from an
        earlier stream to their versions; no `names` means all."""
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_url, initial_resource_versions=have or {}, resource_names_subscribe=names
        )
        if node:
            request.node.id = NODE_ID
            request.node.metadata.update({"NODE_NAME": "node-a", "NAME": "ztunnel-8hxkd"})
        self.send(request)

    def ack(self, response):
        """Accepts a response."""
        self.send(discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))

    def nack(self, response, message):
        """Refuses a response, with the code 0 that ztunnel sends."""
        self.send(discovery_pb2.DeltaDiscoveryRequest(
            type_url=response.type_url, response_nonce=response.nonce,
            error_detail=status_pb2.Status(message=message),
        ))

    def subscribe_all(self):
        """What ztunnel does first: asks for everything of both types and
        accepts it. Returns the two responses by type."""
        for type_url in [ADDRESS, AUTHORIZATION]:
            self.subscribe(type_url)
        responses = {}
        while len(responses) < 2:
            response = self.receive()
            assert response.type_url not in responses, f"a second response without a change: {response}"
            responses[response.type_url] = response
            self.ack(response)
        return responses


class SotwStream(_Stream):
    """State-of-the-world xDS."""

    def __init__(self, channel, metadata=()):
        super().__init__(ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources, metadata)

    def subscribe(self, type_url):
        """The first request for a type: everything."""
        request = discovery_pb2.DiscoveryRequest(type_url=type_url)
        request.node.id = NODE_ID
        self.send(request)

    def ack(self, response):
        """Accepts a response."""
        self.send(discovery_pb2.DiscoveryRequest(
            type_url=response.type_url, version_info=response.version_info, response_nonce=response.nonce
        ))


def decode(any_):
    """The message in an Any: an Address or an Authorization."""
    # Generated when the tests start, so not importable before.
    from istio.security import authorization_pb2
    from istio.workload import workload_pb2

    message = {ADDRESS: workload_pb2.Address, AUTHORIZATION: authorization_pb2.Authorization}[any_.type_url]()
    assert any_.Unpack(message), f"{any_.type_url} does not decode"
    return message


def name_of(message):
    """The resource name that ztunnel expects for a payload."""
    kind = message.DESCRIPTOR.name
    if kind == "Authorization":
        return f"{message.namespace}/{message.name}"
    if message.WhichOneof("type") == "workload":
        return message.workload.uid
    return f"{message.service.namespace}/{message.service.hostname}"


def contents(response):
    """The resources of a delta response by name. Checks what every response
    has to keep: names that match, contents that decode, versions, a nonce."""
    assert response.nonce
    decoded = {}
    for resource in response.resources:
        assert resource.resource.type_url == response.type_url
        assert resource.version, f"{resource.name} has no version"
        message = decode(resource.resource)
        assert resource.name == name_of(message)
        assert resource.name not in decoded, f"{resource.name} twice in one response"
        decoded[resource.name] = message
    assert not set(decoded) & set(response.removed_resources)
    return decoded


def versions(response):
    """What a client keeps of a response to name after a reconnect."""
    return {resource.name: resource.version for resource in response.resources}
