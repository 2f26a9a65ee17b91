"""Disjoint sets of atoms."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from thrifty.channels.labels import compact, row, varying
from thrifty.channels.ties import FIXED, Ties


def atoms(*numbers):
    return torch.tensor(numbers)


def together(ties, a, b):
    return int(ties.roots(atoms(a).numpy())[0]) == int(ties.roots(atoms(b).numpy())[0])


def test_tied_atoms_have_one_root_and_others_do_not():
    ties = Ties(10)
    ties.tie(atoms(1, 2, 3), atoms(4, 5, 6))
    assert together(ties, 1, 4)
    assert together(ties, 3, 6)
    assert not together(ties, 1, 5)
    assert not together(ties, 1, 7)


def test_tying_is_passed_on():
    ties = Ties(10)
    ties.tie(atoms(1), atoms(2))
    ties.tie(atoms(3), atoms(4))
    ties.tie(atoms(2), atoms(3))
    assert together(ties, 1, 4)


def test_atoms_broadcast_as_tensors_do():
    ties = Ties(10)
    ties.tie(atoms(1), atoms(2, 3, 4))
    assert together(ties, 2, 4)


def test_what_meets_a_fixed_atom_is_fixed_and_says_why():
    ties = Ties(10)
    ties.tie(atoms(1, 2), atoms(FIXED, 3), "add in here")
    (fixed, why), *rest = ties.fixed
    assert fixed.tolist() == [1]
    assert why == "add in here joins them with what no layer makes"
    assert rest == []
    assert together(ties, 2, 3)


def test_atoms_along_a_dimension_become_one():
    ties = Ties(10)
    first = ties.tie_along(torch.arange(1, 7).reshape(2, 3), 1)
    assert first.tolist() == [[1], [4]]
    assert together(ties, 1, 3)
    assert not together(ties, 3, 4)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=40))
def test_sets_are_those_of_the_definition(pairs):
    ties = Ties(31)
    sets = {n: {n} for n in range(1, 31)}
    for a, b in pairs:
        ties.tie(atoms(a), atoms(b))
        joined = sets[a] | sets[b]
        for n in joined:
            sets[n] = joined
    roots = ties.all_roots()
    for n in range(1, 31):
        assert {m for m in range(1, 31) if roots[m] == roots[n]} == sets[n]


def test_a_facet_is_kept_small():
    wide = row(torch.arange(1, 4), 3, 1).expand(2, 3, 5)
    assert compact(wide).shape == (1, 3, 1)
    assert varying(compact(wide)) == (1,)
    assert compact(torch.full((4, 4), 7)).shape == (1, 1)
