"""The public test kit: virtual time, scripted bodies, and a walk through every stop that can come. Needs no pytest.

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
    stop_everywhere(lambda supervisor: supervisor.start(my_agent, "hello"))
```

Bodies that follow a script, to test guards, observers and limits of your own:

```python
agent = scripted(write("Paying. "), step("pay", 1.5, charge(tokens=20)), stream("report", ["all ", "done"], every=0.2))
```
"""

from softstop.errors import Deadlock as Deadlock
from softstop.errors import LawBroken as LawBroken

from ._explore import Exploration as Exploration
from ._explore import Report as Report
from ._explore import stop_everywhere as stop_everywhere
from ._loop import VirtualLoop as VirtualLoop
from ._loop import run_virtual as run_virtual
from ._random import random_agent as random_agent
from ._scene import Trace as Trace
from ._schedule import CAUSES as CAUSES
from ._script import Action as Action
from ._script import ScriptedBody as ScriptedBody
from ._script import ScriptedFailure as ScriptedFailure
from ._script import boundary as boundary
from ._script import charge as charge
from ._script import fail as fail
from ._script import hang as hang
from ._script import member as member
from ._script import on_stop as on_stop
from ._script import parallel as parallel
from ._script import scripted as scripted
from ._script import sleep as sleep
from ._script import step as step
from ._script import stream as stream
from ._script import swallow as swallow
from ._script import turns as turns
from ._script import write as write
from ._witness import Mark as Mark
from ._witness import mark as mark
