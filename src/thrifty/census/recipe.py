"""A recipe of a look: which networks, which thresholds, by which convention."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from thrifty.census.looking import MOST_THRESHOLDS, UNDER
from thrifty.lab.prune_table import Table
from thrifty.lab.recipe import identity, validated
from thrifty.registry import Spec, parse_spec

PUBLISHED = ("weights", "pretrained")
"""Options by which networks of torchvision, Keras and timm are asked for published weights."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Look(Table):
    """What is looked at, and how."""

    sources: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    """Files, folders, hf:ORG/REPO, networks by name; as for ``thrifty look``."""
    under: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
        BeforeValidator(_listed),
        Field(min_length=1, max_length=MOST_THRESHOLDS),
    ] = UNDER
    """Thresholds of |w|."""
    counted: Literal["both", "weights", "parameters", "all"] = "both"
    fold_bn: bool = False
    """Fold each batch normalisation into the weights before it first."""
    relative: bool = False
    """Count under multiples of each tensor's standard deviation as well."""
    pretrained: bool = True
    """False leaves out ``weights=`` and ``pretrained=`` of the sources: networks as built."""

    def named(self) -> tuple[str, ...]:
        """The sources, without what asks for published weights if they are not wanted."""
        if self.pretrained:
            return self.sources
        return tuple(_as_built(text) if "?" in text else text for text in self.sources)

    def arguments(self) -> dict[str, Any]:
        """What :func:`thrifty.look` takes beside the sources."""
        names = ("under", "counted", "fold_bn", "relative")
        return {name: getattr(self, name) for name in names}


class LookRecipe(Table):
    """A recipe with the key ``look``."""

    look: Look

    @property
    def identity(self) -> str:
        """12 hex digits that name what this recipe decides."""
        return identity("look", self.model_dump(mode="json", exclude_defaults=True))

    def to_yaml(self) -> str:
        """The whole recipe as YAML, defaults included."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def make_look(values: Mapping[str, Any], where: str) -> LookRecipe:
    """The recipe that ``values`` say.

    Raises:
        UserError: with every mistake, its place and what is allowed there.
    """
    return validated(LookRecipe, values, where, {})


def _as_built(text: str) -> str:
    spec = parse_spec(text)
    kept = {k: v for k, v in spec.options.items() if k not in PUBLISHED}
    return str(Spec(spec.name, kept))
