"""Mask shapes, one a file; the file's name is its name in config.yaml.

Each module has `draw(landmarks, size) -> mask`: (478, 2) float32 landmarks in px of a size x size crop (MediaPipe's
face mesh order; they may lie outside the crop) to (size, size) float32, 0 (keep the picture) to 1 (take the swapped
face). Erosion, feathering and the clear border are the mask stage's business.
"""
