"""Colour transfers, one a file; the file's name is its name in config.yaml.

Each module has `transfer(swapped, aligned, mask) -> coloured`: the network's face and the face it replaces, both
(T, T, 3) uint8 RGB over the same square, and the (T, T) float32 mask 0..1, to (T, T, 3) uint8 RGB. Inputs are not
written to. Mixing it into the picture is the blend stage's business.
"""
