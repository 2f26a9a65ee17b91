"""On a Ray cluster a zoo ends byte for byte as in one process, whatever is killed meanwhile."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError
from thrifty.zoo.cluster import _arrays, _sets
from thrifty.zoo.recipe import zoo_recipe
from thrifty.zoo.running import train_zoo
from thrifty.zoo.sets import know, sets_of, split_of

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)

SAID = {
    "net": "zoo_cnn_s?width=0.25",
    "data": "digits?train=100&test=30",
    "grid": {"act": ["tanh", "relu"]},
    "seeds": 4,
    "stack": 2,
    "validation": 0.2,
    "train": {"epochs": 400},
    "checkpoints": 100,
}


def contents(root):
    return {
        f"{part}/{path.name}": path.read_bytes()
        for part in ("shards", "rows", "predictions")
        for path in sorted((root / part).glob("[0-9]*"))
    }


def test_data_come_out_of_the_store_as_they_went_in():
    sets = split_of(load_data("digits?train=60&test=30"), 0.2)
    again = _sets(_arrays(sets))
    assert again.data.digest == sets.data.digest
    assert torch.equal(again.validation.inputs, sets.validation.inputs)
    assert (again.data.mean, again.data.shape) == (sets.data.mean, sets.data.shape)
    bare = _sets(_arrays(split_of(sets.data, 0)))
    assert bare.validation is None


def test_arrays_that_cannot_be_written_to_are_no_warning_and_no_copy():
    inputs = np.zeros((4, 1, 8, 8), np.uint8)
    inputs.flags.writeable = False
    labels = np.arange(4)
    about = {"name": "x", "classes": 4, "mean": (0.0,), "std": (1.0,), "class_names": ()}
    found = _sets([about, (inputs, labels), (inputs, labels), None])
    assert found.data.train.inputs.data_ptr() == inputs.ctypes.data


def test_a_worker_takes_the_data_it_was_given_and_reads_none():
    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
    data = Data("nowhere:x", split, split, 4, (0.0,), (1.0,))
    know("nowhere:x", 0.0, split_of(data, 0.0))
    assert sets_of("nowhere:x", 0.0).data is data


DRIVER = """
import os, signal, sys, json
import ray
from ray.cluster_utils import Cluster
from thrifty.zoo.cluster import OnRay
from thrifty.zoo.recipe import ZooRecipe
from thrifty.zoo.running import train_zoo

recipe, out = ZooRecipe.model_validate_json(sys.argv[1]), sys.argv[2]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
os.environ["RAY_ADDRESS"] = cluster.address
done = []

def workers():
    names = "ray::_attempt"
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if file.read().startswith(names.encode()):
                        found.append(int(entry))
            except OSError:
                pass
    return found

def tell(event):
    if event.get("epoch", 0) >= 50 and not done:
        done.append("node")
        cluster.remove_node(nodes[0], allow_graceful=False)
    elif event.get("epoch", 0) >= 150 and done == ["node"]:
        done.append("worker")
        for number in workers():
            if b"OWNER=" + out.encode() in open(f"/proc/{number}/environ", "rb").read():
                os.kill(number, signal.SIGKILL)
                done.append("killed")

zoo = train_zoo(recipe, out, executor=OnRay(), tell=tell)
assert not ray.is_initialized()  # it let go of the cluster, and did not end it
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
print(json.dumps({"done": done, "models": len(zoo), "nodes": sum(n["Alive"] for n in ray.nodes())}))
ray.shutdown()
cluster.shutdown()
"""


@needs_ray
def test_a_node_that_goes_and_a_worker_that_is_killed_cost_nothing(tmp_path):
    recipe = zoo_recipe(SAID)
    train_zoo(recipe, tmp_path / "here")
    found = subprocess.run(
        [sys.executable, "-c", DRIVER, recipe.model_dump_json(), str(tmp_path / "there")],
        env=os.environ | {"OWNER": str(tmp_path / "there")},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    said = json.loads(found.stdout.splitlines()[-1])
    assert said["done"][:3] == ["node", "worker", "killed"]
    assert said["models"] == 8
    assert said["nodes"] >= 2  # the one that went may not be missed yet
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@needs_ray
def test_a_cluster_that_is_not_there_is_told(tmp_path, monkeypatch):
    from thrifty.zoo.cluster import OnRay

    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(UserError, match="RAY_ADDRESS=nowhere cannot be reached: .*ray start"):
        train_zoo(zoo_recipe(SAID), tmp_path, executor=OnRay())
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "x:99999999"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match="cannot be reached: .*ray start --head"):
            OnRay()
