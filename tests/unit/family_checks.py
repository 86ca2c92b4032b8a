"""Small batches and short trainings for the tests of network families."""

import torch
from torch import Tensor

from policies.family import Batch, Family, Inputs, Shapes


def made_up_batch(shapes: Shapes, size: int = 4) -> Batch:
    """Noise of the right shapes; actions within [-1, 1]; every row counts."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    seen = (shapes.cameras, 3, shapes.height, shapes.width)
    inputs = Inputs(
        noise(size, shapes.history, shapes.state),
        noise(size, shapes.history, *seen) if shapes.cameras else None,
        noise(size, shapes.text) if shapes.text else None,
    )
    actions = noise(size, shapes.chunk_rows, shapes.action).clamp(-1, 1)
    return Batch(inputs, actions, torch.ones(size, shapes.chunk_rows))


def fit(network: Family, batch: Batch, steps: int, learning_rate: float = 2e-3) -> list[float]:
    """Learn one batch by heart; the loss of every step."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate)
    losses = []
    for _ in range(steps):
        loss = network.loss(batch)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    network.eval()
    return losses


def fork(shapes: Shapes, size: int, learn_seed: int) -> Batch:
    """Every second sample goes left, the others right, over the whole chunk.

    The way is nowhere in the state: all columns follow one arc, each with another sign.
    """
    generator = torch.Generator().manual_seed(learn_seed)
    side = 1.0 - 2.0 * (torch.arange(size) % 2)
    state = 0.3 * torch.randn(size, shapes.history, shapes.state, generator=generator)
    actions = side[:, None, None] * arc(shapes)
    return Batch(Inputs(state), actions, torch.ones(size, shapes.chunk_rows))


def arc(shapes: Shapes) -> Tensor:
    """The right-hand way of the fork, shape (K, A)."""
    time = (torch.arange(shapes.chunk_rows) + 0.5) / shapes.chunk_rows
    sign = 1.0 - 2.0 * (torch.arange(shapes.action) % 2)
    return 0.4 * (1 + torch.sin(torch.pi * time))[:, None] * sign


def ways_taken(network: Family, shapes: Shapes, size: int = 200) -> tuple[float, float]:
    """Part of planned chunks within 0.15 of one way, and of these the part to the right."""
    generator = torch.Generator().manual_seed(7)
    state = 0.3 * torch.randn(size, shapes.history, shapes.state, generator=generator)
    with torch.no_grad():
        chunks = network.plan(Inputs(state), generator)
    right, left = ((chunks - way).abs().amax((1, 2)) < 0.15 for way in (arc(shapes), -arc(shapes)))
    taken = (right | left).sum().item()
    return taken / size, right.sum().item() / max(1, taken)
