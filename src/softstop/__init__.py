"""An asyncio-native run supervisor: stop any agent run at its next step, once, with what it has done.

Begin with `Agent`, which makes something that can be run of an async function or of a model; `RunContext`, which that
function gets; `Run`, which a started one is; and `Supervisor`, which owns runs. `help(softstop.Agent)` tells its
arguments and errors, and so it is with each name here. All times are in seconds; all money is in US dollars or in
nano-USD, 10**9 of them a dollar, as the name says.

Beside this module there are `softstop.events`, `softstop.models`, `softstop.stores`, `softstop.stores.sqlite`,
`softstop.durable`, `softstop.server`, `softstop.testing` and `softstop.ports`; the other ones are no public API.
"""

from .errors import BudgetExceeded as BudgetExceeded
from .errors import EventsExpired as EventsExpired
from .errors import MemberFailed as MemberFailed
from .errors import MisuseError as MisuseError
from .errors import RunErrored as RunErrored
from .errors import RunIdTaken as RunIdTaken
from .errors import RunNotCancellable as RunNotCancellable
from .errors import RunNotFound as RunNotFound
from .errors import RunStopped as RunStopped
from .errors import RunSuperseded as RunSuperseded
from .errors import SoftstopError as SoftstopError
from .errors import StepFailed as StepFailed
from .errors import StepTimeout as StepTimeout
from .errors import StoreUnavailable as StoreUnavailable
from .errors import SupervisorClosed as SupervisorClosed
from .events import ApprovalDecided as ApprovalDecided
from .events import ApprovalRequested as ApprovalRequested
from .events import BudgetWarning as BudgetWarning
from .events import Event as Event
from .events import LimitsChanged as LimitsChanged
from .events import ModelRequestCompleted as ModelRequestCompleted
from .events import ModelRequestStarted as ModelRequestStarted
from .events import Outcome as Outcome
from .events import ReasoningContentDelta as ReasoningContentDelta
from .events import RunCancelled as RunCancelled
from .events import RunCompleted as RunCompleted
from .events import RunContent as RunContent
from .events import RunContinued as RunContinued
from .events import RunEscalated as RunEscalated
from .events import RunEvent as RunEvent
from .events import RunFailed as RunFailed
from .events import RunPaused as RunPaused
from .events import RunQueued as RunQueued
from .events import RunStarted as RunStarted
from .events import RunStopRequested as RunStopRequested
from .events import SlotLent as SlotLent
from .events import Source as Source
from .events import StepCompleted as StepCompleted
from .events import StepRecord as StepRecord
from .events import StepStarted as StepStarted
from .events import TeamRunEvent as TeamRunEvent
from .events import ToolCallCompleted as ToolCallCompleted
from .events import ToolCallStarted as ToolCallStarted
from .events import UsageRejected as UsageRejected
from .events import WorkflowRunEvent as WorkflowRunEvent
from .events import parse_event as parse_event
from .law.budgets import Budget as Budget
from .limits import UNLIMITED as UNLIMITED
from .limits import Headroom as Headroom
from .limits import Limits as Limits
from .log.reader import EventStream as EventStream
from .protocols import RunFacts as RunFacts
from .runnables.agents import Agent as Agent
from .runnables.teams import BestEffort as BestEffort
from .runnables.teams import Team as Team
from .runnables.workflows import Condition as Condition
from .runnables.workflows import Loop as Loop
from .runnables.workflows import Parallel as Parallel
from .runnables.workflows import Router as Router
from .runnables.workflows import Workflow as Workflow
from .runs.changing import RunLimits as RunLimits
from .runs.context import RunContext as RunContext
from .runs.run import Run as Run
from .runs.spec import RunOptions as RunOptions
from .runs.spec import RunOutput as RunOutput
from .runs.steps import Step as Step
from .runs.streams import Stream as Stream
from .stops import LimitReached as LimitReached
from .stops import RunStatus as RunStatus
from .stops import StopCause as StopCause
from .stops import StopMode as StopMode
from .stops import StopOutcome as StopOutcome
from .stops import StopPolicy as StopPolicy
from .stops import StopReceipt as StopReceipt
from .stops import StopRequest as StopRequest
from .stops import StopResult as StopResult
from .supervisor.current import cancel_run as cancel_run
from .supervisor.current import current_run as current_run
from .supervisor.defaults import configure as configure
from .supervisor.portal import SyncEventStream as SyncEventStream
from .supervisor.running import run as run
from .supervisor.supervisor import Supervisor as Supervisor
from .supervisor.supervisor import SupervisorStatistics as SupervisorStatistics
from .usage import Usage as Usage

for _value in list(vars().values()):  # so that a repr reads softstop.Run, wherever that is written
    if getattr(_value, "__module__", "").startswith("softstop.") and not hasattr(_value, "__dataclass_fields__"):
        _value.__module__ = __name__  # pydantic looks up the types of a dataclass's fields where it was written
del _value  # pyright: ignore[reportPossiblyUnboundVariable] - there is more than one
