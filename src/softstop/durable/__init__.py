"""One door over runs for code that serves them to others: start, find, follow and stop, each for the run's own user.

Runs of this process and, with a recording, those that other processes keep in the same store.
"""

from .following import OUTCOMES as OUTCOMES
from .runs import Runs as Runs
from .views import RunView as RunView
