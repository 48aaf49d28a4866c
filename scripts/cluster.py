#!/usr/bin/env python3
"""A throw-away Kubernetes API on loopback: etcd, kube-apiserver and
kube-controller-manager, without nodes or kubelets.

    cluster.py start DIR            start one that keeps running, state in DIR
    cluster.py stop DIR             end exactly the processes that start made
    cluster.py kubeconfig DIR NAMESPACE SERVICE_ACCOUNT
                                    print a kubeconfig that acts as an account
    cluster.py exec COMMAND...      run a command with KUBECONFIG set, then stop

Both start and exec install the CRDs of Istio and of the Gateway API with
--crds. Start writes DIR/cluster.json and DIR/cluster.env: addresses, process
ids and paths. Tests import this module instead and use `with Cluster(...)`.

Needs scripts/controlplane.sh (and scripts/crds.sh for --crds) to have run; the
flags and the reasons for them are in integration-tests/controlplane/README.md.
Uses the standard library and the openssl command only.
"""

import argparse
import base64
import json
import os
import pathlib
import random
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTROLPLANE = ROOT / ".cache/bin/controlplane"
KUBECTL = ROOT / ".cache/bin/kubectl"
CRDS = ROOT / ".cache/crds"

ISSUER = "https://kubernetes.default.svc.cluster.local"
START_SECONDS = 60
STOP_SECONDS = 15

# Only what a service mesh leans on: garbage collection, the objects every
# namespace gets, and what turns a Deployment and a Service into pods and
# endpoints. Nothing that judges nodes, for there are none.
CONTROLLERS = [
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
]


class ClusterError(Exception):
    """The cluster could not be started, or refused a request."""


