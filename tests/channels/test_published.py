"""A published network from which others removed channels works here."""

import numpy as np
import pytest
import torch

from thrifty.channels.finding import groups
from thrifty.channels.shrinking import shrink
from thrifty.data import load_data
from thrifty.nets import load_weights, resolve

FILE = "distiller-resnet20-channels-removed-finetuned.safetensors"


@pytest.fixture(scope="module")
def narrow(real_data):
    """ResNet-20 of Distiller, of which blocks lost up to half of their inner channels."""
    model = resolve("resnet20?shortcut=projection", classes=10, shape=(3, 32, 32))
    load_weights(model, real_data / "weights" / "cifar10" / FILE, resize=True)
    return model.eval()


@torch.no_grad()
def right(model, inputs, labels):
    """The share of labels that a network gives."""
    return float((model(inputs).argmax(1) == labels).float().mean())


@pytest.mark.real
def test_the_layers_are_as_narrow_as_those_of_the_file(narrow):
    widths = [block.conv1.out_channels for block in (*narrow.layer1, *narrow.layer2)]
    assert widths == [11, 8, 9, 22, 20, 32]
    assert [block.bn1.num_features for block in narrow.layer3] == [52, 56, 64]


@pytest.mark.real
@pytest.mark.parametrize(("normalize", "least", "most"), [("half", 0.76, 0.84), ("data", 0, 0.7)])
def test_it_classifies_test_pictures_normalised_as_in_its_training(
    narrow, real_data, normalize, least, most
):
    path = real_data / "cifar10" / "test.parquet"
    data = load_data(f"parquet:{path}?normalize={normalize}&test=1000")
    found = right(narrow, data.prepare(data.test.inputs), data.test.labels)
    assert least < found < most  # the pictures are JPEG; on its own, 91.4 % were published


@pytest.mark.real
def test_it_knows_its_training_pictures(narrow, real_data):
    image = pytest.importorskip("PIL.Image")
    folder = real_data / "cifar10" / "lossless-first-4000"
    rows = np.array(image.open(folder / "0.png")).reshape(1000, 32, 32, 3)
    labels = torch.from_numpy(np.load(folder / "labels.npz")["y"][:1000]).long()
    pictures = torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 255
    assert right(narrow, (pictures - 0.5) / 0.5, labels) > 0.98


@pytest.mark.real
def test_it_loses_more_channels_as_any_other_network(narrow):
    x = torch.randn(2, 3, 32, 32)
    free = groups(narrow, x).free
    kept = {g.name: torch.arange(g.units) != 1 for g in free}
    small = shrink(narrow, example=x, kept=kept)
    assert small.layer1[1].conv1.out_channels == 7
    assert small(x).shape == (2, 10)
