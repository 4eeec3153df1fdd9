"""Which of the 478 landmarks is what: rings and lines of MediaPipe's face mesh that the puppets are moved by.

"Right" and "left" are the person's own; the right eye is at the left of an upright, unmirrored picture. Lines run
from left to right in such a picture. Source: the connection sets of `mediapipe.solutions.face_mesh_connections`.
"""

from __future__ import annotations

from typing import Final

COUNT: Final = 478

OVAL: Final = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)

RIGHT_LID_UPPER: Final = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_LID_LOWER: Final = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_LID_UPPER: Final = (362, 398, 384, 385, 386, 387, 388, 466, 263)
LEFT_LID_LOWER: Final = (362, 382, 381, 380, 374, 373, 390, 249, 263)
RIGHT_IRIS: Final = (468, 469, 470, 471, 472)
LEFT_IRIS: Final = (473, 474, 475, 476, 477)

RIGHT_BROW: Final = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)
LEFT_BROW: Final = (336, 296, 334, 293, 300, 285, 295, 282, 283, 276)

LIP_INNER_UPPER: Final = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIP_INNER_LOWER: Final = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
LIP_OUTER_UPPER: Final = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LIP_OUTER_LOWER: Final = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)

CHIN: Final = 152
FOREHEAD: Final = 10
RIGHT_CHEEK: Final = 234
LEFT_CHEEK: Final = 454
NOSE_TIP: Final = 1
