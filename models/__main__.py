"""`python -m models NAME [--onnx FILE]`: a model's inputs and size, and its ONNX file."""

from __future__ import annotations

import argparse

from models import MODELS, build, dynamic_axes


def main(arguments: list[str] | None = None) -> None:
    """Print the model's inputs and parameter count; with --onnx write its ONNX file."""
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--onnx", metavar="FILE", help="write the model there as ONNX, batch and seq dynamic")
    options = parser.parse_args(arguments)
    model, inputs = build(options.name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.name}: {parameters:,} parameters")
    for tensor, axes in zip(inputs, dynamic_axes(options.name), strict=True):
        print(f"  input {tensor.dtype} {[axes.get(axis, size) for axis, size in enumerate(tensor.shape)]}")
    if options.onnx:
        from models.export import to_onnx

        size = len(to_onnx(model, inputs, options.onnx, dynamic_axes(options.name)))
        print(f"  wrote {options.onnx}, {size:,} bytes")


if __name__ == "__main__":
    main()
