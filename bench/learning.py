"""What learning costs: our policies beside the peers' and beside this machine's limits.

    python bench/learning.py [--repeats 5] [--only [act] [loading] [diffusion]]
        [--act-source DIR] [--out DIR]

CPU seconds of one thread (``time.process_time``), median after warm-up, so that other work on
the machine disturbs little. Peers' figures are those measured on a machine of this kind
(2 vCPUs, Xeon with AMX) from their public sources: LeRobot 0.6.2 and tonyzhaozh/act. With
``--act-source``, a checkout of tonyzhaozh/act, the original model is timed in this very run
as well; it needs torchvision.

ACT: camera 480x640, ResNet-18, state and action of 14, chunk of 100; width 512, feed-forward
3200, 4 encoder layers. "1 decoder layer" is LeRobot's model, "7" the original. bf16 means
autocast with weights and images channels last. Loading: 3 cameras of 480x640 out of frames as
the frame cache keeps them, with a chunk of 100. Diffusion: the Push-T size of the paper, one
96x96 camera cropped to 84, 2 observations, 16 rows, U-Net 512-1024-2048.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread is what is measured
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from policies.act import PUBLISHED, ActNet
from policies.diffusion import DiffusionConfig, DiffusionNet
from policies.family import Batch, Family, Inputs, Shapes
from policies.preprocess import Preprocessor
from policies.windows import Frames, Rows, WindowSet

HEIGHT, WIDTH = 480, 640
ACT_SHAPES = Shapes(14, 14, 100, 1, 1, HEIGHT, WIDTH)
ACT_CONFIG = replace(PUBLISHED, decoder_layers=1)
ACT_BATCH = 8
PUSHT_SHAPES = Shapes(2, 2, 16, 2, 1, 84, 84)
PUSHT_CONFIG = DiffusionConfig(
    encoder="resnet18", denoiser="unet", unet_sizes=(512, 1024, 2048), inference_steps=10
)
PUSHT_BATCH = 64
WARM_UP = 3
"""Runs that do not count: in the first two the allocator still asks the system for pages."""
PARTS = ("act", "loading", "diffusion")


@dataclass(frozen=True)
class Row:
    """One line of the table; all times in ms of CPU."""

    what: str
    ours_ms: float
    peer_ms: float | None = None
    peer: str = ""

    def __str__(self) -> str:
        peer = "" if self.peer_ms is None else f"{self.peer_ms:10.1f}"
        ratio = "" if self.peer_ms is None else f"{self.peer_ms / self.ours_ms:5.1f}"
        return f"{self.what:50} {self.ours_ms:10.1f} {peer:>10} {ratio:>5}  {self.peer}"


def cpu_ms(work: Callable[[], object], repeats: int, warm_up: int = WARM_UP) -> float:
    """Median CPU time of one call."""
    for _ in range(warm_up):
        work()
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - begin))
    return statistics.median(taken)


# -- the machine --------------------------------------------------------------------------


def limits(repeats: int) -> list[str]:
    """What one thread can do at most."""
    lines = []
    for kind in (torch.float32, torch.bfloat16):
        square = torch.randn(2048, 2048).to(kind)
        taken_ms = cpu_ms(lambda square=square: square @ square, repeats)  # type: ignore[misc]
        gflop = 2 * 2048**3 / 1e9
        lines.append(f"matrix product, {str(kind)[6:]}: {gflop / taken_ms * 1000:.0f} GFLOP/s")
    source = np.ones(256 << 20, np.uint8)
    target = np.zeros_like(source)
    taken_ms = cpu_ms(lambda: np.copyto(target, source), repeats)
    lines.append(f"copy of memory: {source.nbytes / 1e6 / taken_ms:.1f} GB/s")
    return lines


# -- policies -----------------------------------------------------------------------------


def noise_batch(shapes: Shapes, size: int) -> Batch:
    """Random inputs and actions; images channels last, as the preprocessor gives them."""
    frames = (size, shapes.history, shapes.cameras, shapes.height, shapes.width, 3)
    images = torch.randn(frames).movedim(-1, 3)
    inputs = Inputs(torch.randn(size, shapes.history, shapes.state), images)
    actions = torch.rand(size, shapes.chunk_rows, shapes.action) * 2 - 1
    return Batch(inputs, actions, torch.ones(size, shapes.chunk_rows))


@contextmanager
def precision(network: Family, bf16: bool) -> Iterator[None]:
    """Full precision, or bf16 autocast with channels last."""
    layout = torch.channels_last if bf16 else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        yield


def train_ms(network: Family, size: int, bf16: bool, repeats: int) -> float:
    """One optimiser step on a batch that is there already."""
    batch = noise_batch(network.shapes, size)
    optimiser = torch.optim.AdamW(network.train().parameters(), 1e-5, fused=True)

    def step() -> None:
        with precision(network, bf16):
            loss = network.loss(batch)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return cpu_ms(step, repeats)


def plan_ms(network: Family, bf16: bool, repeats: int) -> float:
    """One chunk for one observation."""
    inputs = noise_batch(network.shapes, 1).inputs
    with precision(network.eval(), bf16), torch.no_grad():
        return cpu_ms(lambda: network.plan(inputs), repeats)


def act_rows(repeats: int) -> Iterator[Row]:
    """ACT, training and inference."""
    lerobot = ActNet(ACT_SHAPES, ACT_CONFIG)
    size = f"batch {ACT_BATCH}"
    for bf16, peer_ms in ((False, 12_500), (True, 3_600)):
        taken_ms = train_ms(lerobot, ACT_BATCH, bf16, repeats)
        what = f"act step, {size}, 1 decoder layer, {_named(bf16)}"
        yield Row(what, taken_ms, peer_ms, f"LeRobot, {_named(bf16)}")
    original = ActNet(ACT_SHAPES, PUBLISHED)
    taken_ms = train_ms(original, ACT_BATCH, True, repeats)
    what = f"act step, {size}, 7 decoder layers, bf16"
    yield Row(what, taken_ms, 12_200, "original, float32")
    group = ActNet(ACT_SHAPES, replace(ACT_CONFIG, norm="group"))
    taken_ms = train_ms(group, ACT_BATCH, True, repeats)
    yield Row(f"act step, {size}, 1 decoder layer, GroupNorm, bf16", taken_ms)
    for cameras, peer_ms in ((1, 435), (3, 1341)):
        network = ActNet(replace(ACT_SHAPES, cameras=cameras), ACT_CONFIG)
        for bf16 in (False, True):
            what = f"act chunk, {cameras} camera(s), {_named(bf16)}"
            taken_ms = plan_ms(network, bf16, 2 * repeats)
            yield Row(what, taken_ms, peer_ms, "LeRobot, float32")


def diffusion_rows(repeats: int) -> Iterator[Row]:
    """Diffusion Policy at the paper's Push-T size."""
    network = DiffusionNet(PUSHT_SHAPES, PUSHT_CONFIG)
    for bf16 in (False, True):
        taken_ms = plan_ms(network, bf16, repeats)
        what = f"diffusion chunk, DDIM 10, {_named(bf16)}"
        yield Row(what, taken_ms, 1_680, "LeRobot, float32")
    for bf16 in (False, True):
        taken_ms = train_ms(network, PUSHT_BATCH, bf16, min(repeats, 2))
        what = f"diffusion step, batch {PUSHT_BATCH}, {_named(bf16)}"
        yield Row(what, taken_ms, 16_600, "LeRobot, float32")


