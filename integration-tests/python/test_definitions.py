"""The definitions of Istio's kinds that `fairway crds` prints, beside those that
Istio publishes, on a real Kubernetes API; and what the chart does with them."""

import json
import os
import subprocess

import cluster as kubernetes
import pytest
import yaml
from fairway import ROOT
from helm import CHART, NAMESPACE
from installed import run

#: What Fairway reads before Istio publishes a definition with it, or, of the
#: status, what Istio's definition only lets pass.
AHEAD = {"ecdhCurves", "presence", "addresses"}

ISTIO = {"networking.istio.io", "security.istio.io", "telemetry.istio.io"}


def printed(binary):
    done = subprocess.run([binary, "crds"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def by_name(text):
    return {one["metadata"]["name"]: one for one in yaml.load_all(text, yaml.CSafeLoader) if one}


@pytest.fixture(scope="module")
def published():
    [file] = (kubernetes.CRDS / "istio").glob("*.yaml")
    return by_name(file.read_text())


def empty(work):
    return kubernetes.Cluster(work)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, binary):
    """A Kubernetes API with what `fairway crds` prints, and nothing else."""
    with empty(tmp_path_factory.mktemp("ours")) as cluster:
        cluster.kubectl("apply", "-f", "-", stdin=printed(binary))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield cluster


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A Kubernetes API with the definitions that Istio publishes."""
    with empty(tmp_path_factory.mktemp("theirs")) as cluster:
        cluster.install_crds()
        yield cluster


# What is printed, beside what Istio publishes.


def test_the_chart_has_what_is_printed(binary):
    assert printed(binary) == (CHART / "files/crds.yaml").read_text()


def test_names_versions_and_columns_are_those_of_istio(binary, published):
    for name, one in by_name(printed(binary)).items():
        spec, other = one["spec"], published[name]["spec"]
        assert (spec["group"], spec["scope"], spec["names"]) == (other["group"], other["scope"], other["names"])
        assert one["metadata"]["annotations"] == published[name]["metadata"]["annotations"]

        def versions(spec):
            return {
                version["name"]: (version["served"], version["storage"], version["subresources"], [
                    (column["name"], column["jsonPath"], column["type"])
                    for column in version.get("additionalPrinterColumns", [])
                ])
                for version in spec["versions"]
            }

        assert versions(spec) == versions(other), name


def test_every_kind_of_istio_is_defined_or_said_not_to_be_read(binary, published):
    text = printed(binary)
    left_out = {one["spec"]["names"]["kind"] for name, one in published.items() if name not in by_name(text)}
    comment = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert {kind for kind in left_out if kind not in comment} == set()


def test_nothing_is_refused_that_istio_accepts(binary, published):
    """Ours say of values only which type they have, and it is the same one."""
    def compare(at, schema, other):
        allowed = {"type", "properties", "items", "additionalProperties", "x-kubernetes-preserve-unknown-fields",
                   "description"}
        assert set(schema) <= allowed, f"{at}: {set(schema) - allowed}"
        assert schema.get("type") == other.get("type"), at
        for name, below in schema.get("properties", {}).items():
            if name in other.get("properties", {}):
                compare(f"{at}.{name}", below, other["properties"][name])
            else:
                assert name in AHEAD, f"{at}: {name} is not a field of Istio's"
        for part in ["items", "additionalProperties"]:
            if part in schema:
                compare(f"{at}[]", schema[part], other[part])

    for name, one in by_name(printed(binary)).items():
        others = {version["name"]: version for version in published[name]["spec"]["versions"]}
        for version in one["spec"]["versions"]:
            schemas = [one["schema"]["openAPIV3Schema"] for one in (version, others[version["name"]])]
            compare(f"{name} {version['name']}", *schemas)


# On a Kubernetes API.


def test_definitions_are_established_and_structural(ours, binary):
    found = json.loads(ours.kubectl("get", "crd", "--output=json"))["items"]
    assert {one["metadata"]["name"] for one in found} == set(by_name(printed(binary)))
    for one in found:
        conditions = {condition["type"]: condition["status"] for condition in one["status"]["conditions"]}
        assert conditions["Established"] == conditions["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in conditions


def samples():
    """Every object of Istio's kinds in examples and tests, each with where it is."""
    for folder in ["examples", "integration-tests/stage", "src/workload/golden", "src/envoy/golden"]:
        for file in sorted((ROOT / folder).rglob("*.yaml")):
            text = file.read_text().split("\n# Output\n")[0]
            for number, one in enumerate(yaml.load_all(text, yaml.CSafeLoader)):
                if isinstance(one, dict) and one.get("apiVersion", "").split("/")[0] in ISTIO:
                    yield f"{file.relative_to(ROOT)}, {number}", one


def resource(cluster, one):
    """The path of the objects of a kind."""
    group, version = one["apiVersion"].split("/")
    known = cluster.request("GET", f"/apis/{group}/{version}")["resources"]
    [plural] = [row["name"] for row in known if row["kind"] == one["kind"] and "/" not in row["name"]]
    return f"/apis/{group}/{version}/namespaces/default/{plural}"


def stored(cluster, paths, one):
    """What would be stored of an object, or why it is refused."""
    kind = one["apiVersion"], one["kind"]
    if kind not in paths:
        paths[kind] = resource(cluster, one)
    try:
        return cluster.request("POST", f"{paths[kind]}?dryRun=All&fieldValidation=Ignore", one), None
    except kubernetes.ClusterError as error:
        return None, str(error)


@pytest.mark.timeout(300)
def test_objects_are_accepted_and_kept_whole(ours, theirs):
    """Whatever Istio's definitions accept, and nothing of it is lost."""
    kinds, refused, paths = set(), {}, ({}, {})
    for number, (where, one) in enumerate(samples()):
        one = json.loads(json.dumps(one, default=str))
        one["metadata"] = {"name": f"sample-{number}", "namespace": "default"}
        here, reason = stored(ours, paths[0], one)
        if reason:
            refused[where] = reason
            assert stored(theirs, paths[1], one)[1], f"{where} is refused here only: {reason}"
            continue
        assert here.get("spec") == one.get("spec"), where
        kinds.add(one["kind"])
    assert number > 200
    assert len(kinds) == 9, "of every kind there is one"
    # Numbers that are texts and the like, which tests have on purpose.
    assert len(refused) < 0.05 * number, refused


def test_types_are_judged_and_values_are_not(ours, theirs):
    """A word that Istio's definitions do not know is kept, and a condition says
    that it means nothing; what is of another type could not be read at all."""
    def of(spec, kind="PeerAuthentication", group="security.istio.io/v1"):
        return {"apiVersion": group, "kind": kind, "metadata": {"name": "one", "namespace": "default"}, "spec": spec}

    for spec, here, there in [
        ({"mtls": {"mode": "STRICT"}}, True, True),
        ({"mtls": {"mode": "STRIKT"}}, True, False),
        ({"mtls": {"mode": ["STRICT"]}}, False, False),
        ({"mtls": "STRICT"}, False, False),
        ({"mtls": {"mode": "STRICT"}, "novel": {"deep": [1]}}, True, True),
    ]:
        assert (stored(ours, {}, of(spec))[1] is None, stored(theirs, {}, of(spec))[1] is None) == (here, there), spec
    kept, _ = stored(ours, {}, of({"mtls": {"mode": "STRICT", "more": 1}, "novel": {"deep": [1]}}))
    assert kept["spec"]["novel"] == {"deep": [1]} and kept["spec"]["mtls"]["more"] == 1
    gone, _ = stored(theirs, {}, of({"novel": {"deep": [1]}}))
    assert "novel" not in gone["spec"], "which is why there is no such thing in Istio"


OBJECTS = """
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: web, namespace: default}
spec: {hosts: [web.example.com], gateways: [edge], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec: {host: web.default.svc.cluster.local}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: default}
spec: {action: DENY}
---
apiVersion: telemetry.istio.io/v1alpha1
kind: Telemetry
metadata: {name: web, namespace: default}
spec: {accessLogging: [{disabled: true}]}
"""


def test_kubectl_shows_what_users_know(ours):
    ours.kubectl("apply", "--validate=strict", "-f", "-", stdin=OBJECTS)

    def shown(what):
        heading, *rows = ours.kubectl("get", what).splitlines()
        return heading.split(), [row.split()[:-1] for row in rows]

    assert shown("vs") == (["NAME", "GATEWAYS", "HOSTS", "AGE"], [["web", '["edge"]', '["web.example.com"]']])
    assert shown("dr") == (["NAME", "HOST", "AGE"], [["web", "web.default.svc.cluster.local"]])
    assert shown("ap") == (["NAME", "ACTION", "AGE"], [["web", "DENY"]])
    listed = ours.kubectl("get", "istio-io", "--output=name").split()
    assert len(listed) == 4, listed
    assert ours.kubectl("get", "networking-istio-io", "--output=name").split() == [
        "destinationrule.networking.istio.io/web", "virtualservice.networking.istio.io/web"]
    assert ours.kubectl("get", "virtualservices.v1beta1.networking.istio.io", "web", "--output=jsonpath={.apiVersion}") \
        == "networking.istio.io/v1beta1"
    assert "timeout" in ours.kubectl("explain", "vs.spec.http")
    ours.kubectl("delete", "-f", "-", stdin=OBJECTS)


def test_what_is_missing_is_said_with_the_remedy(ours, binary, tmp_path):
    def check(cluster):
        command = [binary, "check", "--pre", "--output=json", f"--kubeconfig={cluster.kubeconfig}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)})
        return {one["what"]: one.get("fix") for one in json.loads(done.stdout) if one["group"] == "Definitions"}

    assert "networking.istio.io: all 5 kinds are defined" in check(ours)
    ours.kubectl("delete", "crd", "virtualservices.networking.istio.io")
    fix = check(ours)["networking.istio.io: not defined: VirtualService"]
    assert fix == "if you need them: fairway crds | kubectl apply -f -"
    command = fix.partition(": ")[2].replace("fairway", str(binary)).replace("kubectl", str(kubernetes.KUBECTL))
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], check=True, capture_output=True, timeout=60,
        env={**os.environ, "KUBECONFIG": str(ours.kubeconfig)},
    )
    assert "networking.istio.io: all 5 kinds are defined" in check(ours)


