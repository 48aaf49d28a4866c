"""The pages about installing, migrating and operating: their commands work, and
what they speak of exists."""

import json
import os
import re
import shlex
import subprocess

import cluster as kubernetes
import pytest
import yaml
from fairway import ROOT
from helm import CHART, NAMESPACE
from installed import ISTIOD, VALIDATOR, Node, run, wait_for

DOCS = ROOT / "docs"
PAGES = ["install", "migrate", "operate", "troubleshoot"]
#: Pages without commands.
OTHERS = ["security", "metrics", "debug"]
#: What begins a command that is for a person with a registry, a network or a
#: node, so in a block of another language.
BY_HAND = ("docker", "helm repo", "istio/", "port-forward", "curl")


def blocks(page, language):
    """The fenced blocks of a language, wherever they are indented."""
    text = (DOCS / f"{page}.md").read_text()
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.M | re.S)
    return ["".join(line.removeprefix(indent) for line in block.splitlines(True)) for indent, block in found]


def commands(page):
    """The commands of the console blocks, in order."""
    for block in blocks(page, "console"):
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.M):
            yield command


#: A route with several conditions that are false.
NOWHERE = {
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
    "metadata": {"name": "nowhere", "namespace": "default"},
    "spec": {
        "parentRefs": [{"group": "", "kind": "Service", "name": "nowhere"}],
        "rules": [{"backendRefs": [{"name": "nowhere", "port": 80}]}],
    },
}


def shell(command, cluster, work, binary, node):
    """Runs a command as somebody would who has the repository, the program and
    the end of a forwarded port."""
    path = f"{ROOT / '.cache/bin'}:{binary.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": path, "HOME": str(work)}
    if node.control_plane:
        environment["FAIRWAY_ADDRESS"] = node.control_plane.monitoring
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=work, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=330,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with kubernetes.Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.install_crds()
        running.kubectl("create", "namespace", NAMESPACE)
        yield running


@pytest.fixture
def work(tmp_path):
    """A folder with the repository's charts, and the values of install.md."""
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    [values] = [block for block in blocks("install", "yaml") if block.startswith("# my-values.yaml")]
    (tmp_path / "my-values.yaml").write_text(values)
    return tmp_path


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_work(page, cluster, binary, work):
    if page == "migrate":
        run(cluster, "install", "istiod", ISTIOD)
        cluster.kubectl("apply", "-f", str(VALIDATOR))
    if page == "troubleshoot":
        # The waypoint that is looked at, which somebody else deploys.
        gateway = {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "waypoint", "namespace": "shop"},
            "spec": {
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
                "addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}],
            },
        }
        if "namespace/shop" not in cluster.kubectl("get", "namespaces", "--output=name").split():
            cluster.kubectl("create", "namespace", "shop")
        cluster.kubectl("apply", "--filename=-", stdin=json.dumps(gateway))
    said = {}
    try:
        with Node(cluster, binary, work) as node:
            if page in ("operate", "troubleshoot"):
                run(cluster, "install", "istiod", CHART, f"--values={work / 'my-values.yaml'}", "--wait")
                wait_for("a leader", lambda: "istio-status-leader" in cluster.kubectl(
                    "get", "leases", f"--namespace={NAMESPACE}"))
                wait_for("roots", lambda: "istio-ca-root-cert" in cluster.kubectl("get", "configmaps"))
            if page == "troubleshoot":
                (work / "route.yaml").write_text(json.dumps(NOWHERE))
                cluster.kubectl("apply", "-f", str(work / "route.yaml"))
                wait_for("a status", lambda: "BackendNotFound" in cluster.kubectl(
                    "get", "httproute", "nowhere", "--output=jsonpath={.status}"))
            for command in commands(page):
                said[command] = shell(command, cluster, work, binary, node)
    finally:
        cluster.kubectl("delete", "httproute", "nowhere", "--ignore-not-found")
        run(cluster, "uninstall", "istiod", "--ignore-not-found")
        cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=60s")
    assert len(said) >= 7
    check = {"install": installed, "migrate": migrated, "operate": operated, "troubleshoot": found}[page]
    check(said, cluster, work)


