"""People who can be filmed without anybody: the clips of the demo and of the tests.

A puppet is a frontal picture of a person, animated through its face mesh (`puppet.py`): the head turns in depth, lids
and lips part (`face.py`), to a script (`pose.py`) and to speech-like sound (`speech.py`). `scenes.py` films it.
"""
