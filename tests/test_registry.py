"""Entries are found without a list, also those of other packages; specs are read and written."""

import importlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty.errors import UnknownName, UserError
from thrifty.registry import Registry, Spec, call_spec, first_line, parse_spec, suggest

GROUP = "thrifty.things"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path with a package of things, into which a test may put more."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "our_things"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from thrifty.registry import Registry\n"
        f"THINGS = Registry('thing', 'our_things', '{GROUP}')\n"
        "def marked(name):\n"
        "    return lambda fn: THINGS.add(name, fn)\n"
    )
    (folder / "one.py").write_text(
        "from our_things import THINGS\n@THINGS.entry('one')\ndef one():\n    'The first.'\n"
    )
    (folder / "two.py").write_text(
        "from our_things import marked\n"
        "@marked('two')\ndef two():\n    '''The second.\n\n    More.'''\n"
    )
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in ("our_things", "guest")]:
        del sys.modules[name]


def registry() -> Registry:
    importlib.invalidate_caches()
    return importlib.import_module("our_things").THINGS


def install(site, points: str, code: str = "") -> None:
    """A distribution called guest, as pip would leave it."""
    info = site / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")
    (site / "guest.py").write_text(code)


def test_a_file_in_the_folder_is_enough(site):
    things = registry()
    assert things.names() == ["one", "two"]
    assert "one" in things
    assert "three" not in things
    assert things.summary("two") == "The second."


def test_where_names_the_file_that_has_the_entry_and_not_a_helper(site):
    things = registry()
    assert things.where("one") == str(site / "our_things" / "one.py")
    assert things.where("two") == str(site / "our_things" / "two.py")


def test_another_package_joins_in_by_entry_point(site):
    install(site, "three = guest:third", "def third():\n    'From elsewhere.'\n    return 3\n")
    things = registry()
    assert things.names() == ["one", "three", "two"]
    assert things.get("three")() == 3
    assert things.summary("three") == "From elsewhere."
    assert things.where("three") == str(site / "guest.py")


def test_an_entry_point_may_be_a_module_that_registers_by_itself(site):
    install(
        site,
        "guest = guest\nfour = guest:four",
        "from our_things import THINGS\n@THINGS.entry('four')\ndef four(): 'Fourth.'\n",
    )
    assert registry().names() == ["four", "one", "two"]


def test_two_entries_of_one_name_are_an_error_that_names_both_files(site):
    install(site, "one = guest:other", "def other(): 'Another first.'\n")
    things = registry()
    for _ in range(2):  # not only the first time somebody looks
        with pytest.raises(UserError, match=r"'one' is defined twice, in .*one\.py and in .*guest"):
            things.get("two")


def test_an_entry_point_that_does_not_load_is_named(site):
    install(site, "five = guest:absent", "")
    with pytest.raises(UserError, match=r"entry point 'five' of .*guest:absent.*mend or uninstall"):
        registry().names()


def test_an_unknown_name_gets_the_nearest(site):
    with pytest.raises(UnknownName, match=r"no thing is called 'tow'; did you mean two\?"):
        registry().get("tow")


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("resnet21", ["resnet110", "resnet20", "resnet32"], "did you mean resnet20 or"),
        ("Magnitude", ["magnitude", "random"], "did you mean magnitude?"),
        ("xyz", ["b", "a"], "there is a, b"),
        ("xyz", [], "there is none"),
        ("#", [f"n{i:03}" for i in range(100)], "n023, ... (100 in all)"),
    ],
)
def test_suggestions(name, known, said):
    assert said in suggest(name, known)


texts = st.text(st.characters(codec="utf-8", exclude_characters="?"), min_size=1)
values = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())


@given(texts, st.dictionaries(st.text(min_size=1), values, max_size=4))
def test_a_spec_that_was_written_reads_the_same(name, options):
    once = parse_spec(str(Spec(name, options)))
    assert parse_spec(str(once)) == once
    assert once.name == name
    assert list(once.options) == list(options)


@given(st.text())
def test_a_spec_is_read_or_refused(text):
    try:
        spec = parse_spec(text)
    except UserError:
        return
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a", {}),
        ("a?x=1&y=.5&z=true", {"x": 1, "y": 0.5, "z": True}),
        ("a?x=False&y=nan&z=", {"x": False, "y": "nan", "z": ""}),
        ("a:b/c.npz?place=d/e%26f", {"place": "d/e&f"}),
    ],
)
def test_values_are_numbers_where_they_look_like_numbers(text, options):
    assert parse_spec(text).options == options


@pytest.mark.parametrize(
    ("text", "message"),
    [("a?", "cannot be read"), ("a?b", "cannot be read"), ("a?b=1&b=2", "'b' twice")],
)
def test_a_spec_that_cannot_be_read_is_an_error(text, message):
    with pytest.raises(UserError, match=message):
        parse_spec(text)


def test_options_are_checked_against_what_the_entry_takes():
    def net(classes: int, *, width: float = 1.0) -> tuple[int, float]:
        return classes, width

    spec = parse_spec("net?width=2")
    assert call_spec("network", spec, net, 10) == (10, 2)
    assert call_spec("network", spec, net, defaults={"classes": 3, "shape": 1}) == (3, 2)
    with pytest.raises(UnknownName, match="'net' has no option 'widht'; did you mean width"):
        call_spec("network", parse_spec("net?widht=2"), net, 10)
    with pytest.raises(UserError, match=r"needs classes; write net\?classes=\.\.\."):
        call_spec("network", spec, net)


def test_documentation_begins_with_a_summary():
    assert first_line(parse_spec).startswith("Split")
    assert first_line(type("Bare", (), {})) == ""
