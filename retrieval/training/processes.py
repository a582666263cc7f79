"""Several processes, one training: what they share, and what one of them does for all. Imports torch.

Every process sees the same batches and computes the same loss. It embeds only its share of a batch's texts; the
embeddings are gathered, and the gradients, each the part that went through the process's own share, are summed. So a
batch size, a seed and a figure mean the same however many processes there are, and one of them needs none of this.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

# the others wait while the first one validates or mines; torchrun ends them all if one dies
TIMEOUT = timedelta(days=1)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, for the length of the block; alone, do nothing.

    Args:
        device: "cuda": each process takes the GPU of its local rank; "cpu".
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def n_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this process is the one that writes, validates and mines."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def from_first(make: Callable[[], T]) -> T:
    """Return what the first process makes; the others wait for it."""
    if n_processes() == 1:
        return make()
    holder: list[T | None] = [make() if is_first() else None]
    distributed.broadcast_object_list(holder, src=0)
    return holder[0]  # type: ignore[return-value]  # filled by the broadcast


def share_of(n: int, process: int | None = None) -> slice:
    """Return which of n texts a process embeds; None: this one. Shares differ by one text at most."""
    if process is None:
        process = distributed.get_rank() if distributed.is_initialized() else 0
    size, rest = divmod(n, n_processes())
    start = process * size + min(process, rest)
    return slice(start, start + size + (process < rest))


def gather_shares(share: Tensor, n: int) -> Tensor:
    """Return the embeddings of all processes; gradients flow into this process's share alone.

    Args:
        share: (size, dim) of the texts in ``share_of(n)``; for an empty share one row, which is dropped.
        n: Texts of all processes.
    Returns:
        (n, dim), in the order of the texts.
    """
    if n_processes() == 1:
        return share
    sizes = [len(range(n)[share_of(n, process)]) for process in range(n_processes())]
    sent = share.new_zeros((max(sizes), share.shape[1]))
    sent[: len(share)] = share.detach()
    parts = [torch.empty_like(sent) for _ in sizes]
    distributed.all_gather(parts, sent)
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    own = distributed.get_rank()
    parts[own] = share[: sizes[own]]
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up each parameter's gradients over the processes, in place."""
    if n_processes() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    works = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for work in works:
        work.wait()
