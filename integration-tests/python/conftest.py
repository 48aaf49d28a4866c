"""Fairway seen by clients that share no code with it: grpcio with the published
xDS messages, grpcurl, buf and a Prometheus parser.

Run by `make python-tests`. Every test gets a control plane of its own, on free
loopback ports, in file mode on a copy of examples/bookinfo.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from discovery import bearer
from fairway import ROOT, Fairway

sys.path.insert(0, str(ROOT / "scripts"))


def pytest_configure(config):
    """Generates Python from our own contracts, so that decoding a resource
    also checks that proto/istio compiles with Google's compiler."""
    out = ROOT / ".cache/python-contracts"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sources = sorted((ROOT / "proto/istio").rglob("*.proto"))
    command = [
        sys.executable, "-m", "grpc_tools.protoc",
        f"--proto_path={ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}",
    ]
    subprocess.run([*command, *sources], check=True, timeout=60)
    sys.path.insert(0, str(out))
    # When the tests are called off, what they started has to end with them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def binary():
    """The control plane under test."""
    path = pathlib.Path(os.environ.get("FAIRWAY_BIN", ROOT / "target/debug/fairway"))
    if not path.exists():
        pytest.exit(f"{path} is missing: run cargo build, or set FAIRWAY_BIN", returncode=2)
    return path


@pytest.fixture
def mesh(tmp_path):
    """A copy of examples/bookinfo to change."""
    return shutil.copytree(ROOT / "examples/bookinfo", tmp_path / "mesh")


@pytest.fixture
def fairway(binary, mesh, tmp_path):
    """A ready control plane that serves `mesh`."""
    with Fairway(binary, mesh, tmp_path) as running:
        yield running
        print(running.log())  # Shown only when the test failed.


@pytest.fixture(params=["plaintext", "tls"])
def channel(request, fairway):
    """A gRPC channel to the xDS service with the metadata its caller needs:
    as anybody on the plaintext port, as a ztunnel on the TLS port."""
    with fairway.plaintext() if request.param == "plaintext" else fairway.tls() as channel:
        token = fairway.ztunnel_token("node-a") if request.param == "tls" else None
        yield channel, bearer(token)
