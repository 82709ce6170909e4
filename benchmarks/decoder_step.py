"""How long does a training step of a decoder take, against PyTorch?

    OMP_NUM_THREADS=2 python benchmarks/decoder_step.py
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/decoder_step.py --of-all-cores

A step is loss, gradient, clipping and AdamW, by the recipe of `pretrain-tiny`, of a GPT-NeoX

- of ours, in JAX;
- of transformers, in PyTorch (where installed), from the same weights, on the same batch;
- of ours, of several runs at once by `vmap`, against as many single steps.

The second form counts the seconds of the cores, of which other work on the machine takes none.
Sides take turns. Prints the ratios of time (median of repeats), and how far the losses of the first
step agree, and writes the same as JSON.
"""

import importlib.util
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import TORCH, device, finish, in_turn, parser, random_tokens, ratio

from assocjax import llm
from assocjax.llm import recipe

COMPARED = TORCH and importlib.util.find_spec("transformers") is not None


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--vocab-size", type=int, default=1024)
    options.add_argument("--seq-len", type=int, default=64)
    options.add_argument("--num-layers", type=int, default=4)
    options.add_argument("--width", type=int, default=96)
    options.add_argument("--heads", type=int, default=4)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--runs", type=int, default=4, help="number of runs at once")
    options.add_argument("--repeats", type=int, default=20)
    options.add_argument("--of-all-cores", action="store_true", help="seconds of the cores")
    options = options.parse_args(arguments)
    V, T, L, d = options.vocab_size, options.seq_len, options.num_layers, options.width
    H, N, runs, repeats = options.heads, options.batch_size, options.runs, options.repeats
    if options.small:
        V, T, L, d, H, N, runs, repeats = 20, 4, 1, 16, 2, 2, 2, 2
    config = llm.PretrainConfig(seq_len=T, batch_size=N, num_layers=L, width=d, num_heads=H)
    model, params = recipe.initial_model(config, V)
    optimizer = recipe.make_optimizer(config.learning_rate, config.steps)
    batch = random_tokens(N, T, V)
    update = recipe.make_update(model, optimizer)
    # Every step goes on from the last one, since it uses its memory again.
    copies = jax.tree.map(jnp.copy, [params] * (runs + 1))
    carries = [(copy, optimizer.init(copy)) for copy in copies]
    losses = []

    def single(run: int):
        *carry, loss = update(*carries[run], batch)
        carries[run] = tuple(carry)
        losses.append(loss)
        return loss

    together = jax.jit(jax.vmap(update, in_axes=(0, 0, None)), donate_argnums=(0, 1))
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries[1:])]

    def at_once():
        *carry, loss = together(*stacked[0], batch)
        stacked[0] = tuple(carry)
        return loss

    sides = {
        "ours": lambda: single(0),
        "one by one": lambda: [single(run) for run in range(1, runs + 1)],
        "at once": at_once,
    }
    result = {"vocab_size": V, "seq_len": T, "num_layers": L, "width": d, "batch_size": N}
    result |= {"runs": runs}
    if COMPARED:
        sides["torch"], first_loss, result["threads"] = torch_step(model, params, batch)
    clock = time.process_time if options.of_all_cores else time.perf_counter
    seconds = in_turn(sides, repeats, clock)
    print(f"L={L}, d={d}, V={V}, T={T}, {N} sequences on {device()}")
    result["ours_s"] = float(np.median(seconds["ours"]))
    print(f"a step: {1e3 * result['ours_s']:.1f} ms")
    result["at_once_to_one_by_one"] = ratio(seconds["at once"], seconds["one by one"])
    print(f"{runs} runs at once / one by one: {result['at_once_to_one_by_one']:.2f}")
    if COMPARED:
        result["ours_to_torch"] = ratio(seconds["ours"], seconds["torch"])
        result["loss_difference"] = abs(float(losses[0]) - first_loss[0])
        print(f"ours / PyTorch, {result['threads']} threads: {result['ours_to_torch']:.2f}")
        print(f"difference of the first losses: {result['loss_difference']:.0e}")
    return finish(result, options.out)


def torch_step(model, params, batch):
    """A step in PyTorch, a list with its first loss once it has run, and its number of threads."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        llm.save_decoder(folder, model, params)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).train()
    weights = list(theirs.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": 0.1},
        {"params": [w for w in weights if w.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    tokens, losses = torch.tensor(batch).long(), []

    def step():
        z = theirs(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(z.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())

    return step, losses, torch.get_num_threads()


if __name__ == "__main__":
    main()
