"""Two processes that train one model together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_in_two(worker: str, folder: Path, *arguments: str) -> None:
    """Run a script as rank 0 and as rank 1; each must end by saying that its model is equivariant.

    Args:
        worker: the script; ``{here}`` in it is the folder of the tests. Its last arguments are the rank and a file.
        folder: where the script and the file go.
        arguments: the first ones.
    """
    script = folder / "worker.py"
    script.write_text(worker.format(here=str(Path(__file__).parent)))
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments, str(rank), str(folder / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(started):
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        assert f"equivariant on rank {rank}" in output
