"""Models by name: those of the package, and those that users register."""

from typing import TYPE_CHECKING

from assocjax.arguments import Registry

if TYPE_CHECKING:
    from assocjax.models.model import Model

MODEL = "attention-only"
"""The model by default, that of the paper."""

_REGISTRY: "Registry[Model]" = Registry(
    "model",
    "assocjax.models.model:Model",
    {
        "attention-only": "assocjax.models.paper",
        "factored": "assocjax.models.factored",
        "neox": "assocjax.models.decoder",
        "llama": "assocjax.models.decoder",
        "gpt2": "assocjax.models.decoder",
    },
)

register_model = _REGISTRY.register
get_model = _REGISTRY.get
