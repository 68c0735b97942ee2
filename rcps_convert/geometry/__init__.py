"""Re-anchoring: functions that read one edge of a length only, made equivariant at every length."""

from .frames import MARK as MARK
from .frames import Anchored as Anchored
from .frames import CallNames as CallNames
from .frames import Entry as Entry
from .frames import Recorder as Recorder
from .frames import Table as Table
from .frames import UnplannedCallError as UnplannedCallError
from .frames import anchor as anchor
from .frames import unanchor as unanchor
from .frames import unseen as unseen
from .readings import Reading as Reading
from .readings import Settings as Settings
from .readings import Site as Site
from .readings import choose as choose
