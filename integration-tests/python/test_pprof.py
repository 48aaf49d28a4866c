"""CPU profiles: what the format's readers see, and who may take one."""

import gzip
import http.client
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from fairway import ROOT, Fairway, outside
from test_debug import exposed, get, token  # noqa: F401

PROFILE = "/debug/pprof/profile"
# A signal's bit in /proc/PID/status.
SIGPROF = 1 << 26


def fields(message):
    """The fields of a protobuf message: number and value, as the wire has them."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            length = varint()
            yield key >> 3, message[at:at + length]
            at += length


def numbers(packed):
    """The numbers of a packed field."""
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


class Profile:
    """A profile as pprof's `profile.proto` says."""

    def __init__(self, body):
        found = list(fields(gzip.decompress(body)))
        of = lambda number: [value for field, value in found if field == number]  # noqa: E731
        self.texts = [text.decode() for text in of(6)]
        text = self.texts.__getitem__
        self.types = [tuple(text(dict(fields(one)).get(part, 0)) for part in (1, 2)) for one in of(1)]
        functions = {one[1]: one for one in map(dict, map(fields, of(5)))}
        lines = {}
        for location in of(4):
            location = dict(fields(location))
            line = dict(fields(location[4]))
            function = functions[line[1]]
            lines[location[1]] = (text(function[2]), text(function.get(4, 0)), line.get(2, 0))
        #: Frames from the innermost, values, labels.
        self.samples = []
        for sample in of(2):
            parts = list(fields(sample))
            one = dict(parts)
            labels = {text(label[1]): text(label[2]) for label in (dict(fields(v)) for n, v in parts if n == 3)}
            self.samples.append(([lines[id] for id in numbers(one[1])], list(numbers(one[2])), labels))
        [self.time], [self.duration], [self.period] = of(9), of(10), of(12)
        self.period_type = tuple(text(dict(fields(of(11)[0]))[part]) for part in (1, 2))
        self.comments = [text(one) for packed in of(13) for one in numbers(packed)]


class Work:
    """Asks for a page again and again, as long as it is entered."""

    def __init__(self, fairway):
        self._fairway, self._ended = fairway, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self):
        while not self._ended.is_set():
            assert get(self._fairway.monitoring, "/debug/ambientz")[0] == 200

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=20)


def take(fairway, seconds, path=PROFILE):
    with urllib.request.urlopen(f"http://{fairway.monitoring}{path}?seconds={seconds}", timeout=seconds + 60) as answer:
        return answer.headers, answer.read()


