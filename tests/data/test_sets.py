import torch

from thrifty.data import Data, Split


def some_data(inputs=None, **changes):
    if inputs is None:
        inputs = torch.arange(4 * 2 * 3 * 3, dtype=torch.uint8).reshape(4, 2, 3, 3)
    split = Split(inputs, torch.tensor([0, 1, 0, 1]))
    fields = {"mean": (0.1, 0.2), "std": (0.5, 2.0), **changes}
    return Data("some", split, split, 2, **fields)


def test_prepare_divides_bytes_by_255_and_normalises_each_channel():
    data = some_data()
    inputs = data.train.inputs
    mean, std = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 2.0])
    expected = (inputs / 255 - mean[:, None, None]) / std[:, None, None]
    prepared = data.prepare(inputs)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, expected)


def test_prepare_takes_floats_as_scaled_and_leaves_its_argument_alone():
    data = some_data()
    scaled = data.train.inputs / 255
    before = scaled.clone()
    torch.testing.assert_close(data.prepare(scaled), data.prepare(data.train.inputs))
    assert torch.equal(scaled, before)


def test_prepare_normalises_each_feature_of_plain_rows():
    data = some_data(torch.tensor([[0.1, 0.2], [0.6, 2.2], [0.1, 0.2], [0.1, 0.2]]))
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(data.prepare(data.train.inputs), expected)


def test_prepare_can_be_mapped_over_a_population():
    data = some_data()
    together = torch.vmap(data.prepare)(data.train.inputs[None].repeat(3, 1, 1, 1, 1))
    torch.testing.assert_close(together[2], data.prepare(data.train.inputs))


def test_digest_depends_on_contents_and_not_on_the_name():
    data = some_data()
    changed = data.train.inputs.clone()
    changed[3, 1, 2, 2] += 1
    assert len(data.digest) == 16
    assert data.digest == some_data(shift=1).digest
    assert data.digest != some_data(changed).digest
    assert data.digest != some_data(data.train.inputs.reshape(4, 1, 6, 3)).digest


def test_shape_is_that_of_one_input():
    assert some_data().shape == (2, 3, 3)
    assert len(some_data().train) == 4
