"""Models that read both strands: conjoined, or mixed, whose layers read the other strand's features too."""
