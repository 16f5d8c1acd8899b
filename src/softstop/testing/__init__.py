"""The public test kit: virtual time, scripted bodies, and a walk through every stop that can come.

Needs no pytest, but for the fixture `stops` of `softstop.testing.fixture`.

Virtual time, where an hour of waiting takes no time and a wait for nothing is an error at once:

```python
assert run_virtual(an_async_function) == ...
```

or for every async test, with pytest-asyncio, in `conftest.py`:

```python
def pytest_asyncio_loop_factories(config, item):
    return {"virtual": VirtualLoop}
```

Every stop at every point of a scenario, each time held against the law of a stop, in a plain test function:

```python
def test_my_agent_can_be_stopped_anywhere() -> None:
    stop_everywhere(lambda supervisor: supervisor.start(my_agent, "hello"), effects=BOOK)
```

`BOOK` is a list to which the fakes of the agent append what they do to the world: what a stop tears is found, too.

Bodies that follow a script, to test guards, observers and limits of your own:

```python
agent = scripted(write("Paying. "), step("pay", 1.5, charge(tokens=20)), stream("report", ["all ", "done"], every=0.2))
```
"""

from .errors import Deadlock as Deadlock
from .errors import LawBroken as LawBroken
from .explorer.explore import Exploration as Exploration
from .explorer.explore import Report as Report
from .explorer.explore import stop_everywhere as stop_everywhere
from .explorer.recorder import Mark as Mark
from .explorer.recorder import mark as mark
from .explorer.schedules import CAUSES as CAUSES
from .explorer.trace import Trace as Trace
from .scripts.actions import ScriptedFailure as ScriptedFailure
from .scripts.actions import boundary as boundary
from .scripts.actions import charge as charge
from .scripts.actions import fail as fail
from .scripts.actions import hang as hang
from .scripts.actions import on_stop as on_stop
from .scripts.actions import sleep as sleep
from .scripts.actions import step as step
from .scripts.actions import stream as stream
from .scripts.actions import swallow as swallow
from .scripts.actions import turns as turns
from .scripts.actions import write as write
from .scripts.script import Action as Action
from .scripts.script import ScriptedBody as ScriptedBody
from .scripts.script import scripted as scripted
from .scripts.together import member as member
from .scripts.together import parallel as parallel
from .virtual_loop import VirtualLoop as VirtualLoop
from .virtual_loop import run_virtual as run_virtual
