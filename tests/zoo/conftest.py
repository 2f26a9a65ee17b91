"""A small zoo to try things on: two stacks of three models, at epochs 1 and 2."""

import numpy as np
import pytest

from thrifty.zoo.folder import Folder
from thrifty.zoo.index import write_rows
from thrifty.zoo.shards import write_shard

SPEC = "zoo_cnn_s?act=tanh&width=0.25"
SHAPES = {
    "conv1.weight": (2, 1, 5, 5),
    "conv1.bias": (2,),
    "conv2.weight": (2, 2, 5, 5),
    "conv2.bias": (2,),
    "conv3.weight": (1, 2, 2, 2),
    "conv3.bias": (1,),
    "fc1.weight": (5, 9),
    "fc1.bias": (5,),
    "fc2.weight": (10, 5),
    "fc2.bias": (10,),
}


def tensors_of(models, epoch):
    """Tensors in which every number says which model, epoch and place it is of."""
    return {
        name: np.stack(
            [
                np.full(shape, model + epoch / 10, np.float32)
                + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 1000
                for model in models
            ]
        )
        for name, shape in SHAPES.items()
    }


def write_segment(root, stack, epoch, models, spec=SPEC, **columns):
    folder = Folder(root)
    about = {"stack": stack, "epoch": epoch, "first": models[0], "model": spec}
    write_shard(folder.shard(stack, epoch), tensors_of(models, epoch), about)
    rows = {
        "model": list(models),
        "act": "tanh",
        "lr": np.full(len(models), 1e-4, np.float32),
        "dropout": 0.0,
        "seed": list(models),
        "test_accuracy": [0.5 + model / 100 + epoch / 1000 for model in models],
        "diverged": False,
    }
    write_rows(root, stack, epoch, rows | columns)


@pytest.fixture
def root(tmp_path):
    """The folder of the small zoo."""
    place = tmp_path / "zoo"
    network = {"spec": SPEC, "shape": [1, 28, 28], "classes": 10}
    Folder(place).prepare({"kind": "models", "networks": [network]})
    for epoch in (1, 2):
        write_segment(place, "0000", epoch, [0, 1, 2])
        write_segment(place, "0001", epoch, [3, 4, 5], act="relu", lr=1e-3)
    return place


@pytest.fixture
def segment():
    """What writes one more segment."""
    return write_segment
