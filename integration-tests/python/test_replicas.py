"""Several replicas of one revision on a Kubernetes API: what happens when the
leader ends."""

import re

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


def applied(replica, name):
    """What a replica has applied of what a Gateway is deployed as."""
    return re.findall(rf"written object=(\w+) shop/{name} manner=Apply$", replica.log(), re.M)


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
            accepted = '--output=jsonpath={.status.conditions[?(@.type=="Accepted")].status}'
            # What the definition says of a new one is Unknown.
            get_accepted = ["get", "gateways.gateway.networking.k8s.io", name, "--namespace=shop", accepted]
            wait_for(f"a status of {name}", lambda: cluster.kubectl(*get_accepted) == "True")

        with replica("istiod-1") as after:
            with replica("istiod-0") as before:
                wait_for("both", lambda: before.ready() and after.ready())
                waypoint("waypoint")
                ends, stays, name = (before, after, "istiod-1") if leader() == "istiod-0" else (after, before, "istiod-0")
                everything = ["ServiceAccount", "Deployment", "Service", "Gateway"]
                assert applied(ends, "waypoint") == everything
                ends.process.terminate()
                wait_for("another leader", lambda: leader() == name)
                # When this one has a status, the other one has been looked at, too:
                # they are, in the order of their names.
                waypoint("younger")
                assert applied(stays, "younger") == everything
                assert applied(stays, "waypoint") == []