def _named(bf16: bool) -> str:
    return "bf16" if bf16 else "float32"


# -- data ---------------------------------------------------------------------------------


def loading_rows(repeats: int, folder: Path, episodes: int = 2, length: int = 120) -> Iterator[Row]:
    """Batches of 8 windows out of memory-mapped frames."""
    rng = np.random.default_rng(0)
    parts = [_episode(folder, episode, length, rng) for episode in range(episodes)]
    windows = WindowSet(parts, 100)
    process = Preprocessor(windows.statistics(), torch.device("cpu"))
    size = 8

    def load() -> object:
        return windows.windows(windows.sample(rng, size))

    def prepare() -> object:
        return process.batch(windows.windows(windows.sample(rng, size)))

    plain_ms = cpu_ms(load, 4 * repeats) / size
    yield Row("sample, uint8 batch", plain_ms, 33, "LeRobot, torchcodec, uint8")
    whole_ms = cpu_ms(prepare, 4 * repeats) / size
    yield Row("sample, normalised float32 tensors", whole_ms, 28, "original, raw HDF5, float32")
    frames = np.ones((3, HEIGHT, WIDTH, 3), np.uint8)
    target = np.zeros_like(frames)
    copy_ms = cpu_ms(lambda: np.copyto(target, frames), 10 * repeats)
    yield Row("  the least: one copy of its pixels", copy_ms)