# The chart.


def definitions(cluster):
    """What of each definition changes when somebody changes it."""
    found = json.loads(cluster.kubectl("get", "crd", "--output=json"))["items"]
    return {one["metadata"]["name"]: (one["metadata"]["uid"], one["metadata"]["resourceVersion"]) for one in found}


@pytest.mark.timeout(300)
def test_the_chart_makes_definitions_and_never_takes_them_away(tmp_path, binary):
    with empty(tmp_path) as cluster:
        install = ("upgrade", "--install", "istiod", CHART, "--create-namespace")
        run(cluster, *install, "--set=base.enableCRDTemplates=false")
        assert definitions(cluster) == {}
        run(cluster, *install, "--set=base.excludedCRDs={telemetries.telemetry.istio.io}")
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        names = set(by_name(printed(binary)))
        assert set(definitions(cluster)) == names - {"telemetries.telemetry.istio.io"}
        run(cluster, *install, "--reset-values")
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        made = definitions(cluster)
        assert set(made) == names
        cluster.kubectl("apply", "-f", "-", stdin=OBJECTS)
        # A definition of an older Fairway is brought up to date.
        column = '[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}]'
        cluster.kubectl("patch", "crd", "virtualservices.networking.istio.io", "--type=json", f"--patch={column}")
        run(cluster, *install, "--set=traceSampling=2", "--force-conflicts")
        assert "HOSTS" in cluster.kubectl("get", "vs")
        made = definitions(cluster)
        for change in ["--set=base.enableCRDTemplates=false", "--reset-values"]:
            run(cluster, *install, change)
            assert definitions(cluster) == made, change
        # Another control plane of the same chart leaves them to the first.
        run(cluster, "install", "istiod-next", CHART, "--set=revision=next")
        run(cluster, "uninstall", "istiod")
        run(cluster, "uninstall", "istiod-next")
        assert {name: uid for name, (uid, _) in definitions(cluster).items()} == {
            name: uid for name, (uid, _) in made.items()}
        assert len(cluster.kubectl("get", "istio-io", "--output=name").split()) == 4
        run(cluster, *install)
        assert {name: uid for name, (uid, _) in definitions(cluster).items()} == {
            name: uid for name, (uid, _) in made.items()}


@pytest.mark.timeout(300)
def test_the_chart_leaves_those_of_istio_alone(theirs):
    theirs.kubectl("create", "namespace", NAMESPACE)
    before = definitions(theirs)
    assert "sidecars.networking.istio.io" in before
    run(theirs, "install", "istiod", CHART, "--set=base.enableCRDTemplates=true")
    run(theirs, "upgrade", "istiod", CHART, "--reset-values")
    run(theirs, "rollback", "istiod", "1")
    run(theirs, "uninstall", "istiod")
    assert definitions(theirs) == before
