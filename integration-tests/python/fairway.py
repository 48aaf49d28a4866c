"""A control plane under test: its process, its addresses and its tokens."""

import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import grpc
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]

START_SECONDS = 30
STOP_SECONDS = 10


def outside():
    """An address of this machine that is not of loopback: the API server passes no
    requests on to those, and our own pages ask others who they are."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return probe.getsockname()[0]


class Fairway:
    """`fairway discovery`, started on entry and ended on exit: in file mode, or
    on the Kubernetes API of a kubeconfig."""

    def __init__(self, binary, config, work, kubeconfig=None, flags=()):
        import cluster  # scripts/cluster.py

        self.binary, self.config, self.state = binary, config, work / "state"
        self._kubeconfig, self._flags = kubeconfig, flags
        self._log_path = work / "fairway.log"
        addresses = [f"127.0.0.1:{port}" for port in cluster.free_ports(5)]
        self.grpc, self.secure_grpc, self.http, self.https, self.monitoring = addresses

    def __enter__(self):
        source = ["--kubeconfig", self._kubeconfig]
        if not self._kubeconfig:
            source = ["--configDir", self.config, "--stateDir", self.state]
        command = [
            self.binary, "discovery", *source,
            "--grpcAddr", self.grpc,
            "--secureGRPCAddr", self.secure_grpc,
            "--httpAddr", self.http,
            "--httpsAddr", self.https,
            "--monitoringAddr", self.monitoring,
            *self._flags,
        ]
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self._end()

    # HTTP.

    def get(self, address, path):
        """Status, content type and body of a GET; the status 0 means that
        nothing answered."""
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, "", error.read().decode(errors="replace")
        except OSError as error:
            return 0, "", str(error)

    # gRPC.

    def plaintext(self):
        """A channel to the port without TLS or authentication."""
        return grpc.insecure_channel(self.grpc)

    def tls(self):
        """A channel to the TLS port, verified against the root that file mode
        writes to its state folder."""
        credentials = grpc.ssl_channel_credentials(self.root_certificate())
        return grpc.secure_channel(
            self.secure_grpc, credentials, options=[("grpc.ssl_target_name_override", "localhost")]
        )

    def root_certificate(self):
        """The root of the mesh, in PEM."""
        return (self.state / "root-cert.pem").read_bytes()

    # Tokens.

    def token(self, namespace, service_account, pod=None):
        """A development token, bound to a pod (an object of the mesh) or not."""
        command = [
            self.binary, "token", "--stateDir", self.state,
            "--namespace", namespace, "--serviceAccount", service_account,
        ]
        if pod:
            command += ["--pod", pod["metadata"]["name"], "--podUid", pod["metadata"]["uid"]]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    def ztunnel_token(self, node):
        """The token of the ztunnel on a node."""
        [pod] = [
            pod for pod in objects(self.config, "Pod")
            if pod["spec"]["serviceAccountName"] == "ztunnel" and pod["spec"]["nodeName"] == node
        ]
        return self.token("istio-system", "ztunnel", pod)

    # Life.

    def terminate(self):
        """Asks the process to end and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def log(self):
        """The end of what the process logged."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-60:])

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while self.get(self.http, "/ready")[0] != 200:
            if self.process.poll() is not None:
                raise AssertionError(f"fairway ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"fairway is not ready after {START_SECONDS} s:\n{self.log()}")
            time.sleep(0.05)

    def _end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def objects(folder, kind):
    """The objects of one kind in a folder of YAML."""
    found = [object_ for file in sorted(folder.glob("*.yaml")) for object_ in yaml.safe_load_all(file.read_text())]
    return [object_ for object_ in found if object_["kind"] == kind]


def change(file, old, new):
    """Replaces a text in a file, in one step as an editor or a mounted
    ConfigMap would."""
    text = file.read_text()
    assert old in text, f"{old!r} is not in {file.name}"
    replacement = file.parent.parent / f"{file.name}.new"
    replacement.write_text(text.replace(old, new))
    os.replace(replacement, file)