def free_ports(count):
    """Loopback ports that nothing listens on, outside the range from which the
    kernel picks the ports of outgoing connections."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first_outgoing = int(file.read().split()[0])
    held = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", random.randrange(10_000, max(first_outgoing, 20_000))))
                held.append(candidate)
            except OSError:
                candidate.close()
        return [socket.getsockname()[1] for socket in held]
    finally:
        for socket_ in held:
            socket_.close()


class Cluster:
    """One Kubernetes API with its state in a directory."""

    def __init__(self, directory, binary=CONTROLPLANE):
        self.directory = pathlib.Path(directory).resolve()
        self.binary = pathlib.Path(binary)
        self.pids = {}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    # Where things are.

    @property
    def kubeconfig(self):
        """The kubeconfig of an administrator (group system:masters)."""
        return self.directory / "admin.kubeconfig"

    @property
    def certificate_authority(self):
        """What verifies the API server: its self-made certificate and CA."""
        return self.directory / "apiserver/apiserver.crt"

    def describe(self):
        """What `start` writes to cluster.json."""
        return {
            "server": self.server,
            "etcd": self.etcd,
            "kubeconfig": str(self.kubeconfig),
            "certificateAuthority": str(self.certificate_authority),
            "token": self.token,
            "issuer": ISSUER,
            "logs": str(self.directory / "logs"),
            "processes": self.pids,
        }

    # Life.

    def start(self):
        """Starts the three processes and waits until the API is usable."""
        if not self.binary.exists():
            raise ClusterError(f"{self.binary} is missing: run scripts/controlplane.sh")
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        self.token = secrets.token_hex(16)
        etcd_port, peer_port, api_port = free_ports(3)
        self.etcd = f"http://127.0.0.1:{etcd_port}"
        self.server = f"https://127.0.0.1:{api_port}"
        self._make_keys()
        try:
            self._spawn("etcd", self._etcd_flags(f"http://127.0.0.1:{peer_port}"))
            self._spawn("kube-apiserver", self._apiserver_flags(api_port))
            self._wait("the API server", self.certificate_authority.exists)
            self._write_kubeconfig(self.kubeconfig, "admin", self.token)
            self._wait("the API server", lambda: self.request("GET", "/readyz", raw=True) == b"ok")
            self._spawn("kube-controller-manager", self._controller_manager_flags())
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait("the controllers", lambda: self.request("GET", account))
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Ends the processes that `start` made: users of etcd first."""
        for component in ["kube-controller-manager", "kube-apiserver", "etcd"]:
            if component in self.pids:
                _end(self.pids.pop(component))

    # Use.

    def request(self, method, path, body=None, token=None, raw=False, content_type="application/json"):
        """One request to the API server, as the administrator unless a token
        is given. Returns the decoded answer."""
        request = urllib.request.Request(self.server + path, method=method)
        request.add_header("Authorization", f"Bearer {token or self.token}")
        if body is not None:
            request.add_header("Content-Type", content_type)
            request.data = json.dumps(body).encode()
        context = ssl.create_default_context(cafile=self.certificate_authority)
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise ClusterError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise ClusterError(f"{method} {path}: {error}") from error
        return answer if raw else json.loads(answer)

    def service_account_token(self, namespace, name, audiences=(), pod=None):
        """A token of a ServiceAccount, optionally bound to a pod (the Pod
        object) as a projected token is."""
        spec = {"expirationSeconds": 3600, "audiences": list(audiences)}
        if pod:
            metadata = pod["metadata"]
            spec["boundObjectRef"] = {
                "kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"],
            }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return self.request("POST", path, {"spec": spec})["status"]["token"]

    def write_service_account_kubeconfig(self, path, namespace, name):
        """A kubeconfig that acts as a ServiceAccount, with its RBAC rights."""
        self._write_kubeconfig(path, f"{namespace}/{name}", self.service_account_token(namespace, name))

    def kubectl(self, *arguments, stdin=None):
        """Runs kubectl as the administrator and returns what it printed."""
        command = [KUBECTL, "--kubeconfig", self.kubeconfig, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise ClusterError(f"kubectl {shlex.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def install_crds(self):
        """Installs the CRDs of Istio and of the Gateway API and waits until
        the API server serves them."""
        folders = [CRDS / "istio", CRDS / "gateway-api"]
        if not all(folder.is_dir() for folder in folders):
            raise ClusterError(f"{CRDS} is missing: run scripts/crds.sh")
        for folder in folders:
            self.kubectl("apply", "--server-side", "-f", str(folder))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")

    # How.

    def _make_keys(self):
        key = self.directory / "service-account.key"
        public = self.directory / "service-account.pub"
        for command in [
            ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key],
            ["pkey", "-in", key, "-pubout", "-out", public],
        ]:
            subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=30)
        tokens = self.directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')

    def _etcd_flags(self, peer):
        return [
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self.etcd}",
            f"--advertise-client-urls={self.etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_flags(self, port):
        return [
            f"--etcd-servers={self.etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.directory / 'apiserver'}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            f"--service-account-issuer={ISSUER}",
            f"--api-audiences={ISSUER}",
            f"--service-account-signing-key-file={self.directory / 'service-account.key'}",
            f"--service-account-key-file={self.directory / 'service-account.pub'}",
            "--allow-privileged=true",
            "--profiling=false",
        ]

    def _controller_manager_flags(self):
        return [
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.directory / 'service-account.key'}",
            f"--root-ca-file={self.certificate_authority}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def _spawn(self, component, flags):
        log = open(self.directory / "logs" / f"{component}.log", "ab")
        process = subprocess.Popen(
            [self.binary, component, *flags],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            # Ctrl-C in a terminal must not end etcd before its users.
            start_new_session=True,
        )
        log.close()
        self.pids[component] = {"pid": process.pid, "started": _started(process.pid)}

    def _wait(self, what, done):
        deadline = time.monotonic() + START_SECONDS
        while True:
            reason = "not there yet"
            try:
                if done():
                    return
            except ClusterError as error:
                reason = str(error)
            for component, process in self.pids.items():
                if not _alive(process):
                    raise ClusterError(f"{component} ended:\n{self._log_tail(component)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} not ready after {START_SECONDS} s: {reason}")
            time.sleep(0.1)

    def _log_tail(self, component):
        log = self.directory / "logs" / f"{component}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-10:])

    def _write_kubeconfig(self, path, user, token):
        authority = base64.b64encode(self.certificate_authority.read_bytes()).decode()
        cluster = {"server": self.server, "certificate-authority-data": authority}
        # JSON is YAML: no parser needed to write it.
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = pathlib.Path(path)
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=2) + "\n")


