"""Two revisions of the chart on one Kubernetes API, and a tag that moves from one
to the other."""

import json
import subprocess

import cluster as kubernetes
import pytest
from helm import CHART
from installed import ControlPlane, get, run, wait_for

OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/rev: prod}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: plain}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: refused, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, rules: [{from: [{source: {ipBlocks: [nowhere]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: refused, namespace: plain}
spec: {selector: {matchLabels: {app: reviews}}, rules: [{from: [{source: {ipBlocks: [nowhere]}}]}]}
"""

ANOTHER = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: another, namespace: shop, labels: {istio.io/rev: prod}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""


class Watched:
    """The states that a Deployment goes through: generation and revision."""

    def __init__(self, cluster, work):
        self.path = work / "watched"
        command = [
            kubernetes.KUBECTL, f"--kubeconfig={cluster.kubeconfig}", "get", "deployments", "--namespace=shop", "--watch",
            "--field-selector=metadata.name=waypoint",
            "--output=jsonpath={.metadata.generation} {.spec.template.metadata.annotations.istio\\.io/rev}{\"\\n\"}",
        ]
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(15)

    def seen(self):
        """Each state once, in order."""
        lines = [tuple(line.split()) for line in self.path.read_text().splitlines() if len(line.split()) == 2]
        return [line for number, line in enumerate(lines) if number == 0 or lines[number - 1] != line]


def conditions(cluster, kind, name, namespace):
    found = cluster.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json")
    return {one["type"]: one for one in json.loads(found).get("status", {}).get("conditions", [])}


@pytest.mark.timeout(300)
def test_a_tag_moves_and_the_writer_changes(tmp_path, binary):
    with kubernetes.Cluster(tmp_path / "cluster") as cluster:
        cluster.install_crds()
        run(cluster, "install", "old", CHART, "--create-namespace", "--set=revision=old,revisionTags={prod}")
        run(cluster, "install", "new", CHART, "--set=revision=new")

        def pod(name):
            return get(cluster, "deployment", f"istiod-{name}")["spec"]["template"]["spec"]

        def replica(name):
            (tmp_path / name).mkdir()
            return ControlPlane(cluster, binary, tmp_path / name, pod(name), f"istiod-{name}-0")

        def waypoints():
            listed = cluster.kubectl("get", "deployments", "--all-namespaces", "--output=json",
                                     "--selector=gateway.networking.k8s.io/gateway-name")
            return {
                f"{one['metadata']['namespace']}/{one['metadata']['name']}":
                    one["spec"]["template"]["metadata"]["annotations"]["istio.io/rev"]
                for one in json.loads(listed)["items"]
            }

        with Watched(cluster, tmp_path) as watched, replica("new") as new:
            with replica("old") as old:
                wait_for("both", lambda: old.ready() and new.ready())
                cluster.kubectl("apply", "-f", "-", stdin=OBJECTS)
                wait_for("a waypoint", lambda: waypoints() == {"shop/waypoint": "old"})
                wait_for("a status", lambda: conditions(cluster, "authorizationpolicy", "refused", "shop"))
                leases = {one["metadata"]["name"]: one["spec"]["holderIdentity"] for one in get(cluster, "leases")["items"]}
                assert leases["istio-status-leader-old"] == "istiod-old-0"
                assert leases["istio-status-leader-new"] == "istiod-new-0"

                # As an upgrade does it.
                run(cluster, "upgrade", "old", CHART, "--set=revision=old")
                run(cluster, "upgrade", "new", CHART, "--set=revision=new,revisionTags={prod}")
                service = get(cluster, "service", "istiod-revision-tag-prod")
                assert service["spec"]["selector"]["istio.io/rev"] == "new"
                wait_for("the other writer", lambda: waypoints() == {"shop/waypoint": "new"})
                # When this is made, both have had time to quarrel.
                cluster.kubectl("apply", "-f", "-", stdin=ANOTHER)
                wait_for("another waypoint", lambda: waypoints().get("shop/another") == "new")
                wait_for("its status", lambda: conditions(cluster, "gateway.gateway.networking.k8s.io", "another", "shop")
                         .get("Accepted", {}).get("status") == "True")
                assert watched.seen() == [("1", "old"), ("2", "new")]
            # What only the new one can write.
            before = conditions(cluster, "authorizationpolicy", "refused", "shop")
            mended = '{"spec": {"rules": [{"from": [{"source": {"ipBlocks": ["192.0.2.1"]}}]}]}}'
            cluster.kubectl("patch", "authorizationpolicy", "refused", "--namespace=shop", "--type=merge", f"--patch={mended}")
            wait_for("a new status", lambda: conditions(cluster, "authorizationpolicy", "refused", "shop") != before)
            # There is no default revision to take care of the rest.
            assert not conditions(cluster, "authorizationpolicy", "refused", "plain")
            run(cluster, "upgrade", "new", CHART, "--set=revision=new,revisionTags={prod,default}")
            wait_for("a status", lambda: conditions(cluster, "authorizationpolicy", "refused", "plain"))
            wait_for("a waypoint", lambda: waypoints().get("plain/waypoint") == "new")
            assert watched.seen() == [("1", "old"), ("2", "new")]
