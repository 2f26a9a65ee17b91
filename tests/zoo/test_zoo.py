"""A zoo as people use it."""

import numpy as np
import pytest
import torch

import thrifty
from thrifty.errors import UnknownName, UserError
from thrifty.population.stack import Stack


def test_the_last_epoch_is_meant_unless_another_is_asked_for(root):
    zoo = thrifty.Zoo(root)
    assert (len(zoo), zoo.epochs, zoo.kind) == (6, (1, 2), "models")
    assert zoo.weights("conv1.bias")[:, 0].tolist() == pytest.approx([0.2, 1.2, 2.2, 3.2, 4.2, 5.2])
    first = zoo.weights("conv1.bias", epoch=1)[:, 0]
    assert first.tolist() == pytest.approx([0.1, 1.1, 2.1, 3.1, 4.1, 5.1])


def test_weights_of_one_shard_are_the_file_and_not_a_copy(root):
    zoo = thrifty.Zoo(root)
    one = zoo.where("model < 3").weights("conv1.weight")
    assert not one.flags.owndata and not one.flags.writeable
    assert np.shares_memory(one, zoo.where("model in (1, 2)").weights("conv1.weight"))
    assert zoo.weights("conv1.weight").flags.owndata
    assert sum(len(piece) for piece in zoo.pieces("conv1.weight")) == len(zoo)


def test_models_that_lie_apart_come_in_the_order_of_the_zoo(root):
    some = thrifty.Zoo(root).where("model in (0, 2, 3, 5)")
    assert some.weights("fc2.bias")[:, 0].tolist() == pytest.approx([0.2, 2.2, 3.2, 5.2])
    assert [member.id for member in some] == [0, 2, 3, 5]


def test_a_model_has_its_tensors_its_numbers_and_its_network(root):
    member = thrifty.Zoo(root)[4]
    assert member.id == 4 and member.epochs == (1, 2)
    assert member.accuracy == pytest.approx(0.542)
    assert member.row(1)["test_accuracy"] == pytest.approx(0.541)
    assert member.hyper == {"act": "relu", "lr": 1e-3, "dropout": 0.0, "seed": 4}
    network = member.module()
    for name, x in member.tensors().items():
        assert torch.equal(network.state_dict()[name], torch.from_numpy(x.copy()))
    assert not network.training
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_network_does_not_share_memory_with_the_file(root):
    member = thrifty.Zoo(root)[0]
    network = member.module()
    with torch.no_grad():
        next(network.parameters()).zero_()
    assert member.tensors()["conv1.weight"].any()


def test_a_network_may_be_named_by_who_reads(root):
    member = thrifty.Zoo(root)[0]
    network = member.module(model="zoo_cnn_s?act=gelu&width=0.25")
    assert any(isinstance(m, torch.nn.GELU) for m in network.modules())
    with pytest.raises(UserError, match="0000-0002"):
        member.module(model="lenet")


def test_a_stack_has_the_tensors_and_columns_of_the_zoo(root):
    zoo = thrifty.Zoo(root)
    stack = zoo.stack(epoch=1)
    assert isinstance(stack, Stack) and len(stack) == 6
    assert stack.columns["lr"].tolist() == pytest.approx([1e-4] * 3 + [1e-3] * 3)
    assert stack.columns["seed"].tolist() == [0, 1, 2, 3, 4, 5]
    for number in (0, 5):
        own, alone = stack.module(number).state_dict(), zoo[number].module(1).state_dict()
        assert all(torch.equal(own[name], alone[name]) for name in alone)


def test_a_stack_of_several_architectures_names_them(root, segment):
    segment(root, "0002", 2, [6, 7], spec="zoo_cnn_s?act=relu&width=0.25")
    zoo = thrifty.Zoo(root)
    with pytest.raises(UserError, match="act=relu.*act=tanh"):
        zoo.stack()
    assert len(zoo.where("model >= 6").stack()) == 2


def test_models_that_differ_in_dropout_and_init_are_one_stack(root, segment):
    segment(root, "0002", 2, [6], spec="zoo_cnn_s?act=tanh&width=0.25&dropout=0.5", dropout=0.5)
    stack = thrifty.Zoo(root).stack()
    rates = [m.p for m in stack.module(6).modules() if isinstance(m, torch.nn.Dropout)]
    assert rates and set(rates) == {0.5}
    rates = [m.p for m in stack.module(0).modules() if isinstance(m, torch.nn.Dropout)]
    assert set(rates) == {0.0}


def test_a_segment_that_is_not_done_is_not_seen(root, segment):
    segment(root, "0000", 3, [0, 1, 2])
    (root / "rows" / "0000-0003.json").unlink()
    assert thrifty.Zoo(root).epochs == (1, 2)


