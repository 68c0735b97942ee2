"""Shared set-up."""

import gc
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
# pytest collects what a logger does not hand on; of each export that is the text of graphs, which nobody reads.
logging.getLogger("torch.__trace").propagate = True


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of the garbage collector's rounds, which cost a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
