"""State-of-the-world xDS, which grpcurl and generic tools use."""

from discovery import ADDRESS, AUTHORIZATION, SotwStream, decode, name_of
from fairway import change

NOTSLEEP = "Kubernetes//Pod/default/notsleep-6d6c8669b5-z3dlm"


def names(response):
    """The names of what a response holds, which the protocol does not send."""
    assert all(resource.type_url == response.type_url for resource in response.resources)
    return [name_of(decode(resource)) for resource in response.resources]


def test_everything_then_silence_then_everything_again(channel, mesh):
    with SotwStream(*channel) as stream:
        stream.subscribe(ADDRESS)
        first = stream.receive()
        assert first.version_info and first.nonce
        assert NOTSLEEP in names(first) and "bookinfo/payments.example.com" in names(first)
        stream.ack(first)
        stream.expect_silence()

        change(mesh / "clients.yaml", "10.244.2.20", "10.244.2.99")
        second = stream.receive()
        assert second.version_info != first.version_info and second.nonce != first.nonce
        assert sorted(names(second)) == sorted(names(first))
        stream.ack(second)
        stream.expect_silence()


def test_a_removed_object_is_missing_from_the_next_response(channel, mesh):
    with SotwStream(*channel) as stream:
        stream.subscribe(ADDRESS)
        first = stream.receive()
        stream.ack(first)
        (mesh / "external.yaml").unlink()
        gone = set(names(first)) - set(names(stream.receive()))
        assert "bookinfo/payments.example.com" in gone and len(gone) == 3


def test_types_share_a_stream(channel):
    with SotwStream(*channel) as stream:
        for type_url in [ADDRESS, AUTHORIZATION]:
            stream.subscribe(type_url)
        responses = [stream.receive(), stream.receive()]
        assert {response.type_url for response in responses} == {ADDRESS, AUTHORIZATION}


def test_an_unknown_type_leaves_the_stream_alive(channel):
    with SotwStream(*channel) as stream:
        stream.subscribe("type.googleapis.com/example.Unknown")
        stream.subscribe(ADDRESS)
        response = stream.receive()
        if response.type_url != ADDRESS:
            assert not response.resources
            response = stream.receive()
        assert NOTSLEEP in names(response)
