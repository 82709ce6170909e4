"""How an exact gradient is computed: its form and its microbatches, chosen from the sizes.

Two forms give the same gradient:

    dense    products of [T,V] by [V,V] for every sequence
    tables   products of [V,V] matrices once per step, and T^2 V work per sequence (`tables`)

Costs are in multiply-adds; any other operation costs the number of multiply-adds that take the
same time. `benchmarks/exact_plan.py` compares the choice with measured times.
"""

from typing import NamedTuple

from assocjax.arguments import LARGEST_BYTES, LARGEST_DEPTH, check_choice, check_integer
from assocjax.models._tables import num_products, num_tables
from assocjax.models.attention_only import activation_budget, activation_size

FORMS = ("dense", "tables")
MEMORY_LIMIT = 4 << 30

# Costs per entry, in multiply-adds of large products, as measured on a CPU:
_PASS = 10  # of a pass over an array
_SMALL = 150  # not per entry: products of [V,V] matrices take 1 + 150 / V times as long
_SOFTMAX = 30  # of log-sum-exp and its derivative
_READ, _READ_ENTRY = 7, 180  # of a gather: as part of a row, or alone
_ADD, _ADD_ENTRY = 40, 1000  # of a scatter-add to a table: as part of a row, or alone


class ExactPlan(NamedTuple):
    """How an exact gradient is computed.

    form: "dense" or "tables".
    microbatch_size: sequences differentiated at once.
    memory: estimated peak, in bytes, including the weights and their gradient.
    work: estimated cost, in multiply-adds.
    """

    form: str
    microbatch_size: int
    memory: int
    work: float


def plan_exact_step(
    *,
    vocab_size: int,
    seq_len: int,
    num_layers: int,
    num_sequences: int,
    form: str | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    max_distinct: int | None = None,
    itemsize: int = 4,
) -> ExactPlan:
    """The cheapest plan that fits the memory; if none fits, the one with the least memory.

    Args:
      vocab_size, seq_len, num_layers, num_sequences: V, T, L and N.
      form: "dense" or "tables"; None chooses the cheaper one.
      microbatch_size: sequences differentiated at once; None chooses by memory and caches.
      memory_limit: bytes.
      max_distinct: u, the largest number of distinct tokens in a sequence; None is T.
      itemsize: bytes of a floating-point number.

    Raises:
      InputError, InputTypeError: an argument is out of range.

    Cost of the planned step, in multiply-adds:

        dense     3 N (2L-1) (T V^2 + T^2 V)
        tables    3 p V^3 + 3 N ((2^L - 1) T u V + ...)      p = 2^L + (4^L - 1) / 3 - L - 1
    """
    sizes = {
        "vocab_size": vocab_size,
        "seq_len": seq_len,
        "num_sequences": num_sequences,
    }
    V, T, N = (check_integer(name, value, minimum=1) for name, value in sizes.items())
    L = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    memory_limit = check_integer("memory_limit", memory_limit, minimum=1, maximum=LARGEST_BYTES)
    if microbatch_size is not None:
        microbatch_size = check_integer("microbatch_size", microbatch_size, minimum=1)
    u = T
    if max_distinct is not None:
        u = min(T, check_integer("max_distinct", max_distinct, minimum=1))
    itemsize = check_integer("itemsize", itemsize, minimum=1, maximum=16)
    if form is not None:
        check_choice("form", form, FORMS)
    plans = []
    for name in FORMS if form is None else (form,):
        fixed, one = (itemsize * n for n in _memory(name, V, T, L, u))
        size = microbatch_size
        if size is None:
            room = min(activation_budget(), memory_limit - fixed)
            size = min(N, max(1, room // one))
        plans.append(ExactPlan(name, size, fixed + size * one, _work(name, V, T, L, u, N, size)))
    fitting = [plan for plan in plans if plan.memory <= memory_limit]
    if fitting:
        return min(fitting, key=lambda plan: plan.work)
    return min(plans, key=lambda plan: plan.memory)


def _memory(form: str, V: int, T: int, L: int, u: int) -> tuple[int, int]:
    """Estimated array entries held per step, and per sequence of a microbatch."""
    weights = (2 * L + 1) * V * V + L * T
    if form == "dense":
        return 3 * weights, activation_size(V, T, L)
    tables = num_tables(L) * V * V
    rows, entries = 2**L * u * V, (num_tables(L) - 2**L) * u * u
    mixed = (3 * L + 2**L) * T * T
    return 2 * weights + 2 * tables + 4 * V * V, 3 * rows + 4 * T * V + 4 * entries + mixed


def _work(form: str, V: int, T: int, L: int, u: int, N: int, microbatch_size: int) -> float:
    loss = N * T * V * _SOFTMAX
    if form == "dense":
        products = 3 * N * (2 * L - 1) * (T * V * V + T * T * V) * (1 + _SMALL / V)
        passes = N * 8 * L * T * (V + T) + -(-N // microbatch_size) * 3 * (2 * L + 1) * V * V
        return products + loss + passes * _PASS
    rows, entries = (2**L - 1) * u * V, (num_tables(L) - 2**L) * u * u
    # Products with E are gathers and sums of rows: layer l has 2^(l-1) of [T,u], two of [T,T].
    mixing = T * rows + T * (entries - (2**L - 1) * u * u) + 2 * (2**L - 1 - L) * T * T * u
    of_E = ((2**L - 1) * u + 2 * L * T) * T * (_READ + _ADD)
    fixed = 3 * num_products(L) * V**3 * (1 + _SMALL / V) + 4 * num_tables(L) * V * V * _PASS
    of_rows = (rows + T * V) * (_READ + _ADD + 4 * _PASS)
    return fixed + loss + N * (3 * mixing + of_E + of_rows + entries * (_READ_ENTRY + _ADD_ENTRY))
