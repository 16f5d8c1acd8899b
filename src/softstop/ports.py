"""Names for code beside softstop: protocols to implement, what they are told, and the context of adapters."""

from .law.amounts import Amount as Amount
from .law.amounts import Room as Room
from .law.ledgers import Hold as Hold
from .law.ledgers import Ledger as Ledger
from .protocols import Observer as Observer
from .protocols import Recorder as Recorder
from .protocols import RunFacts as RunFacts
from .protocols import Runnable as Runnable
from .protocols import Tape as Tape
from .runs.adapter import AdapterContext as AdapterContext
from .runs.adapter import Approval as Approval
from .runs.adapter import ToolTrace as ToolTrace
from .runs.allowance import Exhausted as Exhausted
from .runs.spec import RunOptions as RunOptions