def asked(address, path, **headers):
    """The status of an answer that may be no text."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", headers=headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def signals(fairway, what):
    status = open(f"/proc/{fairway.process.pid}/status").read()
    [line] = [line for line in status.splitlines() if line.startswith(what)]
    return int(line.split()[1], 16)


def until(what, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not {wanted} within {seconds} s"
        time.sleep(0.02)


def profiled(fairway):
    """Whether SIGPROF is caught."""
    return bool(signals(fairway, "SigCgt") & SIGPROF)


def test_a_profile_says_what_the_process_does(fairway):
    assert not profiled(fairway)
    before = time.time()
    with Work(fairway):
        headers, body = take(fairway, 3)
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == 'attachment; filename="profile"'
    profile = Profile(body)
    assert profile.types == [("samples", "count"), ("cpu", "nanoseconds")]
    assert (profile.period_type, profile.period) == (("cpu", "nanoseconds"), 10_000_000)
    assert 3e9 <= profile.duration < 20e9
    assert before <= profile.time / 1e9 <= time.time()
    assert profile.texts[0] == "" and len(set(profile.texts)) == len(profile.texts)
    assert profile.comments[0].startswith("fairway ")
    assert all(values[1] == values[0] * profile.period for _, values, _ in profile.samples)
    # Two askers keep it busy for most of the time; this machine may be busy, too.
    count = sum(values[0] for _, values, _ in profile.samples)
    assert count >= 20, f"{count} samples"
    rendering = [stack for stack, _, _ in profile.samples if any("fairway::admin::render" in frame[0] for frame in stack)]
    assert rendering, "the page that is asked for is on no stack"
    frame = next(frame for frame in rendering[0] if "fairway::admin::render" in frame[0])
    assert frame[1].endswith("src/admin/render.rs") and frame[2] > 0
    # Stacks reach the beginning of their threads, most of which have names.
    assert any("std::sys" in stack[-1][0] or "clone" in stack[-1][0] or "start" in stack[-1][0] for stack in rendering)
    assert {"tokio-rt-worker"} & {labels["thread"] for _, _, labels in profile.samples}
    assert not profiled(fairway), "the handler is gone"


def test_one_at_a_time_and_who_goes_away_ends_it(fairway):
    host, port = fairway.monitoring.split(":")
    first = http.client.HTTPConnection(host, int(port), timeout=10)
    first.request("GET", f"{PROFILE}?seconds=300")
    until(lambda: profiled(fairway), "profiled")
    status, text = get(fairway.monitoring, f"{PROFILE}?seconds=1")
    assert (status, text) == (409, "a CPU profile is being taken already\n")
    first.close()
    until(lambda: not profiled(fairway), "over")
    # The right to the next may take a moment longer.
    until(lambda: asked(fairway.monitoring, f"{PROFILE}?seconds=1") == 200, "the next one's turn")
    assert fairway.process.poll() is None


def test_the_process_ends_though_somebody_profiles_it(fairway):
    host, port = fairway.monitoring.split(":")
    asker = http.client.HTTPConnection(host, int(port), timeout=10)
    asker.request("GET", f"{PROFILE}?seconds=300")
    with asker.getresponse() as answer:
        assert answer.status == 200 and profiled(fairway)
        assert fairway.terminate() == 0
        # It has begun, so all there is to say is that it is not whole.
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    assert "did not end in time" not in fairway.log()


@pytest.mark.parametrize("seconds", ["0", "301", "-1", "ten", "1.5", ""])
def test_what_is_no_time_is_refused(fairway, seconds):
    status, text = get(fairway.monitoring, f"{PROFILE}?seconds={seconds}")
    assert (status, text) == (400, f'seconds: "{seconds}" is not a number from 1 to 300\n')


def test_other_pages(fairway):
    status, text = get(fairway.monitoring, "/debug/pprof/")
    assert status == 200 and all(f"/debug/pprof/{name}" in text for name in ("profile", "cmdline", "symbol"))
    words = get(fairway.monitoring, "/debug/pprof/cmdline")[1].split("\0")
    assert words[0] == str(fairway.binary) and words[1] == "discovery" and fairway.monitoring in words
    assert get(fairway.monitoring, "/debug/pprof/symbol") == (200, "num_symbols: 0\n")
    for name in ("heap", "allocs", "goroutine", "block", "mutex", "threadcreate", "trace"):
        status, text = get(fairway.monitoring, f"/debug/pprof/{name}")
        assert status == 404 and "Go's runtime" in text, name
    assert get(fairway.monitoring, "/debug/pprof/nothing")[0] == 404
    assert "pprof" not in get(fairway.monitoring, "/debug/list")[1]


def test_profiles_are_for_those_who_see_everything(exposed):  # noqa: F811
    for path in ("/debug/pprof/", "/debug/pprof/cmdline", f"{PROFILE}?seconds=1"):
        assert get(exposed.outside, path)[0] == 401
        assert get(exposed.outside, path, Authorization="Bearer nonsense")[0] == 401
        other = token(exposed, "default", "sleep")
        assert get(exposed.outside, path, Authorization=f"Bearer {other}")[0] == 403
        assert get(exposed.monitoring, path, Host="rebound.example")[0] == 403
        system = token(exposed, "istio-system", "default")
        assert asked(exposed.outside, path, Authorization=f"Bearer {system}") == 200


@pytest.mark.parametrize("flag, status", [("--profile=false", 404), ("--profile", 200), ("--profile=true", 200)])
def test_the_flag_takes_them_away(binary, mesh, tmp_path, flag, status):
    fairway = Fairway(binary, mesh, tmp_path, flags=[flag])
    with fairway:
        for path in ("/debug/pprof/", "/debug/pprof/cmdline"):
            assert get(fairway.monitoring, path)[0] == status
        if status == 404:
            assert get(fairway.monitoring, f"{PROFILE}?seconds=1") == (404, "there are no profiles: --profile=false\n")
        assert get(fairway.monitoring, "/debug/syncz")[0] == 200


@pytest.mark.timeout(400)
def test_gos_own_tool_reads_it(fairway, tmp_path):
    """`go tool pprof`, if there is a Go here: `make test` installs one for etcd."""
    go = shutil.which("go") or shutil.which(ROOT / ".cache/bin/go")
    if not go:
        pytest.skip("no Go")
    environment = {**os.environ, "PPROF_TMPDIR": str(tmp_path), "GOTOOLCHAIN": "local"}
    # The first time it is compiled.
    tool = subprocess.run(
        [go, "tool", "-n", "pprof"], env=environment, check=True, capture_output=True, text=True, timeout=240,
    ).stdout.split()
    with Work(fairway):
        done = subprocess.run(
            [*tool, "-top", "-cum", "-seconds=2", f"http://{fairway.monitoring}{PROFILE}"],
            env=environment, capture_output=True, text=True, timeout=90,
        )
    assert done.returncode == 0, done.stderr
    assert "fairway::admin::render" in done.stdout, done.stdout
    assert "Type: cpu" in done.stdout
