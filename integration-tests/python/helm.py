"""Helm, and the chart under test."""

import functools
import json
import pathlib
import subprocess

import yaml
from fairway import ROOT


class Strict(yaml.SafeLoader):
    """Refuses what most readers do not see: a key that is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(map(str, keys))), f"a key is there twice: {sorted(map(str, keys))}"
        return super().construct_mapping(node, deep)


HELM = ROOT / ".cache/bin/helm"
CHART = ROOT / "charts/fairway"
VALUES = pathlib.Path(__file__).parent / "values"
NAMESPACE = "istio-system"


def helm(*arguments, check=True):
    """Runs helm. Returns what it did, or fails with what it said."""
    command = [HELM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"helm {' '.join(command[1:])}: {done.stderr}\n{done.stdout}"
    return done


def values(name):
    """A file of values of somebody who runs istiod."""
    return VALUES / f"{name}.yaml"


@functools.cache
def rendered(name, *more):
    """What is installed with a file of values: objects by kind and name."""
    done = helm("template", "istiod", CHART, f"--namespace={NAMESPACE}", f"--values={values(name)}", *more)
    objects = {}
    for one in yaml.load_all(done.stdout, Strict):
        if one:
            key = (one["kind"], one["metadata"]["name"])
            assert key not in objects, f"{key} is there twice"
            objects[key] = one
    return objects


def notes(name, *more):
    """What Helm says after an installation with a file of values."""
    done = helm(
        "install", "istiod", CHART, f"--namespace={NAMESPACE}", f"--values={values(name)}", "--dry-run=client",
        "--output=json", *more,
    )
    return json.loads(done.stdout)["info"]["notes"]
