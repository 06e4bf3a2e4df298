"""Other memories than the paper's: each a `kinds.Memory`, walked through by `walk.py`."""
