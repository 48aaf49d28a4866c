"""`fairway proxies`, `wait`, `check` and `completion`, at a real Kubernetes API and
through its proxy of pods, as somebody with a kubeconfig runs them."""

import json
import os
import subprocess

import cluster as kubernetes
import pytest
from discovery import DeltaStream
from fairway import Fairway, outside

NAMESPACE = "istio-system"
ISTIOD = {"app": "istiod", "istio": "pilot", "istio.io/rev": "default"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with kubernetes.Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.install_crds()
        running.kubectl("create", "namespace", NAMESPACE)
        account = ["--for=create", "serviceaccount/default", f"--namespace={NAMESPACE}", "--timeout=60s"]
        running.kubectl("wait", *account)
        yield running


@pytest.fixture(scope="module")
def installed(binary, cluster, tmp_path_factory):
    """A control plane that the API server knows as a running pod."""
    control_plane = Fairway(binary, None, tmp_path_factory.mktemp("fairway"), kubeconfig=cluster.kubeconfig)
    port = int(control_plane.monitoring.split(":")[1])
    control_plane.monitoring = f"0.0.0.0:{port}"
    with control_plane as running:
        running.monitoring = f"127.0.0.1:{port}"
        container = {"name": "discovery", "image": "r/fairway:1", "ports": [{"name": "http-monitoring", "containerPort": port}]}
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "istiod-a", "namespace": NAMESPACE, "labels": ISTIOD},
            "spec": {"nodeName": "node-a", "containers": [container]},
        }
        cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
        status = {"phase": "Running", "podIP": outside(), "podIPs": [{"ip": outside()}]}
        cluster.request(
            "PATCH", f"/api/v1/namespaces/{NAMESPACE}/pods/istiod-a/status", {"status": status},
            content_type="application/strategic-merge-patch+json",
        )
        yield running
        print(running.log())


@pytest.fixture
def fairway_command(binary, cluster, tmp_path):
    def run(*arguments, fails=False, kubeconfig=cluster.kubeconfig):
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(kubeconfig)}
        environment.pop("FAIRWAY_ADDRESS", None)
        done = subprocess.run(
            [binary, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )
        assert (done.returncode != 0) == fails, (arguments, done.stdout, done.stderr)
        return done.stderr if fails else done.stdout

    return run


def service(name, port):
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def test_proxies_are_listed(installed, fairway_command):
    assert "no proxy is connected" in fairway_command("proxies")
    with installed.plaintext() as channel, DeltaStream(channel) as ztunnel:
        ztunnel.subscribe_all()
        heading, line = fairway_command("proxies").splitlines()
        assert heading.split() == ["NAME", "TYPE", "VERSION", "REPLICA", "STATE", "LAG", "TYPES"]
        assert line.split()[:2] == ["ztunnel-8hxkd.istio-system", "ztunnel"]
        assert "istiod-a" in line and "SYNCED" in line
        [row] = json.loads(fairway_command("proxies", "-o", "json"))
        assert {one["type"]: one["state"] for one in row["types"]} == {"Address": "SYNCED", "Authorization": "SYNCED"}
        assert "no proxy is of that name" in fairway_command("proxies", "-n", "elsewhere")
        assert "no proxy is of that name" in fairway_command("proxies", "other")
        assert "\x1b[" not in fairway_command("proxies") and "\x1b[" in fairway_command("proxies", "--color=always")


def test_wait_is_for_all_proxies(installed, cluster, fairway_command):
    with installed.plaintext() as channel, DeltaStream(channel) as ztunnel:
        ztunnel.subscribe_all()
        cluster.request("POST", "/api/v1/namespaces/default/services", service("shop", 80))
        refused = fairway_command("wait", "svc", "shop", "--timeout", "1s", fails=True)
        assert "is not everywhere" in refused and "1 of 1 proxies do not have it yet" in refused
        ztunnel.ack(ztunnel.receive())
        said = fairway_command("wait", "svc", "shop", "--timeout", "20s")
        assert "Service default/shop is in force at 1 proxy of 1 replica" in said
        assert "is gone" not in said
        cluster.request("DELETE", "/api/v1/namespaces/default/services/shop")
        ztunnel.ack(ztunnel.receive())
        assert "is gone from 1 proxy" in fairway_command("wait", "svc", "shop", "--deleted", "--timeout", "20s")


def test_wait_is_for_the_generation_that_is_stored(installed, cluster, fairway_command):
    rule = {
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "shop", "namespace": "default"}, "spec": {"host": "shop"},
    }
    cluster.request("POST", "/apis/networking.istio.io/v1/namespaces/default/destinationrules", rule)
    assert "DestinationRule default/shop is in force" in fairway_command("wait", "dr", "shop", "--timeout", "20s")
    assert "there is no DestinationRule default/other" in fairway_command("wait", "dr", "other", fails=True)
    assert "is no kind that Fairway reads" in fairway_command("wait", "deployment", "shop", fails=True)


