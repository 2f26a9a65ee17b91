import os
import socket

import pytest
import torch

from thrifty.data import load_data
from thrifty.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def folder(tmp_path, write_parquet, pixels, encode):
    """A local data set as ``datasets`` reads it, and where it may cache."""
    contents = [encode(p) for p in pixels(10, 5, 5, 3)]
    write_parquet("set/train-0.parquet", contents, [0, 1] * 5)
    write_parquet("set/test-0.parquet", contents[:4], [0, 1] * 2)
    return f"{tmp_path}/set?cache={tmp_path}/cache"


def test_a_local_folder_is_read_through_the_library(folder, pixels):
    data = load_data(f"hf:{folder}")
    assert torch.equal(data.train.inputs, torch.from_numpy(pixels(10, 5, 5, 3)).permute(0, 3, 1, 2))
    assert data.test.labels.tolist() == [0, 1, 0, 1]


def test_a_split_that_is_not_there_is_named(folder):
    with pytest.raises(UserError, match="no split 'tset'; it has train, test"):
        load_data(f"hf:{folder}&test_split=tset")


def test_without_network_it_asks_none_and_says_what_to_do(tmp_path, monkeypatch):
    environment, asked = dict(os.environ), []
    monkeypatch.setattr(socket.socket, "connect", lambda *where: asked.append(where))
    with pytest.raises(UserError, match="with network load .*download=true.*parquet:DIR"):
        load_data(f"hf:nobody/nothing?cache={tmp_path}")
    assert not asked
    assert dict(os.environ) == environment


def test_the_library_may_use_the_network_again_afterwards(tmp_path):
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(UserError):
        load_data(f"hf:nobody/other?cache={tmp_path}")
    after = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    assert before == after


def test_a_name_is_needed():
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        load_data("hf")
