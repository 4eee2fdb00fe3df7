"""The network of MTTS-CAN, as its authors published it: pulse and breath from the colours of a face.

Two branches of convolutions look at 10 neighbouring frames of 36 x 36 pixels. The one sees what has changed from frame
to frame, with a part of its channels shifted by a frame to either side; the other sees the face itself and says where
to look. X. Liu et al., "Multi-task temporal shift attention networks for on-device contactless vitals measurement"
(arXiv 2006.03790).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worker.networks import Network

INPUTS = ("input_1", "input_2")
"""What has changed, and the face itself: as Keras names the inputs of this network."""
OUTPUTS = ("output_1", "output_2")
"""Pulse and breath."""
FRAMES = 10
PIXELS = 36
COLOURS = 3

_PARTS = 3
_NARROW = 32
_WIDE = 64
_INSIDE = 128
# Each convolution that keeps no border takes two pixels, each pooling halves, the odd pixel is left out.
_LAST_PIXELS = ((PIXELS - 2) // 2 - 2) // 2

LAYERS: Mapping[str, tuple[int, ...]] = {
    "motion_1": (_NARROW, COLOURS, 3, 3),
    "motion_2": (_NARROW, _NARROW, 3, 3),
    "face_1": (_NARROW, COLOURS, 3, 3),
    "face_2": (_NARROW, _NARROW, 3, 3),
    "look_1": (1, _NARROW, 1, 1),
    "motion_3": (_WIDE, _NARROW, 3, 3),
    "motion_4": (_WIDE, _WIDE, 3, 3),
    "face_3": (_WIDE, _NARROW, 3, 3),
    "face_4": (_WIDE, _WIDE, 3, 3),
    "look_2": (1, _WIDE, 1, 1),
    "pulse_1": (_INSIDE, _LAST_PIXELS**2 * _WIDE),
    "breath_1": (_INSIDE, _LAST_PIXELS**2 * _WIDE),
    "pulse_2": (1, _INSIDE),
    "breath_2": (1, _INSIDE),
}
"""The layers with weights, in the order in which the authors' program makes them, and the shapes of these in torch."""


class RppgNetwork(Network):
    """Frames with their colours last, ten and ten, to pulse and breath of each frame."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in LAYERS.items():
            self.add_module(name, _layer(name, shape))
        self.pool = nn.AvgPool2d(2)

    def forward(self, changes: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """What has changed, and the faces, both normalised, to pulse and breath."""
        motion, face = changes.permute(0, 3, 1, 2), faces.permute(0, 3, 1, 2)
        size = PIXELS
        for first, second, look, channels in (
            ("_1", "_2", "look_1", (COLOURS, _NARROW)),
            ("_3", "_4", "look_2", (_NARROW, _WIDE)),
        ):
            motion = self._tanh(f"motion{first}", _shifted(motion, channels[0], size))
            motion = self._tanh(f"motion{second}", _shifted(motion, channels[1], size))
            face = self._tanh(f"face{second}", self._tanh(f"face{first}", face))
            size -= 2
            motion = self.pool(motion * _attention(self.get_submodule(look)(face), size))
            face = self.pool(face)
            size //= 2
        # Keras counts through the channels of one pixel first.
        seen = motion.permute(0, 2, 3, 1).reshape(-1, _LAST_PIXELS**2 * _WIDE)
        return self._answer("pulse", seen), self._answer("breath", seen)

    def _tanh(self, layer: str, features: Tensor) -> Tensor:
        return torch.tanh(self.get_submodule(layer)(features))

    def _answer(self, name: str, seen: Tensor) -> Tensor:
        answer: Tensor = self.get_submodule(f"{name}_2")(self._tanh(f"{name}_1", seen))
        return answer


def _layer(name: str, shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    # The first of two convolutions keeps the border.
    padding = 1 if name.endswith(("_1", "_3")) and shape[-1] == 3 else 0
    return nn.Conv2d(shape[1], shape[0], shape[-1], padding=padding)


def _shifted(features: Tensor, channels: int, size: int) -> Tensor:
    """A third of the channels from the frame after, a third from the one before; at the ends of the ten there is none.

    The sizes are given and not asked of the tensor, so that a trace of this holds for any number of frames.
    """
    frames = features.reshape(-1, FRAMES, channels, size, size)
    fold = channels // _PARTS
    later, earlier, same = frames.split([fold, fold, channels - 2 * fold], dim=2)
    nothing = torch.zeros_like(later[:, :1])
    later = torch.cat([later[:, 1:], nothing], dim=1)
    earlier = torch.cat([nothing, earlier[:, :-1]], dim=1)
    return torch.cat([later, earlier, same], dim=2).reshape(-1, channels, size, size)


def _attention(look: Tensor, size: int) -> Tensor:
    """How much each pixel counts: a half on average."""
    weight = torch.sigmoid(look)
    return weight / weight.sum(dim=(2, 3), keepdim=True) * (size * size * 0.5)