def test_an_address_needs_no_cluster(installed, fairway_command, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.write_text("")
    at = f"--address={installed.monitoring}"
    assert "no proxy" in fairway_command("proxies", at, kubeconfig=nothing)
    assert "Service default/kubernetes" in fairway_command("wait", "service", "kubernetes", at, kubeconfig=nothing)
    refused = fairway_command("proxies", "--address=127.0.0.1:1", kubeconfig=nothing, fails=True)
    assert "not all proxies are listed" in refused and "cannot reach" in refused


def test_who_may_not_is_told_what_it_takes(installed, cluster, fairway_command, tmp_path):
    kubeconfig = tmp_path / "nobody.kubeconfig"
    cluster.kubectl("create", "serviceaccount", "nobody")
    cluster.write_service_account_kubeconfig(kubeconfig, "default", "nobody")
    refused = fairway_command("proxies", kubeconfig=kubeconfig, fails=True)
    assert "forbidden" in refused and "pods" in refused
    assert "pods/proxy" in fairway_command("proxies", "--help")


def test_check_says_what_is_wrong(installed, fairway_command):
    refused = fairway_command("check", fails=True)
    assert "check failed" in refused or "checks failed" in refused
    pre = fairway_command("check", "--pre")
    assert "you may do all" in pre and "there is none yet" in pre
    findings = json.loads(fairway_command("check", "--pre", "-o", "json"))
    assert {one["level"] for one in findings} <= {"good", "doubtful", "unknown"}


def test_check_finds_ztunnel_as_istios_chart_labels_it(installed, cluster, fairway_command):
    """The pods have the label `app`, the DaemonSet has not."""
    pod = {"serviceAccountName": "ztunnel", "containers": [{"name": "istio-proxy", "image": "ztunnel"}]}
    daemon = {
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "ztunnel", "namespace": "default", "labels": {"app.kubernetes.io/name": "ztunnel"}},
        "spec": {
            "selector": {"matchLabels": {"app": "ztunnel"}},
            "template": {"metadata": {"labels": {"app": "ztunnel"}}, "spec": pod},
        },
    }
    assert "no DaemonSet" in fairway_command("check", "--pre")
    cluster.request("POST", "/apis/apps/v1/namespaces/default/daemonsets", daemon)
    try:
        said = fairway_command("check", "--pre")
    finally:
        cluster.request("DELETE", "/apis/apps/v1/namespaces/default/daemonsets/ztunnel")
    assert "no DaemonSet" not in said and "default/ztunnel: 0 of 0 are ready" in said


def test_who_may_not_is_not_told_of_other_peoples_rights(installed, cluster, fairway_command, tmp_path):
    kubeconfig = tmp_path / "nobody.kubeconfig"
    cluster.kubectl("create", "serviceaccount", "somebody")
    cluster.write_service_account_kubeconfig(kubeconfig, "default", "somebody")
    said = fairway_command("check", kubeconfig=kubeconfig)
    assert "forbidden" in said and "the control plane may" not in said
    assert "Status {" not in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(fairway_command, shell):
    assert "proxies" in fairway_command("completion", shell)


def test_bash_takes_the_completion(fairway_command, tmp_path):
    (tmp_path / "completion").write_text(fairway_command("completion", "bash"))
    script = f"source {tmp_path}/completion; COMP_WORDS=(fairway prox); COMP_CWORD=1; _fairway fairway prox fairway; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["proxies"], done.stderr
