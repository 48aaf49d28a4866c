"""examples/bookinfo is what a real API server, with Istio's CRDs, accepts."""

import cluster as kubernetes
import pytest
from fairway import ROOT, objects


@pytest.mark.timeout(180)
def test_a_real_api_server_accepts_every_object(tmp_path):
    example = ROOT / "examples/bookinfo"
    with kubernetes.Cluster(tmp_path) as cluster:
        cluster.install_crds()
        cluster.kubectl("apply", "-f", str(example / "mesh.yaml"))
        for pod in objects(example, "Pod"):
            account = pod["spec"]["serviceAccountName"]
            namespace = f"--namespace={pod['metadata']['namespace']}"
            manifest = cluster.kubectl("create", "serviceaccount", account, namespace, "--dry-run=client", "-o=yaml")
            cluster.kubectl("apply", "-f", "-", stdin=manifest)
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", *[
            f"--filename={file}" for file in sorted(example.glob("*.yaml")) if file.name != "mesh.yaml"
        ])
