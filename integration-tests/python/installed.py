"""The chart installed on a Kubernetes API without nodes, and what nodes would do
with it: run the control plane, as the pods of its Deployment are told to."""

import os
import pathlib
import subprocess
import threading
import time
import urllib.error
import urllib.request

import cluster as kubernetes
import yaml
from helm import NAMESPACE, helm

#: Stands in for an installation of istiod, and the webhook that its chart `base`
#: leaves behind.
ISTIOD = pathlib.Path(__file__).parent / "istiod"
VALIDATOR = pathlib.Path(__file__).parent / "validator.yaml"

WAIT_SECONDS = 60
STOP_SECONDS = 15


def run(cluster, command, *arguments):
    """Helm as the administrator."""
    return helm(command, *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={cluster.kubeconfig}").stdout


def get(cluster, *arguments):
    """Objects in the namespace of the control plane."""
    return yaml.safe_load(cluster.kubectl("get", *arguments, f"--namespace={NAMESPACE}", "--output=yaml"))


def wait_for(what, true):
    """What `true` returns as soon as it is something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not after {WAIT_SECONDS} s"
        time.sleep(0.2)
    return found


class ControlPlane:
    """The process that a pod is told to run, or the Deployment `istiod` if none is
    given: with its arguments and variables, and the token of its ServiceAccount."""

    def __init__(self, cluster, binary, work, pod=None, name="istiod-0"):
        self.cluster, self.binary, self.pod, self.name = cluster, binary, pod, name
        self.kubeconfig, self.path = work / "istiod.kubeconfig", work / "istiod.log"

    def __enter__(self):
        pod = self.pod or get(self.cluster, "deployment", "istiod")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        account = pod["serviceAccountName"]
        self.cluster.write_service_account_kubeconfig(self.kubeconfig, NAMESPACE, account)
        fields = {"metadata.name": self.name, "metadata.namespace": NAMESPACE, "spec.serviceAccountName": account}
        variables = {
            variable["name"]: variable.get("value") or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
            for variable in container["env"]
        }
        ports = kubernetes.free_ports(5)
        names = ["grpcAddr", "secureGRPCAddr", "httpAddr", "httpsAddr", "monitoringAddr"]
        arguments = [one for one in container["args"] if not one.startswith("--monitoringAddr")]
        arguments += [f"--{name}=127.0.0.1:{port}" for name, port in zip(names, ports)]
        self.monitoring = f"http://127.0.0.1:{ports[4]}"
        self.health = f"http://127.0.0.1:{ports[2]}/ready"
        environment = {**os.environ, **variables, "KUBECONFIG": str(self.kubeconfig)}
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen(
                [self.binary, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        print(self.log()[-8000:])  # Shown only when the test failed.

    def ready(self):
        """What its readiness probe would find."""
        try:
            with urllib.request.urlopen(self.health, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def log(self):
        return self.path.read_text(errors="replace")


class Node:
    """Runs the pods in the namespace of the control plane, as far as others can
    tell: those of our image when the process is there and ready, others at once."""

    def __init__(self, cluster, binary, work):
        self.cluster, self.binary, self.work = cluster, binary, work
        self.control_plane, self.trouble = None, None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._work)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self._end()
        assert self.trouble is None, self.trouble

    def _work(self):
        while not self.stop.wait(0.3):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  (reported when it ends)
                self.trouble = error
                return

    def _look(self):
        pods = get(self.cluster, "pods")["items"]
        ours = [pod for pod in pods if "/pilot:" not in pod["spec"]["containers"][0]["image"]]
        if ours and not self.control_plane:
            self.control_plane = ControlPlane(self.cluster, self.binary, self.work, ours[0]["spec"])
            self.control_plane.__enter__()
        if not ours:
            self._end()
        for pod in pods:
            conditions = pod["status"].get("conditions", [])
            done = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
            if done or "deletionTimestamp" in pod["metadata"] or (pod in ours and not self.control_plane.ready()):
                continue
            status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/status"
            try:
                self.cluster.request(
                    "PATCH", path, {"status": status}, content_type="application/strategic-merge-patch+json",
                )
            except kubernetes.ClusterError as error:
                if "404" not in str(error):  # It may have gone.
                    raise

    def _end(self):
        if self.control_plane:
            self.control_plane.__exit__()
            self.control_plane = None
