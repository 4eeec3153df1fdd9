"""What happens to frames: one stage a file, its Config, class and docstring together."""
