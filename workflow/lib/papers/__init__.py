"""One room per paper; `workflow.lib.contract` says what a room holds, `workflow.lib.rooms` finds them."""

from workflow.lib import places

__path__[:] = places.packages()
