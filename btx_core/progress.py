"""How a long step says how far it has come.

In:  nothing.
Out: the type of the callback that mixing, training, tuning, evaluation and the harness take.
Showing the progress is left to the caller.
"""

from collections.abc import Callable

# Called with what is done, how much there is in all, and a short text: about the last step, or the
# name of the file that comes next.
Progress = Callable[[int, int, str], None]