def load(directory):
    """The running cluster whose state is in a directory."""
    cluster = Cluster(directory)
    try:
        described = json.loads((cluster.directory / "cluster.json").read_text())
    except FileNotFoundError:
        raise ClusterError(f"no cluster was started in {directory}") from None
    cluster.server, cluster.etcd = described["server"], described["etcd"]
    cluster.token, cluster.pids = described["token"], described["processes"]
    return cluster


def _started(pid):
    """When a process started, in clock ticks since boot: with its id it names
    one process for ever. None if there is no such process, or only a zombie."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _alive(process):
    started = _started(process["pid"])
    return started is not None and started == process["started"]


def _end(process):
    """Ends a process of ours: politely, then surely."""
    for how in [signal.SIGTERM, signal.SIGKILL]:
        deadline = time.monotonic() + STOP_SECONDS
        if _alive(process):
            os.kill(process["pid"], how)
        while _alive(process) and time.monotonic() < deadline:
            time.sleep(0.05)
    try:
        os.waitpid(process["pid"], 0)
    except ChildProcessError:
        pass  # Started by an earlier command, not by this process.


def start(arguments):
    directory = pathlib.Path(arguments.directory)
    if (directory / "cluster.json").exists():
        raise ClusterError(f"{directory} has a cluster already: stop it first")
    cluster = Cluster(directory)
    cluster.start()
    try:
        if arguments.crds:
            cluster.install_crds()
    except BaseException:
        cluster.stop()
        raise
    description = cluster.describe()
    environment = {
        "KUBECONFIG": description["kubeconfig"],
        "KUBERNETES_SERVER": description["server"],
        "KUBERNETES_CA": description["certificateAuthority"],
        "ETCD_SERVER": description["etcd"],
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    (cluster.directory / "cluster.env").write_text("".join(lines))
    path = cluster.directory / "cluster.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(description, indent=2) + "\n")
    print(path.read_text(), end="")


def stop(arguments):
    cluster = load(arguments.directory)
    cluster.stop()
    # Each start is a new cluster; the logs stay for whoever wants to read them.
    for name in ["cluster.json", "cluster.env"]:
        (cluster.directory / name).unlink(missing_ok=True)
    for name in ["etcd", "apiserver"]:
        shutil.rmtree(cluster.directory / name, ignore_errors=True)


def kubeconfig(arguments):
    cluster = load(arguments.directory)
    with tempfile.NamedTemporaryFile("r") as file:
        cluster.write_service_account_kubeconfig(file.name, arguments.namespace, arguments.service_account)
        print(file.read(), end="")


def execute(arguments):
    # A terminated script must end its cluster too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="cluster-") as directory, Cluster(directory) as cluster:
        if arguments.crds:
            cluster.install_crds()
        environment = dict(os.environ, KUBECONFIG=str(cluster.kubeconfig))
        environment["PATH"] = f"{KUBECTL.parent}:{environment['PATH']}"
        return subprocess.run(arguments.command, env=environment).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, *positional, crds=False):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        if crds:
            sub.add_argument("--crds", action="store_true", help="install Istio's and the Gateway API's CRDs")
        for argument in positional:
            sub.add_argument(argument, metavar=argument.upper())
        return sub

    command("start", start, "directory", crds=True)
    command("stop", stop, "directory")
    command("kubeconfig", kubeconfig, "directory", "namespace", "service_account")
    command("exec", execute, crds=True).add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")

    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except ClusterError as error:
        sys.exit(f"cluster.py: {error}")


if __name__ == "__main__":
    main()
