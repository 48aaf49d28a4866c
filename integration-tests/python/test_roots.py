"""Which root signs when a control plane starts, by what the mesh was told before."""

import concurrent.futures
import contextlib
import json
import shutil
import subprocess
import time

import cluster as kubernetes
import grpc
import pytest
from cryptography import x509
from fairway import ROOT, Fairway
from helm import NAMESPACE
from test_certificates import request

WAIT_SECONDS = 30
CONFIG_MAP = "istio-ca-root-cert"
MADE = "istio-ca-secret"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with kubernetes.Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.kubectl("create", "namespace", NAMESPACE)
        yield running


@pytest.fixture
def mesh(cluster, tmp_path, monkeypatch):
    """A mesh that nobody has signed for."""
    for kind, name in [("secret", MADE), ("secret", "cacerts"), ("secret", "fairway-ca-previous"), ("configmap", CONFIG_MAP)]:
        cluster.kubectl("delete", kind, name, f"--namespace={NAMESPACE}", "--ignore-not-found")
    monkeypatch.setenv("ROOT_CA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("POD_NAMESPACE", NAMESPACE)
    return cluster


@pytest.fixture
def start(binary, mesh, tmp_path, monkeypatch):
    """Starts a replica, on a folder of key material if one is given."""
    with contextlib.ExitStack() as replicas:
        def started(name, folder=None, **variables):
            with monkeypatch.context() as environment:
                for variable, value in {"POD_NAME": name, "ROOT_CA_DIR": folder, **variables}.items():
                    if value:
                        environment.setenv(variable, str(value))
                (tmp_path / name).mkdir()
                return replicas.enter_context(Fairway(binary, None, tmp_path / name, kubeconfig=mesh.kubeconfig))
        yield started


def material(folder, *others):
    """An intermediate that signs, and its root beside those of others."""
    subprocess.run([ROOT / "certs/make.sh", folder], check=True, capture_output=True, timeout=30)
    root = folder / "cacerts/root-cert.pem"
    root.write_text("".join([root.read_text(), *others]))
    return folder / "cacerts"


def told(mesh):
    """The roots that workloads are told of, as soon as somebody tells them."""
    mesh.kubectl("wait", "--for=create", f"configmap/{CONFIG_MAP}", f"--namespace={NAMESPACE}", f"--timeout={WAIT_SECONDS}s")
    found = mesh.kubectl("get", "configmap", CONFIG_MAP, f"--namespace={NAMESPACE}", "--output=json")
    return json.loads(found)["data"]["root-cert.pem"]


def issued(mesh, replica, roots, by):
    """Whether a replica gives certificates of an issuer to who believes these roots."""
    token = mesh.service_account_token("default", "default", ["istio-ca"])
    credentials = grpc.ssl_channel_credentials(roots.encode())
    options = [("grpc.ssl_target_name_override", f"istiod.{NAMESPACE}.svc")]
    with grpc.secure_channel(replica.secure_grpc, credentials, options) as channel:
        chain = request(channel, token)
    leaf, issuer = [x509.load_pem_x509_certificate(pem.encode()) for pem in [chain[0], by]]
    leaf.verify_directly_issued_by(issuer)
    return chain


def step(replica):
    return json.loads(replica.get(replica.monitoring, "/debug/ca")[2])["step"]


def test_a_replica_with_a_new_root_lets_the_old_one_sign(mesh, start, tmp_path):
    """`kubectl rollout restart` after a change: the new pod has it before the old one."""
    old = material(tmp_path / "old")
    first, old_root = start("first", old), told(mesh)
    # A replica says that it is there a few seconds after its start.
    mesh.kubectl("wait", "--for=create", "lease/fairway-replica-first", f"--namespace={NAMESPACE}", f"--timeout={WAIT_SECONDS}s")
    new = material(tmp_path / "new", old_root)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        second = threads.submit(start, "second", new)
        log, deadline = tmp_path / "second/fairway.log", time.monotonic() + WAIT_SECONDS
        while not (log.exists() and "waits for another replica to note what signs" in log.read_text()):
            assert not second.done() and time.monotonic() < deadline
            time.sleep(0.05)
        # Now the kubelet of the first one is there, too.
        old_signer = (old / "ca-cert.pem").read_text()
        for file in new.iterdir():
            shutil.copy(file, old / file.name)
        replica = second.result(WAIT_SECONDS)
    for one in [first, replica]:
        assert step(one) == "STAGE"
        chain = issued(mesh, one, old_root, by=old_signer)
        assert chain[-1].count("BEGIN CERTIFICATE") == 2


def test_what_shares_no_root_with_the_mesh_is_done_at_once(mesh, start, tmp_path):
    """As istiod does it: there is nothing that would make that safe."""
    first, new = start("first", material(tmp_path / "old")), material(tmp_path / "new")
    known = told(mesh)
    first.terminate()
    replica = start("second", new)
    root = (new / "root-cert.pem").read_text()
    assert root != known and step(replica) == "SETTLED"
    issued(mesh, replica, root, by=(new / "ca-cert.pem").read_text())


def test_the_first_cacerts_is_told_before_it_signs(mesh, start, tmp_path):
    first, made = start("first"), told(mesh)
    first.terminate()
    replica = start("second", material(tmp_path / "new", made))
    assert step(replica) == "STAGE"
    issued(mesh, replica, made, by=made)


def test_a_root_is_continued_whatever_its_secret_is_called(mesh, start):
    """USE_CACERTS_FOR_SELF_SIGNED_CA says where a new one goes."""
    first, made = start("first"), told(mesh)
    first.terminate()
    replica = start("second", USE_CACERTS_FOR_SELF_SIGNED_CA="true")
    issued(mesh, replica, made, by=made)
    assert "cacerts" not in mesh.kubectl("get", "secrets", f"--namespace={NAMESPACE}", "--output=name")
