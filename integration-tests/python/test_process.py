"""The process: readiness, metrics, version, and how it ends."""

import json
import socket
import subprocess
import threading
import time

import grpc
import pytest
from discovery import ADDRESS, DeltaStream
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text


def metrics(fairway):
    """The metric families, by a parser that tolerates no mistakes."""
    status, content_type, body = fairway.get(fairway.monitoring, "/metrics")
    assert status == 200
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    return {family.name: family for family in parse(body)}


def test_it_is_ready(fairway):
    assert fairway.get(fairway.http, "/ready")[0] == 200


def test_it_tells_its_version(fairway):
    status, _, body = fairway.get(fairway.monitoring, "/version")
    assert status == 200 and body.endswith("-fairway-unknown-unknown")


def test_it_tells_its_version_to_istioctl(fairway):
    # It puts a slash in front of a path that begins with one.
    assert fairway.get(fairway.monitoring, "//version")[0::2] == fairway.get(fairway.monitoring, "/version")[0::2]
    assert fairway.get(fairway.monitoring, "//debug//list?pretty")[0] == 200
    assert fairway.get(fairway.monitoring, "//no-such-page")[0] == 404


def test_an_unknown_path_is_not_found(fairway):
    for address in [fairway.http, fairway.monitoring]:
        assert fairway.get(address, "/no-such-page")[0] == 404


def test_metrics_parse_and_count_the_connected(fairway):
    def connected():
        family = metrics(fairway).get("pilot_xds")
        return sum(sample.value for sample in family.samples) if family else 0

    before = connected()
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.subscribe_all()
        assert connected() == before + 1


def test_it_ends_in_time_while_clients_are_connected(fairway):
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.subscribe_all()
        started = time.monotonic()
        assert fairway.terminate() == 0
        assert time.monotonic() - started < 10
        # Not a clean end: ztunnel would reconnect without any delay.
        with pytest.raises(grpc.RpcError):
            stream.receive()


def test_it_ends_in_time_when_a_client_reads_nothing(fairway):
    """A peer that connected and went silent must not hold the process."""
    host, port = fairway.secure_grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=5):
        assert fairway.terminate() == 0


def test_many_streams_come_and_go(fairway):
    errors = []

    def client():
        try:
            with fairway.plaintext() as channel, DeltaStream(channel) as stream:
                stream.subscribe(ADDRESS)
                assert stream.receive().resources
        except Exception as error:  # noqa: BLE001  (reported below)
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []


@pytest.mark.parametrize("name", ["fairway", "pilot-discovery"])
def test_a_page_is_asked_for_as_bug_report_does(fairway, tmp_path, name):
    command = tmp_path / name
    command.symlink_to(fairway.binary)

    def ask(*arguments):
        return subprocess.run(
            [command, "request", *arguments, "--address", fairway.monitoring],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        )

    assert "syncz" in json.loads(ask("GET", "debug/list").stdout)
    assert ask("GET", "/debug/list").stdout == ask("GET", "debug/list").stdout
    # bug-report throws all pages away if one of its commands fails.
    missing = ask("GET", "debug/nothing")
    assert missing.returncode == 0 and "404 page not found" in missing.stdout
    wrong = ask("GET", "debug/config_dump")
    assert wrong.returncode != 0 and "400" in wrong.stderr and "proxyID" in wrong.stderr
    assert ask("PUT", "debug/list").returncode != 0
