"""Where calls go that arrive at a gateway, as it was checked on istiod.

The cases and the client that follows the calls are beside the repository, if at
all; FAIRWAY_CASES says where.
"""

import importlib
import json
import os
import pathlib
import sys

import pytest
import yaml

from fairway import ROOT, Fairway

CASES = pathlib.Path(os.environ.get("FAIRWAY_CASES", ROOT.parent / "shared/cases/route-simulation.jsonl"))

# The suites that are about what is served.
SUITES = {"TestDisablePortTranslation", "TestHTTPGateway", "TestGatewayConflicts"}


def cases():
    if not CASES.exists():
        return []
    all_cases = [json.loads(line) for line in CASES.read_text().splitlines() if line.strip()]
    return [case for case in all_cases if case["suite"] in SUITES]


@pytest.mark.skipif(not CASES.exists(), reason=f"the cases of istiod are not at {CASES}")
@pytest.mark.parametrize("case", cases(), ids=lambda case: case["test"])
def test_calls_go_where_istiod_sends_them(binary, tmp_path, case):
    sys.path.insert(0, str(CASES.parent))
    try:
        simulation = importlib.import_module("xds_sim")
    finally:
        sys.path.pop(0)
    objects = [one for one in yaml.safe_load_all(case["config"]) if one]
    for one in objects:
        one["metadata"].setdefault("namespace", "default")
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "case.yaml").write_text(yaml.safe_dump_all(objects))
    with Fairway(binary, folder, tmp_path) as fairway:
        told = simulation.Xds.fetch(fairway.grpc, simulation.node_of(case["proxy"]))
        wrong = [(what, mismatches) for what, mismatches in simulation.judge(case, told) if mismatches]
    assert not wrong
