"""The public test kit: virtual time, scripted bodies, and a proof by exhaustion that your own agent can be stopped."""

from ._loop import VirtualLoop as VirtualLoop
from ._loop import run_virtual as run_virtual
