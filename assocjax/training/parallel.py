"""The exact gradient of one batch, its sequences divided among devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike, Float

from assocjax.arguments import check_is, check_string
from assocjax.checks import CorpusLike, is_hidden
from assocjax.errors import InputError
from assocjax.models.exact import count_distinct
from assocjax.models.model import Model
from assocjax.models.registry import MODEL, get_model


def data_parallel_loss_and_gradient(
    params: Any,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    model: str | Model = MODEL,
    mesh: Mesh,
    axis: str = "data",
    microbatch_size: int | None = None,
    max_distinct: int | None = None,
) -> tuple[Float[Array, ""], Any]:
    """`Model.loss_and_gradient` with the sequences divided among the devices of a mesh.

    If device d has M_d of the M valid positions, and the loss L_d and gradient dL_d of these,

        L = sum_d (M_d / M) L_d        dL = sum_d (M_d / M) dL_d

        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        loss, gradient = data_parallel_loss_and_gradient(params, data, mesh=mesh)

    Args:
      params, data, mask, microbatch_size, max_distinct: as in `exact_gradient`.
      model: a `Model` or its name.
      mesh: devices of one process, or of several (then `data` and `mask` are global arrays).
      axis: the axis of the mesh along which sequences are divided; along other axes, devices
        repeat the work.

    Returns:
      Loss and gradient, the same on every device.

    Raises:
      InputError, InputTypeError: as `exact_gradient`; or the mesh has no such axis.

    Cost: each device computes ceil(N / devices) sequences, then all gradients are summed once. In
    the form "tables" each device computes all tables, so small batches gain little.
    """
    net = get_model(model)
    tokens, mask = net.check_batch(params, data, mask)
    check_is("mesh", mesh, Mesh)
    check_string("axis", axis)
    if axis not in mesh.shape:
        raise InputError(f"mesh must have an axis {axis!r}; got axes {tuple(mesh.shape)}")
    if max_distinct is None and not is_hidden(data):
        max_distinct = count_distinct(data)
    padding = -len(tokens) % mesh.shape[axis]
    tokens, mask = (jnp.pad(a, ((0, padding), (0, 0))) for a in (tokens, mask))

    def of_device(params, tokens, mask):
        found = net.loss_and_gradient(
            params, tokens, mask, microbatch_size=microbatch_size, max_distinct=max_distinct
        )
        valid = jnp.sum(mask).astype(found[0].dtype)
        share = valid / jnp.maximum(lax.psum(valid, axis), 1)
        return lax.psum(jax.tree.map(lambda a: share * a, found), axis)

    whole, divided = PartitionSpec(), PartitionSpec(axis)
    return jax.shard_map(
        of_device,
        mesh=Mesh(mesh.devices, mesh.axis_names),  # with automatic axes
        in_specs=(whole, divided, divided),
        out_specs=whole,
        check_vma=False,
    )(params, tokens, mask)
