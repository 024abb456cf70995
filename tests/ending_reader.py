"""What a process of the fuzz suite runs, but its third input ends it and its fifth hangs."""

import os
import time


def read(name, seeds, pipe):
    """As `experiments.fuzz.chunks._read`."""
    pipe.send(True)
    for seed in seeds:
        if seed == 2:
            os._exit(3)
        time.sleep(600 if seed == 4 else 0)
        pipe.send((seed, "accepted", "", 0))
