"""Who may open a stream on the TLS port, and whom the client can trust."""

import grpc
import pytest
from discovery import ADDRESS, DeltaStream, bearer
from fairway import Fairway


def refusal(channel, metadata):
    """The status with which a stream ends before its first response."""
    with DeltaStream(channel, metadata) as stream:
        stream.subscribe(ADDRESS)
        with pytest.raises(grpc.RpcError) as error:
            stream.receive()
        return error.value.code()


def forged(token):
    """A token with a valid form whose signature does not fit."""
    signed, _, signature = token.rpartition(".")
    middle = len(signature) // 2
    return f"{signed}.{signature[:middle]}{'A' if signature[middle] != 'A' else 'B'}{signature[middle + 1:]}"


@pytest.mark.parametrize("metadata", [
    pytest.param([], id="no token"),
    pytest.param(bearer("nonsense"), id="no JWT"),
    pytest.param([("authorization", "Basic YTpi")], id="other scheme"),
    pytest.param([("authorization", "Bearer ")], id="empty token"),
])
def test_a_stream_without_a_valid_token_is_refused(fairway, metadata):
    with fairway.tls() as channel:
        assert refusal(channel, metadata) == grpc.StatusCode.UNAUTHENTICATED


def test_a_forged_token_is_refused(fairway):
    with fairway.tls() as channel:
        assert refusal(channel, bearer(forged(fairway.ztunnel_token("node-a")))) == grpc.StatusCode.UNAUTHENTICATED


def test_a_token_of_another_control_plane_is_refused(fairway, binary, tmp_path):
    """Every state folder has an issuer of its own."""
    (tmp_path / "other").mkdir()
    with Fairway(binary, fairway.config, tmp_path / "other") as other:
        token = other.ztunnel_token("node-a")
    with fairway.tls() as channel:
        assert refusal(channel, bearer(token)) == grpc.StatusCode.UNAUTHENTICATED


def test_the_server_proves_itself_with_the_root_of_the_mesh(fairway):
    other_root = grpc.ssl_channel_credentials()  # The roots of the machine.
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(fairway.secure_grpc, other_root, options) as channel:
        assert refusal(channel, bearer(fairway.ztunnel_token("node-a"))) == grpc.StatusCode.UNAVAILABLE
