"""Shared-encoder autoencoders, one architecture family a file, its Config beside it."""
