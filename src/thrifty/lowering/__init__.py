"""From a network in torch to a program of the engine, and a program run in torch."""
