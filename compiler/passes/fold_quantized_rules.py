"""The rules of fold_quantized, in node order: what is dequantized, where that moves, what becomes of its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast, const
from compiler.ir import Graph, Node, Value
from compiler.ops.elementwise import emit_map
from compiler.ops.quant import quantized as quantized_expr
from compiler.passes.fold_quantized_form import Quantized, axis_after, quantized, why_not_bytes
from compiler.passes.fold_quantized_held import Source
from compiler.passes.fold_quantized_lift import BYTES, MOVES, is_scalar
from compiler.passes.fold_quantized_products import folded_conv, folded_product
from compiler.rewrite import Replacement

IN_FLOAT = "in float: "  # how remarks begin that say why a product of quantized tensors is none of bytes
_FOLDED = "folded: its operand is read as it is, and its scale is part of what reads it"
_CHEAP = (
    "add", "sub", "mul", "div", "max", "min", "map", "relu", "clip", "leaky_relu", "gelu", "sigmoid", "tanh", "erf",
    "hard_sigmoid", "hard_swish", "silu",
)  # fmt: skip


@dataclass(frozen=True)
class Scaled:
    """A float32 value that is a `product`, of whole numbers, times `factor`."""

    product: Value
    factor: Value


class QuantizedRules:
    """The table of rules; remembers what values of the new graph are."""

    def __init__(self, graph: Graph) -> None:
        readers = graph.consumers()
        self._results = {value.name for value in graph.outputs}
        self._shared = {name for name, nodes in readers.items() if len(nodes) > 1} | self._results
        self.forms: dict[str, Quantized] = {}
        self.scaled: dict[str, Scaled] = {}
        self.sources: dict[str, Source] = {}  # of bytes that were quantized here
        self.after_product: set[str] = set()  # what ends in the epilogue of a folded product, or is the bytes of that

    def table(self) -> dict[str, Callable[[Builder, Node], Replacement]]:
        """The rule for each op."""
        rules: dict[str, Callable[[Builder, Node], Replacement]] = dict.fromkeys((*MOVES, "expand", "take"), self.move)
        rules |= dict.fromkeys(("slice", "onnx_slice", "split"), self.move)
        rules |= dict.fromkeys(_CHEAP, self.follow)
        return rules | {
            "dequantize_linear": self.dequantize, "quantize_linear": self.quantize, "pool": self.pool,
            "concat": self.concat, "onnx_pad": self.pad, "matmul": self.matmul, "gemm": self.gemm, "conv": self.conv,
        }  # fmt: skip

    # What is dequantized, and where it moves.

    def dequantize(self, b: Builder, node: Node) -> Replacement:
        """Remembered; it goes where nobody reads it in the end."""
        form = quantized(b, node)
        if form is not None:
            self.forms[node.output.name] = form
        return self.follow(b, node)

    def _again(self, b: Builder, node: Node, form: Quantized, x: Value, axis: int | None = None) -> Value:
        """What `node` makes of the bytes, x, dequantized as a form is."""
        form = replace(form, x=x, axis=axis, where=tuple(dict.fromkeys((*form.where, *node.where))))
        with b.at(*form.where):
            value = form.emit(b)
        self.forms[value.name] = form
        return value

    def _form(self, value: Value | None) -> Quantized | None:
        form = self.forms.get(value.name) if value is not None else None
        return form if form is not None and not form.problem else None

    def move(self, b: Builder, node: Node) -> Replacement:
        """Of bytes, then dequantized; of more than one scale only what keeps their axis whole."""
        form = self._form(node.inputs[0])
        if form is None or (form.axis is not None and node.op not in MOVES):
            return None
        outputs = [value.name for value in node.outputs]
        perm = node.attrs.get("perm")
        axis = form.axis
        if axis is not None:
            shape = node.output.type.shape
            axis = None if shape is None else axis_after(form, shape, perm)
            if axis is None:
                return None
        known, shape = b.constants.get(form.x.name), node.output.type.shape
        if known is not None and node.op in MOVES and shape is not None and dims.is_static(shape):
            turned = known if perm is None else np.transpose(known, perm)
            moved: tuple[Value, ...] = (b.constant(turned.reshape(shape), form.x.name),)
        else:
            moved = b.emit_many(node.op, [form.x, *node.inputs[1:]], node.attrs, outputs)
        return [self._again(b, node, form, x, axis) if x.name else None for x in moved]

    def pool(self, b: Builder, node: Node) -> Replacement:
        """The maximum of dequantized numbers is that of the bytes: scales are positive."""
        form = self._form(node.inputs[0])
        if form is None or form.axis is not None or node.attrs["fn"] != "max" or not _positive(b, form.scale):
            return None
        return self._again(b, node, form, b.emit(node.op, form.x, **node.attrs))

    def concat(self, b: Builder, node: Node) -> Replacement:
        """Of tensors of one scale: their bytes."""
        forms = [self._form(v) for v in node.inputs]
        first = forms[0]
        if first is None or any(f is None or not self._alike(b, first, f) for f in forms):
            return None
        joined = b.emit(node.op, *(f.x for f in forms if f is not None), **node.attrs)
        return self._again(b, node, first, joined)

    def _alike(self, b: Builder, one: Quantized, other: Quantized) -> bool:
        same_type = one.x.type.dtype == other.x.type.dtype and one.dtype == other.dtype  # type: ignore[union-attr]
        return same_type and one.axis is None and other.same_parameters(b, one.scale, one.zero)

    def pad(self, b: Builder, node: Node) -> Replacement:
        """With zeros: their bytes are the zero point."""
        form, fill = self._form(node.inputs[0]), (*node.inputs, None, None)[2]
        zero = fill is None or (fill.name in b.constants and not b.constants[fill.name].any())
        if form is None or form.axis is not None or not zero:
            return None
        filled = form.spread(b, form.zero)
        inputs = [form.x, node.inputs[1], filled, *node.inputs[3:]]
        return self._again(b, node, form, b.emit(node.op, *inputs, **node.attrs))

    # Products.

    def matmul(self, b: Builder, node: Node) -> Replacement:
        """Of two dequantized operands: of bytes."""
        if node.attrs["epilogue"] or node.attrs["acc"] is not None:
            return None
        forms = self._operands(b, node)
        return self._done(b, node, folded_product(b, *forms)) if forms else None

    def gemm(self, b: Builder, node: Node) -> Replacement:
        """The same with operands transposed, a factor, and a summand, which may be quantized as ONNX Runtime does."""
        forms = self._operands(b, node)
        if forms is None:
            return None
        left, right = (
            self._turned(b, form) if node.attrs[name] else form
            for form, name in zip(forms, ("transA", "transB"), strict=True)
        )
        summand = (*node.inputs, None)[2]
        form = self.forms.get(summand.name) if summand is not None and node.attrs["beta"] == 1 else None
        found = folded_product(b, left, right, node.attrs["alpha"], form)
        return self._done(b, node, found, summand, node.attrs["beta"])

    def _turned(self, b: Builder, form: Quantized) -> Quantized:
        known = b.constants.get(form.x.name)
        x = b.emit("transpose", form.x, perm=(1, 0)) if known is None else b.constant(known.T, form.x.name)
        return replace(form, x=x, axis=None if form.axis is None else 1 - form.axis)

    def conv(self, b: Builder, node: Node) -> Replacement:
        """The same of convolutions."""
        if node.attrs["epilogue"] or node.attrs["acc"] is not None or node.attrs["channels_last"]:
            return None
        forms = self._operands(b, node)
        if forms is None:
            return None
        bias = (*node.inputs, None)[2]
        form = self.forms.get(bias.name) if bias is not None else None
        found = folded_conv(b, node.attrs, *forms, bias=form)
        if bias is not None:
            channels = (-1, *[1] * (len(forms[0].shape) - 2))
            bias = b.emit("reshape", bias, b.sizes(channels))
        return self._done(b, node, found, bias)

    def _operands(self, b: Builder, node: Node) -> tuple[Quantized, Quantized] | None:
        """The forms of a product's first two operands; where they are not both of bytes, a remark says why."""
        forms = [self.forms.get(v.name) if v is not None else None for v in node.inputs[:2]]
        if forms[0] is None:
            return None  # of quantized weights alone: there is nothing to explain
        problem = "only its first operand is quantized"
        if forms[1] is not None:
            problem = why_not_bytes(forms[0]) or why_not_bytes(forms[1])
        if problem:
            _remark(b, node, problem)
            return None
        return forms[0], forms[1]  # type: ignore[return-value]

    def _done(
        self, b: Builder, node: Node, found: Any, summand: Value | None = None, times: float = 1.0
    ) -> Replacement:
        """The replacement of a product: `found` is why there is none, or int32 product, its factor, and whether the
        summand is part of it."""
        if isinstance(found, str):
            _remark(b, node, found)
            return None
        for value in node.inputs:
            for place in self.forms[value.name].where if value is not None and value.name in self.forms else ():
                b.notes.setdefault(place, _FOLDED)
        product, factor, summed = found
        f, dtype = dtypes.float32, node.output.type.dtype  # type: ignore[union-attr]
        scaled = cast(arg(0, product.type.dtype), f) * arg(1, f)
        if summand is None or summed:
            value = emit_map(b, cast(scaled, dtype), product, factor, hint=node.op)
            if node.output.name not in self._shared and dtype == f:
                self.scaled[value.name] = Scaled(product, factor)
        else:
            added = cast(arg(2, summand.type.dtype), f)  # type: ignore[union-attr]
            total = scaled + (added if times == 1 else added * times)
            value = emit_map(b, cast(total, dtype), product, factor, summand, hint=node.op)
        self.after_product.add(value.name)
        return value

    def follow(self, b: Builder, node: Node) -> Replacement:
        """Elementwise work on a folded product ends in its epilogue."""
        if any(v is not None and v.name in self.after_product for v in node.inputs):
            self.after_product.update(value.name for value in node.outputs)
        return None

    # Quantizations.

    def quantize(self, b: Builder, node: Node) -> Replacement:
        """Nothing after a dequantization alike; after a folded product without a division."""
        x, scale, zero = (*node.inputs, None)[:3]
        target = node.output.type.dtype  # type: ignore[union-attr]
        if x is None or scale is None or target not in BYTES or not is_scalar(scale):
            return None
        form = self._form(x)
        if form is not None and form.x.type.dtype == target and form.same_parameters(b, scale, zero):  # type: ignore[union-attr]
            for place in (*node.where, *form.where):
                b.notes.setdefault(place, "folded: quantized as it was before")
            return form.x
        if x.type.dtype != dtypes.float32 or scale.type.dtype != dtypes.float32:  # type: ignore[union-attr]
            return None
        known = b.constants.get(scale.name)
        if zero is None:
            zero = b.constant(np.zeros((), target.numpy))
        if x.name in self.scaled:
            found = self.scaled[x.name]
            return self._requantized(b, node, found.product, found.factor, scale, zero)
        if known is None or not known.all():
            return None
        if x.name not in self.after_product:
            self.sources[node.output.name] = Source(x, scale, True, node.where)
            return None
        inverse = b.constant((1 / known.astype(np.float64)).astype(np.float32).reshape(()), "inverse")
        return self._scaled_bytes(b, node, x, inverse, zero)

    def _requantized(self, b: Builder, node: Node, product: Value, factor: Value, scale: Value, zero: Value) -> Value:
        """The bytes of product * factor / scale."""
        known = [b.constants.get(v.name) for v in (factor, scale)]
        if known[0] is not None and known[1] is not None:
            whole = known[0].astype(np.float64) / known[1].astype(np.float64).reshape(())
            return self._scaled_bytes(b, node, product, b.constant(whole.astype(np.float32), "factor"), zero)
        scale, zero = (b.emit("reshape", v, b.sizes(())) for v in (scale, zero))
        result = b.emit("requantize", product, factor, b.constant(np.float32(1)), scale, zero)
        self.after_product.add(result.name)
        return result

    def _scaled_bytes(self, b: Builder, node: Node, x: Value, factor: Value, zero: Value) -> Value:
        """The bytes of x * factor, zero point added."""
        f, target = dtypes.float32, zero.type.dtype  # type: ignore[union-attr]
        scaled = cast(arg(0, x.type.dtype), f) * arg(1, f)  # type: ignore[union-attr]
        known = b.constants.get(zero.name)
        if known is None:
            shift = b.emit("reshape", zero, b.sizes(()))
            result = emit_map(b, quantized_expr(scaled, arg(2, target), target, True), x, factor, shift)
        else:
            shifted = quantized_expr(scaled, const(float(known.reshape(())), f), target, True)
            result = emit_map(b, shifted, x, factor, hint="quantize")
        self.sources[result.name] = Source(x, factor, False, node.where)
        self.after_product.add(result.name)
        return result


def _positive(b: Builder, scale: Value) -> bool:
    known = b.constants.get(scale.name)
    return known is not None and bool((known > 0).all())


def _remark(b: Builder, node: Node, problem: str) -> None:
    for place in node.where:
        b.remark(place, IN_FLOAT + problem)
