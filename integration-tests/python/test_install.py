"""The chart on a real Kubernetes API: what Helm does with it, and whether the
control plane can live with the rights it gets."""

import cluster as kubernetes
import pytest
import yaml
from helm import CHART, NAMESPACE, VALUES, rendered, values
from installed import ISTIOD, VALIDATOR, ControlPlane, get, run, wait_for

NAMES = sorted(file.stem for file in VALUES.glob("*.yaml"))
#: Kinds that an operator brings.
FOREIGN = ["PrometheusRule"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Kubernetes API with the CRDs of Istio and of the Gateway API."""
    with kubernetes.Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.install_crds()
        running.kubectl("create", "namespace", NAMESPACE)
        yield running


def everything(cluster):
    """The names of all objects that last."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()
    passing = ("events", "leases", "endpoints", "endpointslices", "componentstatuses", "bindings")
    lasting = [kind for kind in kinds if kind.split(".")[0] not in passing]
    listed = cluster.kubectl(
        "get", ",".join(lasting), "--all-namespaces", "--ignore-not-found",
        "--output=jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}",
    )
    return set(listed.splitlines())


@pytest.mark.timeout(300)
def test_the_api_server_accepts_every_object(cluster):
    """Strictly: a field that does not exist is refused, where a real API server
    would only warn."""
    wanted = []
    for name in NAMES:
        for (kind, _), made in rendered(name).items():
            # This API server has one address family.
            if kind in FOREIGN or (name, kind) == ("dual-stack", "Service") or made in wanted:
                continue
            wanted.append(made)
    assert len(wanted) > 100
    wanted = [
        dict(made, metadata=dict(made["metadata"], name=f"{made['metadata']['name']}-{number}"))
        for number, made in enumerate(wanted)
    ]
    cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(wanted))


