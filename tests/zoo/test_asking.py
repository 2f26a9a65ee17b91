"""The small language of ``zoo.where``."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.errors import UnknownName, UserError
from thrifty.zoo.asking import rows_where
from thrifty.zoo.table import Table, column_of

TABLE = Table(
    {
        "model": np.arange(4),
        "act": column_of(["tanh", "relu", "tanh", "gelu"]),
        "lr": np.array([1e-3, 1e-4, float(np.float32(1e-4)), np.nan]),
        "seed": np.array([1, 2, 3, (1 << 64) - 1], np.uint64),
        "diverged": np.array([False, False, True, False]),
    }
)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("act == 'tanh' and lr > 5e-4", [0]),
        ("act != 'tanh'", [1, 3]),
        ("lr == 1e-4", [1, 2]),
        ("lr > 1e-4", [0]),
        ("lr in (1e-4, 1e-3)", [0, 1, 2]),
        ("lr not in [1e-4]", [0, 3]),
        ("lr != lr", [3]),
        ("diverged", [2]),
        ("not diverged or model == 2", [0, 1, 2, 3]),
        ("diverged == True", [2]),
        ("1 <= model < 3", [1, 2]),
        ("model > -1", [0, 1, 2, 3]),
        ("model >= 2.5", [3]),
        ("seed == 18446744073709551615", [3]),
        ("seed > -1", [0, 1, 2, 3]),
        ("act in ('relu', 'gelu') and not (model == 3)", [1]),
        ("act in ()", []),
        ("True", [0, 1, 2, 3]),
        (" model == 0 ", [0]),
        ("'tanh' == act", [0, 2]),
    ],
)
def test_an_expression_finds_the_rows_of_which_it_holds(expression, rows):
    assert np.flatnonzero(rows_where(TABLE, expression)).tolist() == rows


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("lr >", "cannot be read"),
        ("", "cannot be read"),
        ("model = 3", "cannot be read"),
        ("act", "neither true nor false"),
        ("3", "neither true nor false"),
        ("act > 'a'", "has no order"),
        ("act == 3", "another kind"),
        ("lr == '1e-4'", "another kind"),
        ("model in act", "a list belongs"),
        ("model is 3", "write == or !="),
        ("__import__('os').system('true')", "is not understood"),
        ("model.real == 3", "is not understood"),
        ("model + 1 == 3", "is not understood"),
        ("act[0] == 't'", "is not understood"),
        ("(lambda: 1)() == 1", "is not understood"),
        ("[m for m in model]", "is not understood"),
        ("f'{model}' == 'a'", "is not understood"),
        ("model == 10 ** 10 ** 10", "is not understood"),
        ("model == 1" + "0" * 30, "more than any column"),
        ("model == None", "is not understood"),
        ("model == 1j", "is not understood"),
        ("(" * 1000 + "1" + ")" * 1000, "cannot be read"),
        ("not " * 2000 + "diverged", "cannot be read"),
        ("model == 1 or " * 1000 + "diverged", "at most 10,000 characters"),
        ("model == 1\x00", "cannot be read"),
    ],
)
def test_anything_else_is_refused_and_said(expression, message):
    with pytest.raises(UserError, match=message):
        rows_where(TABLE, expression)


def test_an_unknown_column_is_suggested_and_quotes_are_told_of():
    with pytest.raises(UnknownName, match=r"no such column; did you mean act\?.*in quotes: 'akt'"):
        rows_where(TABLE, "akt == 'tanh'")


@given(st.text(alphabet="model=<>! '\"andortic()[]0123.-+*/:,{}@\\\n", max_size=40))
@settings(deadline=None)
def test_any_text_gives_rows_or_an_error_of_ours(text):
    try:
        found = rows_where(TABLE, text)
    except UserError:
        return
    assert found.shape == (4,) and found.dtype == np.bool_
