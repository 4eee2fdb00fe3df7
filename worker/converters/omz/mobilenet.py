"""The network MobileNetV2, with the names that its weights have in PyTorch's own checkpoint.

M. Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks" (arXiv 1801.04381), table 2.
"""

from torch import Tensor, nn

from worker.networks import Network

INPUT = "data"
OUTPUT = "prob"
SHAPE = (1, 3, 224, 224)
CLASSES = 1000

MEAN = (123.675, 116.28, 103.53)
SCALE = (58.624, 57.12, 57.375)
"""What is taken from red, green and blue, and what the rest is divided by: Open Model Zoo builds both into the IR."""

_FIRST = 32
_LAST = 1280
# How much wider a block is inside, its channels, how often it comes, the stride of the first one.
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(Network):
    """A normalised picture in red, green and blue to a weight for each of ImageNet's classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, _FIRST, 3, stride=2)]
        channels = _FIRST
        for wider, wanted, times, stride in _BLOCKS:
            for number in range(times):
                layers.append(_Block(channels, wanted, stride if number == 0 else 1, wider))
                channels = wanted
        self.features = nn.Sequential(*layers, _convolution(channels, _LAST, 1))
        # The dropout of the training comes first.
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(_LAST, CLASSES))

    def forward(self, picture: Tensor) -> Tensor:
        """How much speaks for each class."""
        answer: Tensor = self.classifier(self.features(picture).mean(dim=(2, 3)))
        return answer


class _Block(Network):
    """Widen, look at each channel by itself, narrow; and add what came in where that is of one size."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, wider: int) -> None:
        super().__init__()
        inside = channels_in * wider
        widen = [_convolution(channels_in, inside, 1)] if wider != 1 else []
        self.conv = nn.Sequential(
            *widen,
            _convolution(inside, inside, 3, stride=stride, groups=inside),
            nn.Conv2d(inside, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self._adds = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        narrow: Tensor = self.conv(features)
        return features + narrow if self._adds else narrow


def _convolution(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    plain = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(plain, nn.BatchNorm2d(channels_out), nn.ReLU6())