@pytest.mark.timeout(300)
def test_installed_upgraded_rolled_back_and_gone(cluster):
    before = everything(cluster)
    said = run(cluster, "install", "istiod", CHART, f"--values={values('nested')}")
    assert "rollout status deployment/istiod" in said
    deployment = get(cluster, "deployment", "istiod")
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "mesh"}
    wait_for("its pods", lambda: get(cluster, "pods", "--selector=app=istiod,istio=pilot")["items"])

    run(cluster, "upgrade", "istiod", CHART, f"--values={values('high-availability')}")
    assert get(cluster, "hpa", "istiod")["spec"]["maxReplicas"] == 9
    assert get(cluster, "pdb", "istiod")["spec"]["minAvailable"] == 2
    assert "nodeSelector" not in get(cluster, "deployment", "istiod")["spec"]["template"]["spec"]

    # Beside it, another revision: nothing of the two is the same object.
    run(cluster, "install", "istiod-1-30-4", CHART, f"--values={values('revision')}")
    assert get(cluster, "service", "istiod-revision-tag-prod")["spec"]["selector"]["istio.io/rev"] == "1-30-4"
    run(cluster, "uninstall", "istiod-1-30-4")

    run(cluster, "rollback", "istiod", "1")
    assert get(cluster, "deployment", "istiod")["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "mesh"}
    assert get(cluster, "hpa", "istiod")["spec"]["maxReplicas"] == 4

    run(cluster, "uninstall", "istiod")
    wait_for("nothing is left", lambda: not everything(cluster) - before)


@pytest.mark.timeout(300)
def test_a_release_of_istiod_becomes_ours_and_goes_back(cluster):
    run(cluster, "install", "istiod", ISTIOD)
    cluster.kubectl("apply", "-f", str(VALIDATOR))

    def image():
        [container] = get(cluster, "deployment", "istiod")["spec"]["template"]["spec"]["containers"]
        return container["image"]

    def hooks():
        return cluster.kubectl("get", "validatingwebhookconfigurations", "--output=name").split()

    said = run(cluster, "upgrade", "istiod", CHART, "--reset-values", f"--values={values('nested')}")
    assert image() == "fairway:0.1.0"
    # Its own validator goes with it; that of the other chart is somebody's to
    # take away, and blocks every policy until then.
    assert "* ValidatingWebhookConfiguration istiod-default-validator" in said
    assert "istio-validator-istio-system" not in said
    assert [name.partition("/")[2] for name in hooks()] == ["istiod-default-validator"]
    cluster.kubectl("delete", "validatingwebhookconfiguration", "istiod-default-validator")
    said = run(cluster, "upgrade", "istiod", CHART, f"--values={values('nested')}")
    assert "WARNING" not in said

    run(cluster, "rollback", "istiod", "1")
    assert image() == "docker.io/istio/pilot:1.30.4"
    assert [name.partition("/")[2] for name in hooks()] == ["istio-validator-istio-system"]
    run(cluster, "uninstall", "istiod")


@pytest.mark.timeout(300)
def test_what_is_of_no_release_is_taken_over(cluster):
    cluster.kubectl("apply", f"--namespace={NAMESPACE}", "-f", str(ISTIOD / "templates/istiod.yaml"))
    uid = get(cluster, "deployment", "istiod")["metadata"]["uid"]
    said = run(cluster, "upgrade", "--install", "istiod", CHART, "--take-ownership", "--force-conflicts")
    deployment = get(cluster, "deployment", "istiod")
    assert deployment["metadata"]["uid"] == uid, "changed, not made anew"
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "fairway:0.1.0"
    assert "* ValidatingWebhookConfiguration istio-validator-istio-system" in said
    cluster.kubectl("delete", "validatingwebhookconfiguration", "istio-validator-istio-system")
    run(cluster, "uninstall", "istiod")


WAYPOINT = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: refused, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, action: ALLOW, rules: [{from: [{source: {ipBlocks: [nowhere]}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, externalIPs: [192.0.2.1], ports: [{name: http, port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: reviews, namespace: shop, annotations: {kubernetes.io/ingress.class: istio}}
spec: {defaultBackend: {service: {name: reviews, port: {number: 80}}}}
"""


#: Who the control plane's writers say they are.
OURS = {"fairway-status", "istio.io/gateway-controller"}


def denied(cluster):
    """How many requests the API server has refused, by what they were."""
    counted = {}
    for line in cluster.request("GET", "/metrics", raw=True).decode().splitlines():
        if line.startswith("apiserver_request_total") and 'code="403"' in line:
            labels, _, value = line.rpartition(" ")
            counted[labels] = float(value)
    return counted


@pytest.mark.timeout(300)
def test_the_control_plane_can_live_with_its_rights(cluster, binary, tmp_path):
    """It runs with the token of its ServiceAccount, and with the arguments and
    variables of its Deployment. Nothing it asks the API server for is refused."""
    run(cluster, "install", "istiod", CHART, f"--values={values('fixed-replicas')}")
    before = denied(cluster)
    with ControlPlane(cluster, binary, tmp_path) as running:
        wait_for("the root in every namespace", lambda: cluster.kubectl(
            "get", "configmap", "istio-ca-root-cert", "--namespace=default", "--ignore-not-found"))
        cluster.kubectl("apply", "-f", "-", stdin=WAYPOINT)
        # Every writer has something to do: what Gateways are deployed as, their
        # status and that of their class, and those of policies and services.
        wait_for("a waypoint", lambda: cluster.kubectl(
            "get", "deployment", "waypoint", "--namespace=shop", "--ignore-not-found"))
        for kind, name in [
            ("gatewayclass", "istio-waypoint"), ("gateway", "waypoint"), ("authorizationpolicy", "refused"),
            ("virtualservice", "reviews"), ("service", "reviews"), ("ingress", "reviews"),
        ]:
            writers = '--output=jsonpath={.metadata.managedFields[?(@.subresource=="status")].manager}'
            get_writers = ["get", kind, name, "--namespace=shop", "--show-managed-fields", writers]
            wait_for(f"a status of {kind} {name}", lambda: OURS & set(cluster.kubectl(*get_writers).split()))
        locks = cluster.kubectl("get", "leases,configmaps", f"--namespace={NAMESPACE}", "--output=name").split()
        assert {"configmap/istio-namespace-controller-election",
                "configmap/istio-ip-autoallocate",
                "lease.coordination.k8s.io/istio-gateway-deployment-default",
                "lease.coordination.k8s.io/istio-status-leader"} <= set(locks)
    assert running.process.returncode == 0
    assert denied(cluster) == before
    said = [line for line in running.log().splitlines() if "forbidden" in line.lower()]
    assert said == []
    run(cluster, "uninstall", "istiod")
