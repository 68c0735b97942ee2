"""Re-anchoring: functions that read one edge of a length only, made equivariant at every length."""

from .around import AroundForward as AroundForward
from .around import change_around as change_around
from .around import drop_around as drop_around
from .around import forwards_of as forwards_of
from .around import place_around as place_around
from .around import require_whole_copy as require_whole_copy
from .frames import Anchored as Anchored
from .frames import Entry as Entry
from .frames import Frame as Frame
from .frames import Table as Table
from .frames import UnplannedCallError as UnplannedCallError
from .frames import anchor as anchor
from .frames import anchored as anchored
from .frames import read_table as read_table
from .frames import unanchor as unanchor
from .readings import CallAxes as CallAxes
from .readings import EdgeFunction as EdgeFunction
from .readings import Settings as Settings
from .readings import choose as choose
from .recorder import MARK as MARK
from .recorder import CallNames as CallNames
from .recorder import Recorder as Recorder
from .replicas import follow_replicas as follow_replicas
from .replicas import rebound as rebound
from .replicas import unfollow_replicas as unfollow_replicas
