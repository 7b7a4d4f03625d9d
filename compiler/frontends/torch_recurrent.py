"""Recurrent layers while torch.export traces: known by the shapes of their results, so that sequence lengths may vary.

torch finds those shapes by a decomposition that runs a layer step by step, which makes the number of steps a constant
of the program. Imports torch inside its functions only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compiler.errors import UnsupportedOp

if TYPE_CHECKING:
    import torch

# torch notices its own recurrent layers swapping their list of weights while it traces them.
FLAT_WEIGHTS = r"The tensor attributes? (self\.([\w.]+\.)?_flat_weights\[\d+\](, )?)+ w(as|ere) assigned during export"

_ONE_AT_A_TIME = threading.RLock()  # the kernels are torch's, of the whole process


@contextmanager
def known_by_shape() -> Iterator[None]:
    """While open, torch's kernels for shapes of LSTM, GRU and RNN are replaced by ours, and packing a sequence raises
    UnsupportedOp."""
    from torch import ops
    from torch._C import DispatchKey

    keys = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd, DispatchKey.Meta)
    shapes: dict[Any, Any] = {ops.aten.lstm.input: _lstm, ops.aten._pack_padded_sequence.default: _refuse_packing}
    shapes.update(dict.fromkeys((ops.aten.gru.input, ops.aten.rnn_tanh.input, ops.aten.rnn_relu.input), _one_state))
    with _ONE_AT_A_TIME:
        before = {operator: dict(operator.py_kernels) for operator in shapes}
        try:
            for operator, shape in shapes.items():
                operator.py_kernels.update(dict.fromkeys(keys, shape))
                operator._dispatch_cache.clear()
            yield
        finally:
            for operator, kernels in before.items():
                operator.py_kernels.clear()
                operator.py_kernels.update(kernels)
                operator._dispatch_cache.clear()


def _lstm(x: torch.Tensor, states: Any, *settings: Any) -> tuple[torch.Tensor, ...]:
    h, c = states
    return _every_step(x, h, settings), h.new_empty(h.shape), c.new_empty(c.shape)


def _one_state(x: torch.Tensor, h: torch.Tensor, *settings: Any) -> tuple[torch.Tensor, ...]:
    return _every_step(x, h, settings), h.new_empty(h.shape)


def _every_step(x: torch.Tensor, h: torch.Tensor, settings: Any) -> torch.Tensor:
    """settings: params, has_biases, layers, dropout, train, bidirectional, batch_first."""
    return x.new_empty((*x.shape[:2], h.shape[2] * (2 if settings[5] else 1)))


def _refuse_packing(*arguments: Any) -> Any:
    raise UnsupportedOp("found a PackedSequence (pack_padded_sequence); give the layer the padded tensor")
