"""What holds for every format of the registry."""

import pytest
import torch

from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.pack import FORMATS, load, save
from thrifty.pack.exporting import export

READ = [name for name in FORMATS.names() if FORMATS.get(name).read is not None]
every_format = pytest.mark.parametrize("name", READ)
only_written = pytest.mark.parametrize("name", sorted(set(FORMATS.names()) - set(READ)))


def sparse():
    """A small network of which one weight in twenty is left, and the masks that say which."""
    torch.manual_seed(0)
    model = resolve("three_methods_cnn?width=0.5", shape=(1, 8, 8))
    masks = {n: torch.rand(p.shape) < 0.05 for n, p in model.named_parameters() if p.dim() > 1}
    with torch.no_grad():
        for n, mask in masks.items():
            model.get_parameter(n).mul_(mask)
    return model, masks


def path_of(name, folder):
    return folder / f"m{FORMATS.get(name).suffix}"


@pytest.mark.parametrize("name", FORMATS.names())
def test_it_says_in_one_line_what_it_is(name):
    assert FORMATS.summary(name)


def test_no_two_formats_have_one_suffix():
    suffixes = [FORMATS.get(name).suffix for name in FORMATS.names()]
    assert len(set(suffixes)) == len(suffixes)


@every_format
@pytest.mark.parametrize("masked", [True, False])
def test_every_tensor_comes_back_bit_for_bit(name, masked, tmp_path):
    model, masks = sparse()
    save(model, path_of(name, tmp_path), masks=masks if masked else None)
    again = load(path_of(name, tmp_path)).state_dict()
    assert list(again) == list(model.state_dict())
    for tensor_name, x in model.state_dict().items():
        assert torch.equal(again[tensor_name], x), tensor_name


@every_format
def test_a_sparse_network_takes_no_more_than_a_plain_file(name, tmp_path):
    model, masks = sparse()
    plain = save(model, tmp_path / "plain.safetensors", masks=masks)
    assert save(model, path_of(name, tmp_path), masks=masks) <= plain


@every_format
def test_a_file_cut_short_is_told_with_its_name(name, tmp_path):
    model, _ = sparse()
    file = path_of(name, tmp_path)
    size = save(model, file)
    content = file.read_bytes()
    for left in (0, 1, 7, 8, 50, size // 2, size - 1):
        file.write_bytes(content[:left])
        with pytest.raises(UserError, match=file.name):
            load(file)


@every_format
def test_other_bytes_are_told_with_the_name_of_the_file(name, tmp_path):
    file = path_of(name, tmp_path)
    file.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(UserError, match=file.name):
        load(file)


@only_written
def test_a_format_that_is_only_written_says_what_reads_it(name, tmp_path):
    assert FORMATS.get(name).instead
    if FORMATS.get(name).suffix:
        with pytest.raises(UserError, match="not read back; load the file it was made from"):
            load(path_of(name, tmp_path))


@only_written
def test_a_written_format_does_not_change_the_network(name, tmp_path):
    model, masks = sparse()
    before = {n: x.clone() for n, x in model.state_dict().items()}
    done = export(model, path_of(name, tmp_path), name, masks=masks)
    assert done.bytes > 0
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


@every_format
def test_a_file_that_is_not_there_is_told(name, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        load(path_of(name, tmp_path))
