"""From a network in torch to a program of the engine, and a program run in torch."""

from thrifty.lowering.lowering import Lowered, lower

__all__ = ["Lowered", "lower"]
