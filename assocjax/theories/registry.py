"""Theories by name: those of the package, and those that users register."""

from typing import TYPE_CHECKING, Any

from assocjax.arguments import Registry
from assocjax.errors import InputError

if TYPE_CHECKING:
    from assocjax.theories.theory import Theory

THEORIES = ("leading", "effective", "leading-factored")
"""The theories that a sweep compares by default, where they apply to its model."""

ANOTHER_RUN = "another-run"
"""The name of a real run in the place of a theory."""

_TWINS = (*(f"twin-{order}" for order in range(8)), *(f"twin-{order}-mean" for order in range(3)))

_REGISTRY: "Registry[Theory]" = Registry(
    "theory",
    "assocjax.theories.theory:Theory",
    {
        "leading": "assocjax.theories.leading",
        "effective": "assocjax.theories.effective",
        "leading-factored": "assocjax.theories.leading_factored",
        "taylor": "assocjax.theories.taylor",
        ANOTHER_RUN: "assocjax.theories.another_run",
        **dict.fromkeys(_TWINS, "assocjax.theories.twins"),
    },
)

register_theory = _REGISTRY.register
get_theory = _REGISTRY.get
theory_names = _REGISTRY.names


def default_theories(model: Any, optimizer: Any) -> tuple[str, ...]:
    """Those of `THEORIES` that apply to a model and an optimizer."""

    def applies(name: str) -> bool:
        try:
            get_theory(name).check(model, optimizer)
        except InputError:
            return False
        return True

    return tuple(filter(applies, THEORIES))
