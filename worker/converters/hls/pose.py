"""The network of human-pose-estimation-3d-0001, as its authors published it.

A MobileNet up to its eleventh block, an alignment to 128 channels, two stages that find joints (19 maps) and limbs
(38 maps) in the picture, and a head that places 19 joints in space (57 maps). Attribute names are those of the
checkpoint's weights. D. Osokin, "Real-time 2D multi-person pose estimation on CPU" (arXiv 1811.12004); D. Mehta et al.,
"Single-shot multi-person 3D pose estimation from monocular RGB" (arXiv 1712.03453).
"""

import torch
from torch import Tensor, nn

from worker.networks import Network

INPUT = "data"
SHAPE = (1, 3, 256, 448)
OUTPUTS = ("features", "heatmaps", "pafs")

MAY_LACK = frozenset({"fake_conv_heatmaps.weight", "fake_conv_pafs.weight"})
"""Some copies of the checkpoint come without these two, which are zero in all of them."""

_CHANNELS = 128
_HEATMAPS = 19
_LIMBS = 38
_PLACES = 57

# In and out channels, stride, dilation of the backbone's separable convolutions.
_BACKBONE = (
    (32, 64, 1, 1), (64, 128, 2, 1), (128, 128, 1, 1), (128, 256, 2, 1), (256, 256, 1, 1), (256, 512, 1, 1),
    (512, 512, 1, 2), (512, 512, 1, 1), (512, 512, 1, 1), (512, 512, 1, 1), (512, 512, 1, 1),
)  # fmt: skip


class PoseNetwork(Network):
    """A picture, from which 128 was taken and which was divided by 255, to maps of an eighth of its size."""

    def __init__(self) -> None:
        super().__init__()
        first = _normalised(3, 32, 3, stride=2)
        self.model = nn.Sequential(first, *(_separable(*block) for block in _BACKBONE))
        self.cpm = _Alignment()
        self.initial_stage = _FirstStage()
        self.refinement_stages = nn.ModuleList([_SecondStage()])
        self.Pose3D = _Space()
        self.fake_conv_heatmaps = _nothing(_HEATMAPS)
        self.fake_conv_pafs = _nothing(_LIMBS)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where joints are in space, where in the picture, and where limbs are."""
        features = self.cpm(self.model(picture))
        heatmaps, limbs = self.initial_stage(features)
        for stage in self.refinement_stages:
            heatmaps, limbs = stage(torch.cat([features, heatmaps, limbs], dim=1))
        places = self.Pose3D(torch.cat([features, heatmaps, limbs], dim=1))
        return places, heatmaps + self.fake_conv_heatmaps(heatmaps), limbs + self.fake_conv_pafs(limbs)


class _Alignment(Network):
    def __init__(self) -> None:
        super().__init__()
        self.align = _plain(512, _CHANNELS, 1)
        self.trunk = nn.Sequential(*(_separable_smooth(_CHANNELS) for _ in range(3)))
        self.conv = _plain(_CHANNELS, _CHANNELS, 3)

    def forward(self, features: Tensor) -> Tensor:
        aligned = self.align(features)
        answer: Tensor = self.conv(aligned + self.trunk(aligned))
        return answer


class _Stage(Network):
    """A trunk, and two heads that read it."""

    def __init__(self, trunk: nn.Sequential, inside: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heatmaps = _head(_CHANNELS, inside, _HEATMAPS)
        self.pafs = _head(_CHANNELS, inside, _LIMBS)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.trunk(features)
        return self.heatmaps(trunk), self.pafs(trunk)


class _FirstStage(_Stage):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(*(_plain(_CHANNELS, _CHANNELS, 3) for _ in range(3))), inside=512)


class _SecondStage(_Stage):
    def __init__(self) -> None:
        first = _Refinement(_CHANNELS + _HEATMAPS + _LIMBS)
        super().__init__(nn.Sequential(first, *(_Refinement(_CHANNELS) for _ in range(4))), inside=_CHANNELS)


class _Refinement(Network):
    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.initial = _plain(channels_in, _CHANNELS, 1)
        self.trunk = nn.Sequential(_biased(_CHANNELS, _CHANNELS, 3), _biased(_CHANNELS, _CHANNELS, 3, dilation=2))

    def forward(self, features: Tensor) -> Tensor:
        first = self.initial(features)
        answer: Tensor = first + self.trunk(first)
        return answer


class _Space(Network):
    def __init__(self) -> None:
        super().__init__()
        first = _Residual(_CHANNELS + _HEATMAPS + _LIMBS, align=True)
        self.stem = nn.Sequential(first, *(_Residual(_CHANNELS, align=False) for _ in range(4)))
        self.prediction = _Prediction()

    def forward(self, features: Tensor) -> Tensor:
        answer: Tensor = self.prediction(self.stem(features))
        return answer


class _Residual(Network):
    def __init__(self, channels_in: int, *, align: bool) -> None:
        super().__init__()
        inside = channels_in // 2
        self.bottleneck = nn.Sequential(
            _biased(channels_in, inside, 1), _biased(inside, inside, 3), _biased(inside, _CHANNELS, 1)
        )
        self.align = _biased(channels_in, _CHANNELS, 1) if align else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        answer: Tensor = self.align(features) + self.bottleneck(features)
        return answer


class _Prediction(Network):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(_Refinement(_CHANNELS), _Refinement(_CHANNELS))
        self.feature_maps = _head(_CHANNELS, _CHANNELS, _PLACES)

    def forward(self, features: Tensor) -> Tensor:
        answer: Tensor = self.feature_maps(self.trunk(features))
        return answer


def _convolution(  # noqa: PLR0917 - as torch's own
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution that keeps the size, but for its stride. It has no bias of its own."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)


def _with_bias(channels_in: int, channels_out: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def _normalised(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = _convolution(channels_in, channels_out, kernel, stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def _biased(channels_in: int, channels_out: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution with a bias, and a normalisation all the same: so it was trained."""
    convolution = _with_bias(channels_in, channels_out, kernel, dilation)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def _plain(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(_with_bias(channels_in, channels_out, kernel), nn.ReLU())


def _head(channels_in: int, inside: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_plain(channels_in, inside, 1), nn.Sequential(_with_bias(inside, channels_out, 1)))


def _separable(channels_in: int, channels_out: int, stride: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(channels_in, channels_in, 3, stride, dilation, groups=channels_in),
        nn.BatchNorm2d(channels_in),
        nn.ReLU(),
        _convolution(channels_in, channels_out, 1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def _separable_smooth(channels: int) -> nn.Sequential:
    each = _convolution(channels, channels, 3, groups=channels)
    return nn.Sequential(each, nn.ELU(), _convolution(channels, channels, 1), nn.ELU())


def _nothing(channels: int) -> nn.Conv2d:
    """A convolution that an old tool needed to keep an output, and that adds nothing to it."""
    added = _convolution(channels, channels, 1)
    nn.init.zeros_(added.weight)
    return added