def saying(said, part):
    [output] = [output for command, output in said.items() if part in command]
    return output


def installed(said, cluster, _):
    assert "has no effect" not in saying(said, "helm install"), "every value of the page is read"
    assert saying(said, "values-without-effect").strip() == ""
    assert "istio-ca-secret" in saying(said, "get secret istio-ca-secret")
    left = cluster.kubectl("get", "configmaps,secrets", f"--namespace={NAMESPACE}", "--output=name").split()
    assert left == ["configmap/kube-root-ca.crt"], "the page says how to remove everything"


def migrated(said, *_):
    assert saying(said, "istio-injection=enabled") == saying(said, "tlsMode=istio") == ""
    assert "It writes nothing" in saying(said, "helm install fairway-trial")
    assert "WARNING" not in saying(said, "helm upgrade istiod")
    assert "Rollback was a success" in saying(said, "helm rollback istiod 1")


def operated(said, _, work):
    leases = saying(said, "get leases")
    assert "istio-status-leader" in leases
    maps = saying(said, "get configmaps")
    assert re.search(r"^istio-namespace-controller-election +\{.*istiod-0", maps, re.M)
    assert re.search(r"^istio-leader +\{.*istiod-0", maps, re.M)
    assert "BEGIN CERTIFICATE" in saying(said, "root-cert\\.pem")
    made = [one["kind"] for one in yaml.safe_load_all((work / "observability.yaml").read_text()) if one]
    assert sorted(made) == ["ConfigMap", "PrometheusRule"]
    assert "tokenreviews" in saying(said, "auth can-i")


def found(said, _, work):
    assert re.search(r"^  ok  the API server answers", said["fairway check"], re.M)
    assert "the control plane may do all" in said["fairway check"]
    assert "no proxy is connected" in said["fairway proxies"]
    assert re.search(r"^HTTPRoute +default +nowhere +False,False", saying(said, "grep -w False"), re.M)
    assert "Service default/kubernetes is in force at 0 proxies of 1 replica" in saying(said, "fairway wait")
    assert "istiod-0" in saying(said, "istio-namespace-controller-election")
    assert {one["level"] for one in json.loads((work / "check.json").read_text())} >= {"good"}
    assert json.loads((work / "proxies.json").read_text()) == []


@pytest.mark.parametrize("page", PAGES)
def test_only_what_must_is_left_to_a_person(page):
    """Every command is in a block that is run, or says why it cannot be."""
    for block in blocks(page, "sh"):
        assert any(word in block for word in [*BY_HAND, "--take-ownership"]), block
    for command in commands(page):
        assert not any(word in command for word in BY_HAND), command
        shlex.split(command)


def test_the_pages_that_are_spoken_of_are_there(fairway):
    """Debug pages, on a running control plane."""
    text = "".join((DOCS / f"{page}.md").read_text() for page in PAGES)
    found = set(re.findall(r"`(/(?:debug|version|metrics)[a-z_/]*)", text)) | set(re.findall(r":15014(/[a-z_/]+)", text))
    assert len(found) >= 6
    for path in sorted(found):
        wanting = {"/debug/provenancez": "?type=Address&name=none", "/debug/config_dump": "?proxyID=none",
                   "/debug/pprof/profile": "?seconds=1"}
        query = wanting.get(path, "")
        status, _, body = fairway.get(fairway.monitoring, path + query)
        assert status == 200 or (query and status == 404 and body), path


def test_every_alert_has_a_first_thing_to_do():
    alerts = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    names = [rule["alert"] for group in alerts for rule in group["rules"]]
    rows = re.findall(r"^\| (Fairway[A-Za-z, ]*?) \|", (DOCS / "operate.md").read_text(), re.M)
    assert [name for row in rows for name in row.split(", ")] == names


@pytest.mark.parametrize("page", PAGES + OTHERS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", (DOCS / f"{page}.md").read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = DOCS / (file or f"{page}.md")
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target