def _episode(folder: Path, episode: int, length: int, rng: np.random.Generator) -> Rows:
    """Random rows; three cameras at half the rows' rate, in files as the frame cache's."""
    frames = []
    index = np.arange(length) // 2
    for camera in range(3):
        path = folder / f"{episode}_{camera}.npy"
        np.save(path, rng.integers(0, 255, (length // 2, HEIGHT, WIDTH, 3), np.uint8))
        frames.append(Frames(np.load(path, mmap_mode="r"), index))
    columns = rng.normal(size=(2, length, 14))
    return Rows(columns[0], columns[1], np.arange(length), frames=tuple(frames))


# -- the original -------------------------------------------------------------------------


def original_rows(source: Path, repeats: int) -> Iterator[Row]:
    """tonyzhaozh/act's own model, as its training script builds it, in float32."""
    model = _original_model(source)
    qpos, images = torch.randn(ACT_BATCH, 14), torch.randn(ACT_BATCH, 1, 3, HEIGHT, WIDTH)
    actions = torch.randn(ACT_BATCH, 100, 14)
    padding = torch.zeros(ACT_BATCH, 100, dtype=torch.bool)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def step() -> None:
        guess, _, (mean, log_variance) = model(qpos, images, None, actions, padding)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        loss: Tensor = (guess - actions).abs().mean() + 10 * kl
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    original_ms = cpu_ms(step, repeats)
    ours = ActNet(ACT_SHAPES, PUBLISHED)
    ours_ms = train_ms(ours, ACT_BATCH, True, repeats)
    yield Row("act step, 7 layers, bf16", ours_ms, original_ms, "original, in this run")
    model.eval()
    with torch.inference_mode():
        original_ms = cpu_ms(lambda: model(qpos[:1], images[:1], None), 2 * repeats)
    ours_ms = plan_ms(ours, True, 2 * repeats)
    yield Row("act chunk, 7 layers, bf16", ours_ms, original_ms, "original, in this run")


def _original_model(source: Path) -> torch.nn.Module:
    # torchvision's wheels are built for CUDA; on a CPU build of torch it imports once the
    # schemas of its C++ operators are declared, which the ResNet does not use.
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    sys.modules["IPython"] = types.ModuleType("IPython")  # imported for a debugging prompt only
    setattr(sys.modules["IPython"], "embed", None)  # noqa: B010
    sys.path[:0] = [str(source), str(source / "detr")]
    from models import backbone  # type: ignore[import-not-found]
    from models.detr_vae import build  # type: ignore[import-not-found]

    backbone.is_main_process = lambda: False  # which downloads ImageNet weights

    options = argparse.Namespace(
        hidden_dim=512,
        position_embedding="sine",
        lr_backbone=1e-5,
        masks=False,
        backbone="resnet18",
        dilation=False,
        dropout=0.1,
        nheads=8,
        dim_feedforward=3200,
        enc_layers=4,
        dec_layers=7,
        pre_norm=False,
        num_queries=100,
        camera_names=["top"],
    )
    model: torch.nn.Module = build(options)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--act-source", type=Path, help="checkout of tonyzhaozh/act to run too")
    parser.add_argument("--out", type=Path, help="folder for frames; default: a temporary one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}; one thread"
    )
    print("\n".join(limits(args.repeats)))
    print(f"\n{'CPU ms':50} {'ours':>10} {'peer':>10} {'ratio':>5}  peer")
    with tempfile.TemporaryDirectory(prefix="bench-learning-", dir=args.out) as folder:
        measured = {
            "act": lambda: act_rows(args.repeats),
            "loading": lambda: loading_rows(args.repeats, Path(folder)),
            "diffusion": lambda: diffusion_rows(args.repeats),
        }
        for part in args.only:
            for row in measured[part]():
                print(row, flush=True)
    if args.act_source is not None:
        for row in original_rows(args.act_source, args.repeats):
            print(row, flush=True)


if __name__ == "__main__":
    main()
