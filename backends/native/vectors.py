"""Vectors of elements in registers and in memory: types, constants, tail masks, loads and stores of every stride.

A *register* element is what arithmetic sees, a *storage* element what memory holds:

    bool              i1      i8 (0 or 1)
    bfloat16          float   i16        every register value is exactly representable in the narrow type
    float16           float   half
    int4, uint2, ...  i8      i8         sign- or zero-extended in the register, high bits clear in memory
    anything else     the same

With `lanes` == 1 a value is a scalar, otherwise an LLVM vector of `lanes` register elements. Masks are vectors of i1
(an i1 for one lane). A masked access touches no memory outside its mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from backends.native import by_lane
from compiler.dtypes import DType
from compiler.errors import DtypeError

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_FLOATS = {"float64": (DOUBLE, DOUBLE), "float32": (FLOAT, FLOAT), "float16": (HALF, FLOAT), "bfloat16": (I16, FLOAT)}


def llvm_type(dtype: DType) -> ir.Type:
    """The storage type of one element. Raises DtypeError for types kernels do not handle."""
    return _types(dtype)[0]


def register_type(dtype: DType, lanes: int = 1) -> ir.Type:
    """The type of `lanes` elements in registers."""
    return widen(_types(dtype)[1], lanes)


def widen(element: ir.Type, lanes: int) -> ir.Type:
    """A vector of `lanes` elements, or the element type itself for one lane."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def lanes_of(value: ir.Value) -> int:
    """How many lanes a value has."""
    return value.type.count if isinstance(value.type, ir.VectorType) else 1


def _types(dtype: DType) -> tuple[ir.Type, ir.Type]:
    if dtype.name in _FLOATS:
        return _FLOATS[dtype.name]
    if dtype.kind == "bool":
        return I8, I1
    if dtype.is_integer:
        element = ir.IntType(max(dtype.bits, 8))
        return element, element
    raise DtypeError(f"native kernels do not compute on {dtype}; cast to a type they know, such as float32")


def intrinsic(
    builder: ir.IRBuilder, name: str, result: ir.Type, operands: Sequence[ir.Value], overloads: Sequence[ir.Type]
) -> ir.Value:
    """Call an overloaded LLVM intrinsic, `llvm.<name>.<overloads>`."""
    full = ".".join(["llvm", name, *(_mangle(t) for t in overloads)])
    function = builder.module.globals.get(full)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [o.type for o in operands]), full)
    return builder.call(function, operands)


def _mangle(kind: ir.Type) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_mangle(kind.element)}"
    return "p0" if isinstance(kind, ir.PointerType) else kind.intrinsic_name


