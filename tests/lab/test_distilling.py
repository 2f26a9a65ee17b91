"""Runs with a teacher: who may teach, what is refused, and that a run goes on as it began."""

from pathlib import Path

import numpy as np
import pytest
import torch

from thrifty.data import load_data
from thrifty.errors import UnknownName, UserError
from thrifty.lab.chains import Chains
from thrifty.lab.distilling import named_teacher, teacher_digest
from thrifty.lab.recipe import make
from thrifty.lab.run import run
from thrifty.lab.steps import Lab
from thrifty.lab.store import Step, Store
from thrifty.nets import resolve
from thrifty.pack import load, save
from thrifty.training import loop
from thrifty.training.distillation import Distillation
from thrifty.training.plan import Plan

NET, DATA = "three_methods_cnn?hidden=8&width=0.25", "digits?train=160&test=80"
QUICK = {"seeds": 1, "latency": False, "machine": {"workers": 1}}
STUDENT = {
    **QUICK,
    "model": NET,
    "data": DATA,
    "train": {"epochs": 2, "batch": 16, "augment": False},
    "prune": {"method": []},
}
PRUNED = {
    **STUDENT,
    "prune": {"method": ["magnitude"], "sparsity": 0.9},
    "retrain": {"epochs": 1},
    "random": False,
    "control": False,
}


def with_teacher(teacher: object, **more) -> dict:
    return {**STUDENT, "train": {**STUDENT["train"], "distill": {"teacher": str(teacher), **more}}}