def test_models_may_have_come_to_different_epochs(root, segment):
    segment(root, "0000", 3, [0, 1, 2])
    zoo = thrifty.Zoo(root)
    expected = [0.3, 1.3, 2.3, 3.2, 4.2, 5.2]
    assert zoo.weights("conv1.bias")[:, 0].tolist() == pytest.approx(expected)
    assert zoo[0].epochs == (1, 2, 3) and zoo[3].epochs == (1, 2)
    with pytest.raises(UserError, match=r"3 of 6 models have no checkpoint of epoch 3 \(model 3"):
        zoo.weights("conv1.bias", epoch=3)
    assert len(zoo.where("True", epoch=3)) == 3
    with pytest.raises(UserError, match="there are 1, 2, 3, and -1 is the last"):
        zoo.weights("conv1.bias", epoch=7)


def test_a_zoo_that_is_open_does_not_change_while_it_is_written(root, segment):
    zoo = thrifty.Zoo(root)
    segment(root, "0000", 3, [0, 1, 2])
    assert zoo.epochs == (1, 2)
    assert thrifty.Zoo(root).epochs == (1, 2, 3)


def test_what_is_not_there_is_named_with_what_is(root):
    zoo = thrifty.Zoo(root)
    with pytest.raises(UnknownName, match="'conv1.wieght'; did you mean conv1.weight"):
        zoo.weights("conv1.wieght")
    with pytest.raises(IndexError, match="6 models, and none at 6"):
        zoo[6]
    with pytest.raises(UnknownName, match="did you mean test_accuracy"):
        zoo.index["test_acuracy"]
    assert zoo.names() == thrifty.Zoo(root).where("model == 5").names()
    assert zoo[-1].id == 5


def test_no_models_is_an_error_where_models_are_needed(root):
    none = thrifty.Zoo(root).where("lr > 1")
    assert len(none) == 0 and len(none.index) == 0 and list(none) == []
    assert len(none.where("lr > 1")) == 0
    with pytest.raises(UserError, match="there are no models here"):
        none.weights("conv1.weight")
    with pytest.raises(UserError, match="there are no models here"):
        none.stack()


def test_a_zoo_without_any_segment_has_no_models(tmp_path):
    from thrifty.zoo.folder import Folder

    Folder(tmp_path / "new").prepare({"kind": "models", "networks": []})
    zoo = thrifty.Zoo(tmp_path / "new")
    assert len(zoo) == 0 and zoo.epochs == () and zoo.check() == []
    with pytest.raises(UserError, match="no models"):
        zoo.weights("conv1.weight")


def test_a_folder_that_is_no_zoo_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no zoo: there is no such folder"):
        thrifty.Zoo(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"is no zoo: it has no zoo.json"):
        thrifty.Zoo(tmp_path)


def test_twins_of_one_model_are_models_of_their_own(tmp_path, segment):
    from thrifty.zoo.folder import Folder

    place = tmp_path / "twins"
    Folder(place).prepare({"kind": "twins", "networks": []})
    segment(place, "a", 15, [0, 1], method="magnitude", asked=0.5)
    segment(place, "b", 15, [0, 1], method="magnitude", asked=0.9)
    for epoch in (1, 25):
        segment(place, "c", epoch, [0, 1], method="variational", asked=float("nan"))
    zoo = thrifty.Zoo(place)
    assert len(zoo) == 6
    said = [(m.id, m.row()["method"], m.row()["epoch"]) for m in zoo]
    assert said[:3] == [(0, "magnitude", 15), (0, "magnitude", 15), (0, "variational", 25)]
    assert len(zoo.where("method == 'magnitude' and asked > .8")) == 2
    assert zoo.where("method == 'variational'").epochs == (1, 25)


def test_the_index_is_a_table_of_plain_columns(root):
    index = thrifty.Zoo(root).index
    assert index.columns[:5] == ("model", "stack", "shard", "row", "epoch")
    assert len(index) == 12 and len(index.to_rows()) == 12
    assert index.to_rows()[0]["shard"] == "0000-0001.safetensors"
    assert index["lr"][0] == 1e-4  # not 9.999999747378752e-05, which is float32
    pandas = pytest.importorskip("pandas")
    frame = index.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.shape == (12, len(index.columns))


def test_a_zoo_of_someone_else_does_not_choose_code_to_run(root, segment):
    segment(root, "0002", 2, [6], spec="os:system")
    zoo = thrifty.Zoo(root)
    for run in (zoo[6].module, zoo.where("model == 6").stack):
        with pytest.raises(UserError, match="may name only built-in networks"):
            run()
    assert zoo[6].tensors()


def test_many_shards_are_read_with_few_files_open(root, segment, monkeypatch):
    from thrifty.zoo import opened

    monkeypatch.setattr(opened, "MOST_OPEN", 1)
    zoo = thrifty.Zoo(root)
    assert zoo.weights("conv1.bias").shape == (6, 2)
    assert len(zoo._opened._shards) == 1
