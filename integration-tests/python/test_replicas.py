"""Several replicas of one revision on a Kubernetes API: what happens when the
leader ends."""

import cluster as kubernetes
import pytest
from helm import CHART
from installed import ControlPlane, get, run, wait_for

WAYPOINT = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""

LOCK = "istio-gateway-deployment-default"


def applied(cluster):
    """How many times the API server was told to apply what a Gateway is deployed
    as, by kind."""
    counted = {}
    for line in cluster.request("GET", "/metrics", raw=True).decode().splitlines():
        if line.startswith("apiserver_request_total") and 'verb="APPLY"' in line and 'subresource=""' in line:
            labels, _, value = line.rpartition(" ")
            for kind in ["deployments", "services", "serviceaccounts"]:
                if f'resource="{kind}"' in labels:
                    counted[kind] = counted.get(kind, 0) + float(value)
    return counted


@pytest.mark.timeout(300)
def test_who_takes_over_writes_nothing_that_is_there(tmp_path, binary):
    with kubernetes.Cluster(tmp_path / "cluster") as cluster:
        cluster.install_crds()
        run(cluster, "install", "istiod", CHART, "--create-namespace")

        def replica(name):
            (tmp_path / name).mkdir()
            return ControlPlane(cluster, binary, tmp_path / name, name=name)

        def leader():
            return get(cluster, "leases", LOCK, "--ignore-not-found")["spec"]["holderIdentity"]

        def waypoint(name):
            """A waypoint and its status, which is written when all else is as it should be."""
            cluster.kubectl("apply", "-f", "-", stdin=WAYPOINT.replace("name: waypoint", f"name: {name}"))
            wait_for(f"a status of {name}", lambda: "Accepted" in cluster.kubectl(
                "get", "gateways.gateway.networking.k8s.io", name, "--namespace=shop", "--output=jsonpath={.status.conditions[*].type}"))

        with replica("istiod-1") as after:
            with replica("istiod-0") as before:
                wait_for("both", lambda: before.ready() and after.ready())
                waypoint("waypoint")
                first = leader()
                counted = applied(cluster)
                assert set(counted) == {"deployments", "services", "serviceaccounts"}
                ends, stays = (before, "istiod-1") if first == "istiod-0" else (after, "istiod-0")
                ends.process.terminate()
                wait_for("another leader", lambda: leader() == stays)
                # When this one has a status, the other one has been looked at, too:
                # they are, in the order of their names.
                waypoint("younger")
                assert applied(cluster) == {kind: count + 1 for kind, count in counted.items()}