def retrained(distill: object, **prune) -> dict:
    said = {**PRUNED["prune"], **prune}
    return {**PRUNED, "prune": said, "retrain": {"epochs": 1, "distill": distill}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A run of a larger network."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    run(make({**STUDENT, "model": "three_methods_cnn?hidden=16&width=0.5"}), folder)
    return folder


@pytest.fixture(scope="module")
def files(teacher) -> dict[str, str]:
    """The same network in every form in which a teacher is named."""
    folder = teacher.parent
    model = load(next(teacher.glob("steps/*/model.safetensors.zst")))
    found = {"a run": str(teacher)}
    for suffix in (".safetensors", ".thrifty"):
        save(model, folder / f"teacher{suffix}")
        found[suffix] = str(folder / f"teacher{suffix}")
    torch.save(model.state_dict(), folder / "teacher.pt")
    return found


def bits(step: Step) -> bytes:
    return step.model.read_bytes()


def dense(recipe: dict, folder: Path) -> Step:
    return Chains(make(recipe), Store(folder)).dense(0)


# Who may teach


def test_every_form_names_the_same_teacher(files, tmp_path):
    data = load_data(DATA)
    inputs = data.prepare(data.test.inputs)
    found = [named_teacher(Distillation(teacher=name), data) for name in files.values()]
    name = "three_methods_cnn?hidden=16&width=0.5"
    weights = str(Path(files["a run"]).parent / "teacher.pt")
    found.append(named_teacher(Distillation(teacher=name, teacher_weights=weights), data))
    with torch.no_grad():
        first, *others = [model(inputs) for model in found]
    assert all(torch.equal(first, other) for other in others)
    assert not any(module.training for model in found for module in model.modules())


def test_a_student_of_a_teacher_is_another_network_than_one_without(teacher, tmp_path):
    run(make(STUDENT), tmp_path / "run")
    for said in ({}, {"kind": "dkd", "beta": 2}, {"weight": 0.5}, {"temperature": 2}):
        run(make(with_teacher(teacher, **said)), tmp_path / "run")
    steps = list((tmp_path / "run" / "steps").iterdir())
    assert len({(s / "model.safetensors.zst").read_bytes() for s in steps}) == 5
    assert len(list((tmp_path / "run" / "teachers").iterdir())) == 1  # one teacher, asked once


def test_the_teacher_is_introduced_before_anything_is_trained(teacher, tmp_path):
    told = []
    run(make(with_teacher(teacher)), tmp_path / "run", tell=told.append)
    messages = [event["message"] for event in told if "message" in event]
    assert f"teacher {teacher}: " in messages[0]
    assert "parameters, " in messages[0] and "% of the test inputs right" in messages[0]


def test_the_contents_of_the_teacher_decide_the_name_of_the_student(files, tmp_path):
    place = tmp_path / "teacher.safetensors"
    place.write_bytes(Path(files[".safetensors"]).read_bytes())
    first = dense(with_teacher(place), tmp_path).key
    assert first != dense(STUDENT, tmp_path).key
    torch.manual_seed(1)
    save(resolve(NET, classes=10, shape=(1, 8, 8)), place)
    assert dense(with_teacher(place), tmp_path).key != first


def test_results_of_before_there_were_teachers_keep_their_names(tmp_path):
    """Keys of the version without tables; a run that was begun with it goes on."""
    said = {**STUDENT, "train": {"epochs": 3, "batch": 16}}
    assert dense(said, tmp_path).key == "cd33c27cd859"
    said |= {"prune": {"method": ["magnitude"]}, "retrain": {"distill": 0.9}, "seeds": 3}
    del said["latency"], said["machine"]
    assert make(said).identity == "74099c597baa"
    assert Chains(make(said), Store(tmp_path)).level(0, "magnitude", 0).key == "38fcf6d0dd48"


class Stop(Exception):
    pass


def test_a_student_that_was_stopped_goes_on_to_the_same_bits(teacher, tmp_path, monkeypatch):
    recipe = with_teacher(teacher)
    recipe["train"]["epochs"] = 4
    recipe["machine"] = {"workers": 1, "checkpoint_seconds": 0}
    run(make(recipe), tmp_path / "straight")
    lab = Lab(make(recipe), Store(tmp_path / "broken"))
    calls, original = {"n": 0}, loop.Stepper.step

    def dying(self, lr):
        calls["n"] += 1
        if calls["n"] == 2 * 10 + 3:
            raise Stop
        original(self, lr)

    monkeypatch.setattr(loop.Stepper, "step", dying)
    with pytest.raises(Stop):
        lab.dense(0)
    assert lab.chains.dense(0).checkpoint.exists()
    monkeypatch.setattr(loop.Stepper, "step", original)
    run_again = Lab(make(recipe), Store(tmp_path / "broken"))
    assert run_again.dense(0) == 1
    assert bits(dense(recipe, tmp_path / "broken")) == bits(dense(recipe, tmp_path / "straight"))


# Retraining


@pytest.mark.parametrize("method", ["magnitude", "gradual", "l1_filter", "variational"])
def test_every_kind_of_method_recovers_with_a_teacher(method, teacher, tmp_path):
    forms = (0.0, 0.5, {"weight": 0.5, "kind": "dkd"}, {"weight": 0.5, "teacher": str(teacher)})
    seen = set()
    for distill in forms:
        front = run(make(retrained(distill, method=[method])), tmp_path / "run")
        assert front.records[-1].method == method
        seen.add(bits(next(s for s in _steps(tmp_path / "run", front.records[-1].key))))
    assert len(seen) == len(forms)


def _steps(folder: Path, key: str) -> list[Step]:
    return [Step(p, key) for p in (folder / "steps").glob(f"*-{key[:8]}")]


def test_a_number_is_a_table_with_that_weight_and_the_dense_parent(tmp_path):
    found = [
        run(make(retrained(said)), tmp_path / name).records[-1]
        for name, said in (("number", 0.7), ("table", {"weight": 0.7}))
    ]
    assert found[0].key != found[1].key
    models = [
        bits(_steps(tmp_path / n, r.key)[0])
        for n, r in zip(("number", "table"), found, strict=True)
    ]
    assert models[0] == models[1]


def test_a_dense_parent_that_had_a_teacher_is_retrained_without_unless_said(teacher, tmp_path):
    recipe = retrained(0.0) | {"train": with_teacher(teacher)["train"]}
    lab = Lab(make(recipe), Store(tmp_path / "run"))
    run(make(recipe), tmp_path / "run")
    assert lab.chains.level(0, "magnitude", 0).done
    assert make(recipe).retrain.taught is None


# Data without labels


def test_a_run_learns_from_inputs_without_labels(teacher, tmp_path):
    front = run(make(with_teacher(teacher) | {"data": f"{DATA}&labels=0"}), tmp_path / "run")
    assert 0 <= front.records[0].accuracy <= 1  # of the test inputs, which all have labels


def test_pruning_by_gradients_takes_the_inputs_with_labels(tmp_path):
    data = load_data(f"{DATA}&labels=40")
    recipe = PRUNED | {"data": data.name, "prune": {"method": ["saliency"], "sparsity": 0.5}}
    assert run(make(recipe), tmp_path / "some").records
    recipe = retrained(1.0, method=["saliency"]) | {"data": f"{DATA}&labels=0", "weights": None}
    recipe["train"] = {**STUDENT["train"], "epochs": 0}
    with pytest.raises(UserError, match="needs labels"):
        run(make(recipe), tmp_path / "none")


# Wrong input


def test_a_teacher_of_other_classes_is_refused_with_both_numbers(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {f"x_{p}": rng.integers(0, 255, (40, 8, 8)).astype(np.uint8) for p in PARTS}
    labels = {f"y_{p}": np.arange(40) % 4 for p in PARTS}
    np.savez(tmp_path / "four.npz", **pictures, **labels)
    save(resolve(NET, classes=10, shape=(1, 8, 8)), tmp_path / "ten.safetensors")
    recipe = with_teacher(tmp_path / "ten.safetensors") | {"data": f"npz:{tmp_path}/four.npz"}
    with pytest.raises(UserError, match="tells 10 classes apart and the student 4"):
        run(make(recipe), tmp_path / "run")


PARTS = ("train", "test")


def test_a_teacher_of_other_inputs_is_refused_with_both_shapes(tmp_path):
    save(resolve(NET, classes=10, shape=(1, 16, 16)), tmp_path / "large.safetensors")
    with pytest.raises(UserError, match=r"takes inputs of 1x16x16, and those of .* are 1x8x8"):
        run(make(with_teacher(tmp_path / "large.safetensors")), tmp_path / "run")


WRONG = {
    "no file or folder 'runs/none'": {"teacher": "runs/none"},
    "teacher: no network is called 'lenett'; did you mean": {"teacher": "lenett"},
    "lenet is a network without weights of any training": {"teacher": "lenet"},
    "teacher_weights: none.pt: there is no such file": {
        "teacher": "lenet",
        "teacher_weights": "none.pt",
    },
    "does not say of which network": {"teacher": "{folder}/teacher.pt"},
    "has its own weights": {
        "teacher": "{folder}/teacher",
        "teacher_weights": "{folder}/teacher.pt",
    },
    "the folder .* has no network": {"teacher": "{folder}/empty"},
}


@pytest.mark.parametrize("message", WRONG)
def test_who_cannot_teach_is_told_before_training(message, files, teacher, tmp_path):
    (teacher.parent / "empty").mkdir(exist_ok=True)
    said = {k: v.format(folder=teacher.parent) for k, v in WRONG[message].items()}
    with pytest.raises(UserError, match=message) as caught:
        run(make(with_teacher(**said)), tmp_path / "run")
    assert not isinstance(caught.value, UnknownName) or str(caught.value)
    assert not list((tmp_path / "run").glob("steps/*"))


def test_a_damaged_teacher_is_told(files, tmp_path):
    place = tmp_path / "cut.safetensors"
    place.write_bytes(Path(files[".safetensors"]).read_bytes()[:200])
    with pytest.raises(UserError, match=r"teacher: .*cut\.safetensors"):
        run(make(with_teacher(place)), tmp_path / "run")


def test_a_teacher_without_epochs_or_students_without_labels_and_teacher_are_refused(
    teacher, tmp_path
):
    recipe = with_teacher(teacher)
    recipe["train"]["epochs"] = 0
    with pytest.raises(UserError, match=r"train\.epochs is 0"):
        run(make(recipe), tmp_path / "run")
    with pytest.raises(UserError, match="no training input of .* has a label"):
        run(make(STUDENT | {"data": f"{DATA}&labels=0"}), tmp_path / "other")


def test_the_digest_of_a_teacher_is_that_of_its_file(files):
    found = {n: teacher_digest(Distillation(teacher=f)) for n, f in files.items()}
    assert all(found.values())
    assert teacher_digest(Distillation()) is None
    assert teacher_digest(None) is None
    assert teacher_digest(Distillation(teacher="torchvision:resnet18?weights=DEFAULT")) is None


def test_mistakes_in_the_tables_are_named_by_their_place():
    wrong = {
        r"train\.distill\.teacher: it has to be given": {"train": {"distill": {}}},
        r"train\.distill: it is a table of key: value; 0\.5": {"train": {"distill": 0.5}},
        r"train\.distill\.kindd: .* did you mean kind": {
            "train": {"distill": {"teacher": "x", "kindd": 1}}
        },
        r"retrain\.distill\.kid: .* did you mean kind": {"retrain": {"distill": {"kid": 1}}},
        r"retrain\.distill: input should be less .* 1\.5": {"retrain": {"distill": 1.5}},
        r"retrain\.distill\.temperature: .*-1 was given": {
            "retrain": {"distill": {"temperature": -1}}
        },
        "temperature is 3 beside a table": {"retrain": {"distill": {}, "temperature": 3}},
        r"gate_train\.lrr: .* did you mean lr": {"prune": {"gate_train": {"lrr": 1}}},
    }
    for message, said in wrong.items():
        with pytest.raises(UserError, match=message):
            make(said)


def test_a_recipe_with_tables_is_read_back_as_it_was(tmp_path):
    recipe = make(retrained({"kind": "dkd"}) | {"train": {"distill": {"teacher": "x"}}})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    from thrifty.lab.recipe import read

    assert read(tmp_path / "recipe.yaml") == recipe
    assert Plan(distill={"teacher": "x"}).distill.share == 0.9
