"""Where calls go that arrive at a gateway, as it was checked on istiod: from a
folder, and from a real API server, where ages are what it says they are.

The cases and the client that follows the calls are beside the repository, if at
all; FAIRWAY_CASES names their folder.
"""

import contextlib
import importlib
import json
import os
import pathlib
import sys
import time

import cluster as kubernetes
import pytest
import yaml
from fairway import ROOT, Fairway

CASES = pathlib.Path(os.environ.get("FAIRWAY_CASES", ROOT.parent / "shared/cases"))
FILE = CASES / "route-simulation.jsonl"

# The suites that are about what is served; all of their checks must pass.
SUITES = {"TestDisablePortTranslation", "TestHTTPGateway", "TestGatewayConflicts", "TestGatewayServices", "TestIngress"}

# How long a change may take to be served.
SERVED_SECONDS = 20
# How often objects are made again that were not made within one second.
ATTEMPTS = 10


def cases():
    if not FILE.exists():
        skipped = pytest.mark.skip(reason=f"the cases of istiod are not at {FILE}")
        return [pytest.param(None, id="none", marks=skipped)]
    every = [json.loads(line) for line in FILE.read_text().splitlines() if line.strip()]
    return [pytest.param(case, id=case["test"]) for case in every if case["suite"] in SUITES]


def objects_of(case):
    """What is there in a case."""
    texts = [case.get("config") or "", case.get("kube_config") or ""]
    objects = [one for text in texts for one in yaml.safe_load_all(text) if one]
    for one in objects:
        one["metadata"].setdefault("namespace", "default")
    return objects


def wrong(case, fairway):
    """What does not become of the calls of a case what should."""
    sys.path.insert(0, str(CASES))
    try:
        simulation = importlib.import_module("xds_sim")
    finally:
        sys.path.pop(0)
    told = simulation.Xds.fetch(fairway.grpc, simulation.node_of(case["proxy"]))
    judged = simulation.judge(case, told)
    assert judged, "a case has checks"
    return [(what, mismatches) for what, mismatches in judged if mismatches]


@pytest.mark.parametrize("case", cases())
def test_calls_go_where_istiod_sends_them(binary, tmp_path, case):
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "case.yaml").write_text(yaml.safe_dump_all(objects_of(case)))
    with Fairway(binary, folder, tmp_path) as fairway:
        assert not wrong(case, fairway)


@pytest.fixture(scope="module")
def served(binary, tmp_path_factory):
    """A Kubernetes API, and one control plane for all cases."""
    with kubernetes.Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.install_crds()
        cluster.kubectl("create", "namespace", "istio-system")
        work = tmp_path_factory.mktemp("fairway")
        with Fairway(binary, None, work, kubeconfig=cluster.kubeconfig) as fairway:
            yield Served(cluster, fairway)


class Served:
    """Objects at the API server, which the control plane is to have seen."""

    def __init__(self, cluster, fairway):
        self.cluster, self.fairway = cluster, fairway
        self._plurals = {}

    @contextlib.contextmanager
    def these(self, objects):
        """Has these objects for a while, and no others of their kinds. Of two
        that have dates the one with the later date is younger; all others are
        younger still, and as old as each other."""
        for namespace in {one["metadata"]["namespace"] for one in objects}:
            if not self.cluster.kubectl("get", "namespace", namespace, "--ignore-not-found"):
                self.cluster.kubectl("create", "namespace", namespace)
        by_age = {}
        for one in objects:
            by_age.setdefault(one["metadata"].pop("creationTimestamp", "undated"), []).append(one)
        kinds = {self._path(one) for one in objects}
        made = []
        try:
            youngest = ""
            for _, alike in sorted(by_age.items()):
                youngest = self._make(alike, made, youngest)
            self._wait_until_seen(kinds)
            yield
        finally:
            for path in made:
                self.cluster.request("DELETE", path)
            self._wait_until_seen(kinds)

    def _make(self, objects, made, after):
        """Makes objects of one age, which is greater than another one."""
        for _ in range(ATTEMPTS):
            begin_of_second()
            answers = [(self._path(one), self.cluster.request("POST", self._path(one), one)) for one in objects]
            paths = [f"{path}/{answer['metadata']['name']}" for path, answer in answers]
            made.extend(paths)
            dates = {answer["metadata"]["creationTimestamp"] for _, answer in answers}
            if len(dates) == 1 and max(dates) > after:
                return max(dates)
            for path in paths:
                self.cluster.request("DELETE", path)
                made.remove(path)
        raise AssertionError("this machine is too slow to make objects of one age")

    def _path(self, one):
        """The path of objects of a kind in a namespace."""
        version, kind = one["apiVersion"], one["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if root not in self._plurals:
            resources = self.cluster.request("GET", root)["resources"]
            self._plurals[root] = {each["kind"]: each["name"] for each in resources if "/" not in each["name"]}
        return f"{root}/namespaces/{one['metadata']['namespace']}/{self._plurals[root][kind]}"

    def _wait_until_seen(self, kinds):
        """Waits until the control plane has as many objects as there are."""
        deadline = time.monotonic() + SERVED_SECONDS
        while missing := [table for table, count in self._counts(kinds) if self._rows(table) != count]:
            assert time.monotonic() < deadline, f"{missing} are not as they are at the API server"
            time.sleep(0.05)

    def _counts(self, kinds):
        """How many objects there are, by what the control plane calls their table."""
        for path in sorted(kinds):
            root, _, plural = path.split("/namespaces/")[0], *path.rpartition("/")[1:]
            listed = self.cluster.request("GET", f"{root}/{plural}")["items"]
            # Two kinds are gateways.
            table = "istio_gateways" if "istio.io" in root and plural == "gateways" else plural
            yield table, len(listed)

    def _rows(self, table):
        status, _, text = self.fairway.get(self.fairway.monitoring, "/debug/graphz")
        assert status == 200
        [row] = [row for row in json.loads(text) if row["collection"] == table]
        return row["rows"]


def begin_of_second():
    """Waits for a second to begin, as API servers date objects in seconds."""
    time.sleep(1.01 - time.time() % 1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", cases())
def test_so_they_do_from_an_api_server(served, case):
    with served.these(objects_of(case)):
        # It counts an object before it serves what comes of it.
        deadline = time.monotonic() + SERVED_SECONDS
        while (found := wrong(case, served.fairway)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not found
