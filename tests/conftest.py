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
# Else `torch.manual_seed` notes the whole stack for each kind of device that is not there: 1 ms.
for _devices in (torch.cuda, torch.xpu, torch.mtia):
    if not _devices.is_available():
        _devices.manual_seed_all = lambda seed: None


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of the garbage collector's rounds, which cost a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    for logger in [*logging.root.manager.loggerDict.values()]:  # pytest adds itself to each that does not hand on
        logger.propagate = True
