"""C's fmod on vectors, exact and without a library call."""

from __future__ import annotations

from llvmlite import ir

from backends.native.vectors import DOUBLE, FLOAT, I64, any_lane, constant, intrinsic, lanes_of, widen

_STEP = 52  # bits of quotient one step removes, so that it stays below 2^53


def float_remainder(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """x - trunc(x / y) * y without rounding error, with the sign of x; NaN for infinite x or zero y.

    Long division in float64 (float32 operands are exact in it): while r >= |y|, subtract from r a multiple of
    s = |y| * 2^k, where k leaves a quotient below 2^53. r and s are multiples of ulp(s) and the new |r| is at most s,
    so each fma is exact.
    """
    kind = x.type
    lanes = lanes_of(x)
    double = widen(DOUBLE, lanes)
    narrow = kind in (FLOAT, widen(FLOAT, lanes))
    wide_x, wide_y = (builder.fpext(v, double) if narrow else v for v in (x, y))
    magnitude, divisor = (intrinsic(builder, "fabs", double, [v], [double]) for v in (wide_x, wide_y))
    infinity = constant(double, float("inf"))
    valid = builder.and_(
        builder.and_(builder.fcmp_ordered("<", magnitude, infinity), builder.fcmp_ordered("==", divisor, divisor)),
        builder.fcmp_ordered(">", divisor, constant(double, 0.0)),
    )
    rest = _divide_out(builder, builder.select(valid, magnitude, constant(double, 0.0)), divisor)
    signed = intrinsic(builder, "copysign", double, [rest, wide_x], [double])
    result = builder.select(valid, signed, constant(double, float("nan")))
    return builder.fptrunc(result, kind) if narrow else result


def _divide_out(builder: ir.IRBuilder, magnitude: ir.Value, divisor: ir.Value) -> ir.Value:
    function = builder.function
    start = builder.block
    head, body, done = (function.append_basic_block(f"rem.{name}") for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    rest = builder.phi(magnitude.type)
    rest.add_incoming(magnitude, start)
    more = builder.fcmp_ordered(">=", rest, divisor)
    builder.cbranch(any_lane(builder, more), body, done)
    builder.position_at_end(body)
    step = _long_division_step(builder, rest, divisor)
    rest.add_incoming(builder.select(more, step, rest), builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return rest


def _long_division_step(builder: ir.IRBuilder, rest: ir.Value, divisor: ir.Value) -> ir.Value:
    kind = rest.type
    shift = builder.sub(_exponent(builder, rest), _exponent(builder, divisor))
    shift = builder.sub(shift, constant(shift.type, _STEP))
    shift = builder.select(builder.icmp_signed(">", shift, constant(shift.type, 0)), shift, constant(shift.type, 0))
    # 2^shift in two factors: shift may exceed the largest exponent when the divisor is denormal.
    half = builder.lshr(shift, constant(shift.type, 1))
    scaled = builder.fmul(divisor, _power_of_two(builder, half))
    scaled = builder.fmul(scaled, _power_of_two(builder, builder.sub(shift, half)))
    quotient = intrinsic(builder, "rint", kind, [builder.fdiv(rest, scaled)], [kind])
    left = intrinsic(builder, "fma", kind, [builder.fneg(quotient), scaled, rest], [kind])
    below = builder.fcmp_ordered("<", left, constant(kind, 0.0))
    return builder.select(below, builder.fadd(left, scaled), left)


def _exponent(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The biased exponent of a finite non-negative float64, denormals normalised."""
    bits = widen(I64, lanes_of(x))
    small = builder.fcmp_ordered("<", x, constant(x.type, 2.0**-1022))
    normal = builder.select(small, builder.fmul(x, constant(x.type, 2.0**54)), x)
    field = builder.lshr(builder.bitcast(normal, bits), constant(bits, 52))
    return builder.select(small, builder.sub(field, constant(bits, 54)), field)


def _power_of_two(builder: ir.IRBuilder, exponent: ir.Value) -> ir.Value:
    biased = builder.add(exponent, constant(exponent.type, 1023))
    return builder.bitcast(builder.shl(biased, constant(exponent.type, 52)), widen(DOUBLE, lanes_of(exponent)))
