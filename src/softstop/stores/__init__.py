"""Stores: runs that other processes see, stop and end, and that outlive their own."""

from .memory import MemoryStore as MemoryStore
from .memory import Shelf as Shelf
from .recording import Recording as Recording
from .store import Asked as Asked
from .store import Audit as Audit
from .store import Batch as Batch
from .store import Changed as Changed
from .store import Decision as Decision
from .store import Lapsed as Lapsed
from .store import MessageCodec as MessageCodec
from .store import News as News
from .store import OwnerLost as OwnerLost
from .store import Page as Page
from .store import ReadBy as ReadBy
from .store import Request as Request
from .store import RunQuery as RunQuery
from .store import RunRecord as RunRecord
from .store import Store as Store
from .store import Verdict as Verdict
