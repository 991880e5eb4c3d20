"""How a long step says how far it has come.

In:  nothing.  Out: the type of the callback that training, tuning, evaluation and the harness take.
Showing the progress is left to the caller.
"""

from collections.abc import Callable

# Called with the steps done, the steps in all, and a short text about the last one.
Progress = Callable[[int, int, str], None]