def constant(kind: ir.Type, value: float) -> ir.Constant:
    """`value` as a constant of a scalar type, or in every lane of a vector type."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """The scalar `value` in every lane."""
    if lanes == 1:
        return value
    if isinstance(value, ir.Constant):
        return ir.Constant(ir.VectorType(value.type, lanes), [value] * lanes)
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), constant(ir.VectorType(I32, lanes), 0))


def iota(kind: ir.Type) -> ir.Constant:
    """0, 1, 2, ... in the lanes of an integer type."""
    lanes = kind.count if isinstance(kind, ir.VectorType) else 1
    return ir.Constant(kind, list(range(lanes))) if lanes > 1 else ir.Constant(kind, 0)


def index_vector(builder: ir.IRBuilder, start: ir.Value, lanes: int) -> ir.Value:
    """start, start + 1, ...: the i64 positions of `lanes` neighbours."""
    return builder.add(splat(builder, start, lanes), iota(widen(I64, lanes)))


def tail_mask(builder: ir.IRBuilder, remaining: ir.Value, lanes: int) -> ir.Value:
    """Lane i is on where i < `remaining` (an i64, not negative)."""
    if lanes == 1:
        return builder.icmp_signed(">", remaining, I64(0))
    # Compared in the narrowest lanes that hold the numbers: one short vector instruction.
    narrow = I8 if lanes < 128 else I16
    count = builder.select(builder.icmp_signed("<", remaining, I64(lanes)), remaining, I64(lanes))
    count = splat(builder, builder.trunc(count, narrow), lanes)
    return builder.icmp_unsigned("<", iota(ir.VectorType(narrow, lanes)), count)


def any_lane(builder: ir.IRBuilder, condition: ir.Value) -> ir.Value:
    """An i1: whether some lane of `condition` is on."""
    if lanes_of(condition) == 1:
        return condition
    return intrinsic(builder, "vector.reduce.or", I1, [condition], [condition.type])


def concatenate(builder: ir.IRBuilder, vectors: Sequence[ir.Value]) -> ir.Value:
    """Vectors (a power of two of them) one behind the other."""
    parts = list(vectors)
    while len(parts) > 1:
        both = _lanes(0, 2 * lanes_of(parts[0]))
        parts = [builder.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def split(builder: ir.IRBuilder, vector: ir.Value, parts: int) -> list[ir.Value]:
    """A vector cut into equal parts."""
    lanes = lanes_of(vector) // parts
    if parts == 1:
        return [vector]
    return [builder.shuffle_vector(vector, vector, _lanes(part * lanes, lanes)) for part in range(parts)]


def _lanes(start: int, count: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))


def load_vector(
    builder: ir.IRBuilder, pointer: ir.Value, dtype: DType, lanes: int, mask: ir.Value | None = None
) -> ir.Value:
    """`lanes` neighbouring elements from `pointer` (of llvm_type(dtype)) in registers; lanes outside `mask` are 0."""
    storage = widen(llvm_type(dtype), lanes)
    if mask is None:
        return from_storage(builder, _load(builder, pointer, storage, dtype), dtype)
    if lanes == 1:
        return gather_vector(builder, pointer, I64(1), dtype, 1, mask)
    address = builder.bitcast(pointer, storage.as_pointer())
    stored = intrinsic(
        builder, "masked.load", storage, [address, mask, constant(storage, 0)], [storage, ir.PointerType()]
    )
    return from_storage(builder, stored, dtype)


def load_broadcast(builder: ir.IRBuilder, pointer: ir.Value, dtype: DType, lanes: int) -> ir.Value:
    """The one element at `pointer` in every lane."""
    return splat(builder, load_vector(builder, pointer, dtype, 1), lanes)


def store_vector(
    builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, dtype: DType, mask: ir.Value | None = None
) -> None:
    """Store register lanes to neighbouring elements from `pointer` (of llvm_type(dtype)) on."""
    stored = to_storage(builder, value, dtype)
    address = builder.bitcast(pointer, stored.type.as_pointer())
    if mask is None:
        builder.store(stored, address, align=dtype.bytes)
    elif lanes_of(value) == 1:
        with builder.if_then(mask):
            builder.store(stored, address, align=dtype.bytes)
    else:
        intrinsic(builder, "masked.store", ir.VoidType(), [stored, address, mask], [stored.type, ir.PointerType()])


def gather_vector(
    builder: ir.IRBuilder,
    pointer: ir.Value,
    stride: ir.Value,
    dtype: DType,
    lanes: int,
    mask: ir.Value | None = None,
) -> ir.Value:
    """Elements pointer[0], pointer[stride], pointer[2 * stride], ... (`stride`: i64, in elements, any sign)."""
    element = llvm_type(dtype)
    if mask is None and lanes == 1:
        return load_vector(builder, pointer, dtype, 1)
    if mask is None:
        stored: ir.Value = ir.Constant(ir.VectorType(element, lanes), ir.Undefined)
        address = pointer
        for lane in range(lanes):
            stored = builder.insert_element(stored, _load(builder, address, element, dtype), I32(lane))
            address = builder.gep(address, [stride])
        return from_storage(builder, stored, dtype)
    if lanes > 1 and by_lane.ATTRIBUTE in builder.function.attributes:
        return from_storage(builder, by_lane.gather(builder, pointer, stride, element, dtype.bytes, mask), dtype)
    if lanes > 1:
        kind = ir.VectorType(element, lanes)
        addresses = _strided_addresses(builder, pointer, stride, dtype, lanes)
        stored = intrinsic(builder, "masked.gather", kind, [addresses, mask, constant(kind, 0)], [kind, addresses.type])
        return from_storage(builder, stored, dtype)
    start = builder.block
    with builder.if_then(mask):
        loaded = _load(builder, pointer, element, dtype)
        inside = builder.block
    merged = builder.phi(element)
    merged.add_incoming(constant(element, 0), start)
    merged.add_incoming(loaded, inside)
    return from_storage(builder, merged, dtype)


def scatter_vector(
    builder: ir.IRBuilder,
    value: ir.Value,
    pointer: ir.Value,
    stride: ir.Value,
    dtype: DType,
    mask: ir.Value | None = None,
) -> None:
    """Store lane i to pointer[i * stride] (`stride`: i64, in elements, any sign)."""
    lanes = lanes_of(value)
    if lanes == 1:
        store_vector(builder, value, pointer, dtype, mask)
        return
    stored = to_storage(builder, value, dtype)
    if mask is not None and by_lane.ATTRIBUTE in builder.function.attributes:
        by_lane.scatter(builder, stored, pointer, stride, dtype.bytes, mask)
        return
    if mask is not None:
        addresses = _strided_addresses(builder, pointer, stride, dtype, lanes)
        overloads = [stored.type, ir.VectorType(ir.PointerType(), lanes)]
        intrinsic(builder, "masked.scatter", ir.VoidType(), [stored, addresses, mask], overloads)
        return
    address = pointer
    for lane in range(lanes):
        builder.store(builder.extract_element(stored, I32(lane)), address, align=dtype.bytes)
        address = builder.gep(address, [stride])


def from_storage(builder: ir.IRBuilder, stored: ir.Value, dtype: DType) -> ir.Value:
    """Register form of elements as memory holds them."""
    lanes = lanes_of(stored)
    register = register_type(dtype, lanes)
    if dtype.name == "bfloat16":
        wide = builder.zext(stored, widen(I32, lanes))
        return builder.bitcast(builder.shl(wide, constant(wide.type, 16)), register)
    if dtype.name == "float16":
        return builder.fpext(stored, register)
    if dtype.kind == "bool":
        return builder.icmp_unsigned("!=", stored, constant(stored.type, 0))
    return wrap_narrow(builder, stored, dtype)


def to_storage(builder: ir.IRBuilder, value: ir.Value, dtype: DType) -> ir.Value:
    """Elements as memory holds them; exact, for register values are representable."""
    lanes = lanes_of(value)
    storage = widen(llvm_type(dtype), lanes)
    if dtype.name == "bfloat16":
        bits = builder.bitcast(value, widen(I32, lanes))
        return builder.trunc(builder.lshr(bits, constant(bits.type, 16)), storage)
    if dtype.name == "float16":
        return builder.fptrunc(value, storage)
    if dtype.kind == "bool":
        return builder.zext(value, storage)
    if dtype.is_integer and dtype.bits < 8:
        return builder.and_(value, constant(value.type, (1 << dtype.bits) - 1))
    return value


def wrap_narrow(builder: ir.IRBuilder, value: ir.Value, dtype: DType) -> ir.Value:
    """An 8-bit register value wrapped to a sub-byte integer type; others as they are."""
    if not dtype.is_integer or dtype.bits >= 8:
        return value
    spare = constant(value.type, 8 - dtype.bits)
    shifted = builder.shl(value, spare)
    return builder.ashr(shifted, spare) if dtype.kind == "int" else builder.lshr(shifted, spare)


def _load(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.Type, dtype: DType) -> ir.Value:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=dtype.bytes)


def _strided_addresses(
    builder: ir.IRBuilder, pointer: ir.Value, stride: ir.Value, dtype: DType, lanes: int
) -> ir.Value:
    kind = ir.VectorType(I64, lanes)
    step = builder.mul(splat(builder, builder.mul(stride, I64(dtype.bytes)), lanes), iota(kind))
    start = splat(builder, builder.ptrtoint(pointer, I64), lanes)
    return builder.inttoptr(builder.add(start, step), ir.VectorType(ir.PointerType(), lanes))
