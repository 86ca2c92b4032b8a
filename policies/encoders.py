"""Image encoders and the vector a head is conditioned on.

Two encoders: a small convolution stack that a CPU core can train, and ResNet-18 from MONAI,
whose layer names are those of torchvision, so that ImageNet weights load from a local file.
Norms are GroupNorm, because BatchNorm's running means do not survive small batches and EMA
(Chi et al. 2023), or BatchNorm with fixed statistics for pretrained weights (as DETR and ACT).
The small stack has none unless asked for (``--small-norm``).
A spatial softmax (Levine et al. 2016) reports where in the image each feature sits.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  (what weights_only raises)
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from policies.family import FamilyConfig, Inputs, NormName, Shapes
from teleop.errors import PolicyError

RESNET_STRIDE = 32
SMALL_STRIDE = 4
UNREADABLE = (
    *(SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError),
    *(IndexError, KeyError, TypeError, ValueError, AttributeError),
)
"""What reading a file of something else raises: torch's unpickler does not check much."""
GROUP_CHANNELS = 16
"""Channels of one GroupNorm group, as in diffusion_policy's vision encoder, or nearly."""


class SpatialSoftmax(nn.Module):
    """Expected position of each feature map, (B, F, h, w) -> (B, 2F), in [-1, 1]."""

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height, device=features.device),
            torch.linspace(-1, 1, width, device=features.device),
            indexing="ij",
        )
        grid = torch.stack([x.reshape(-1), y.reshape(-1)], 1)  # (hw, 2)
        weights = features.flatten(2).float().softmax(-1)  # (B, F, hw)
        return (weights @ grid).flatten(1)


class ImageEncoder(nn.Module):
    """One camera: (B, 3, H, W) -> feature maps, (B, channels, H / stride, W / stride)."""

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__()
        features = config.features
        self.trunk: nn.Module
        if config.encoder == "resnet18":
            self.trunk = _ResNetTrunk(config.norm)
            self.channels = 512
            self.stride = RESNET_STRIDE
        else:
            norm = [_group_norm(features)] if config.small_norm else []
            self.trunk = nn.Sequential(
                nn.Conv2d(3, features, 8, stride=SMALL_STRIDE, padding=2),
                *norm,
                nn.ReLU(),
                nn.Conv2d(features, features, 3, padding=1),
                *[_group_norm(features) for _ in norm],
                nn.ReLU(),
                nn.Conv2d(features, features, 3, padding=1),
            )
            self.channels = features
            self.stride = SMALL_STRIDE

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.trunk(images))


class ImagePositions(nn.Module):
    """Where in the image its features lie: maps (B, channels, h, w) -> (B, 2 * features)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        same = channels == features
        self.reduce = nn.Identity() if same else nn.Conv2d(channels, features, 1)
        self.softmax = SpatialSoftmax()

    def forward(self, maps: Tensor) -> Tensor:
        return cast(Tensor, self.softmax(self.reduce(maps)))


class _ResNetTrunk(nn.Module):
    """ResNet-18 (He et al. 2016) without its pooling and classifier."""

    def __init__(self, norm: NormName) -> None:
        super().__init__()
        from monai.networks.nets.resnet import resnet18  # takes two seconds to import

        self.net = resnet18(
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_size=7,
            conv1_t_stride=2,
            bias_downsample=False,
            feed_forward=False,
        )
        _replace_norms(self.net, norm)

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        x = net.maxpool(net.act(net.bn1(net.conv1(images))))
        return cast(Tensor, net.layer4(net.layer3(net.layer2(net.layer1(x)))))


class FrozenBatchNorm(nn.Module):
    """BatchNorm that keeps the statistics it was trained with."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        # In the maps' own precision: float32 here would turn bfloat16 maps back into float32.
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = max(1, channels // GROUP_CHANNELS)
    return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)


def _replace_norms(module: nn.Module, norm: NormName) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            frozen = norm == "frozen_batch"
            setattr(module, name, FrozenBatchNorm(channels) if frozen else _group_norm(channels))
        else:
            _replace_norms(child, norm)


class CameraEncoders(nn.Module):
    """One encoder per camera, or one for all."""

    def __init__(self, shapes: Shapes, config: FamilyConfig) -> None:
        super().__init__()
        self.cameras = shapes.cameras
        count = min(1, shapes.cameras) if config.share_encoder else shapes.cameras
        self.encoders = nn.ModuleList(ImageEncoder(config) for _ in range(count))

    def of(self, camera: int) -> ImageEncoder:
        """The encoder that looks through a camera."""
        return cast(ImageEncoder, self.encoders[camera % len(self.encoders)])


class ObservationEncoder(nn.Module):
    """Everything the policy sees as one vector per observation of the history."""

    def __init__(self, shapes: Shapes, config: FamilyConfig) -> None:
        super().__init__()
        self.shapes = shapes
        self.cameras = CameraEncoders(shapes, config)
        self.positions = nn.ModuleList(
            ImagePositions(self.cameras.of(number).channels, config.features)
            for number in range(len(self.cameras.encoders))
        )
        seen = 2 * config.features * shapes.cameras
        self.size = shapes.state + seen + shapes.text
        """Columns of one observation's vector, F."""

    def forward(self, inputs: Inputs) -> Tensor:
        """Shape (B, n, F)."""
        batch, history = inputs.state.shape[:2]
        parts = [inputs.state]
        if inputs.images is not None:
            flat = inputs.images.flatten(0, 1)  # (B n, C, 3, H, W)
            for camera in range(self.shapes.cameras):
                maps = self.cameras.of(camera)(flat[:, camera])
                seen = self.positions[camera % len(self.positions)](maps)
                parts.append(seen.view(batch, history, -1))
        if inputs.text is not None:
            parts.append(inputs.text[:, None].expand(-1, history, -1))
        return torch.cat(parts, -1)


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Give every ResNet-18 of a network the weights of a local file.

    The file is a ``.safetensors``, or a ``.pth`` state dict read with weights only, with
    torchvision's names (torchvision's and timm's ResNet-18 have them); the classifier ``fc``
    is left out. The network must have been made with ``norm="frozen_batch"``.

    Raises:
        PolicyError: no such file, not these weights, or the network has no ResNet-18.
    """
    if not path.is_file():
        raise PolicyError(f"{path}: no such file of encoder weights")
    trunks = [module for module in network.modules() if isinstance(module, _ResNetTrunk)]
    if not trunks:
        raise PolicyError(
            f"{path} holds weights of a ResNet-18, but the policy has none; add --encoder resnet18"
        )
    try:
        weights: dict[str, Any] = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except UNREADABLE as error:
        raise PolicyError(
            f"{path} cannot be read as weights ({type(error).__name__}); give a .safetensors file "
            "or a state dict saved by torch"
        ) from error
    if not isinstance(weights, dict):
        raise PolicyError(f"{path} holds a {type(weights).__name__}, not a state dict")
    kept = {
        name: value
        for name, value in weights.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    for trunk in trunks:
        try:
            trunk.net.load_state_dict(kept)
        except RuntimeError as error:
            raise PolicyError(
                f"{path} does not hold a ResNet-18, or the policy was not made with "
                f"--norm frozen_batch: {error}"
            ) from error
