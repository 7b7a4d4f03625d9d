"""torchvision's operators, defined here where torchvision is not there, against their own results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.compiler.frontends.torch_check import call, load


def greedy(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
    """Boxes one by one in falling order of scores, each kept unless it overlaps one that is."""
    corners, stay = boxes.double().numpy(), []
    for i in np.argsort(-scores.numpy(), kind="stable"):
        for j in stay:
            low, high = np.maximum(corners[i, :2], corners[j, :2]), np.minimum(corners[i, 2:], corners[j, 2:])
            shared = np.maximum(high - low, 0).prod()
            areas = [(corners[box, 2:] - corners[box, :2]).prod() for box in (i, j)]
            if shared / (sum(areas) - shared) > overlap:
                break
        else:
            stay.append(i)
    return torch.from_numpy(np.array(stay, np.int64))


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> None:
    try:
        import torchvision  # noqa: F401 - registers its operators
    except ImportError:
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.impl("torchvision::nms", "CPU", greedy)
        torch.library.register_fake(
            "torchvision::nms",
            lambda boxes, *rest: boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64),
        )


class Suppressed(torch.nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stay = torch.ops.torchvision.nms(boxes, scores, 0.3)
        return stay, boxes[stay] * 2


def test_suppression() -> None:
    torch.manual_seed(0)
    corner = torch.randint(0, 20, (90, 2)).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 9, (90, 2))], 1)
    scores = torch.randint(0, 50, (90,)) / 50
    module = Suppressed()
    imported = load(module, (boxes, scores))
    for found, expected in zip(call(imported, boxes, scores), module(boxes, scores), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
