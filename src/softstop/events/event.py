"""The base of all events: the stamp that a run's events share, read-only fields, JSON.

Events are built on the hot path, once per delta, so they are slotted classes behind read-only properties:
a frozen dataclass costs six times as much to build, a pydantic model five times. Pydantic still describes them:
each class is usable as a field type, in a `TypeAdapter` and in a JSON schema.
"""

from __future__ import annotations

from inspect import get_annotations
from operator import attrgetter
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema, from_json, to_json, to_jsonable_python

from ..usage import Usage
from .names import KINDS, NAMED, EventName, Kind, Source, name_in


class Stamp:
    """The fields that all events of one run share. Immutable by agreement: only softstop builds and holds one."""

    __slots__ = ("_heads", "parent", "parent_run_id", "root_run_id", "run_id", "source")

    def __init__(self, run_id: str, source: Source, parent: Stamp | None = None) -> None:
        self.run_id = run_id
        self.source = source
        self.parent = parent
        self.parent_run_id = None if parent is None else parent.run_id
        self.root_run_id: str = run_id if parent is None else parent.root_run_id
        self._heads: dict[type[Event], bytes] | None = None  # JSON up to `seq`; made with the first `to_json`

    def head_of(self, kind: type[Event]) -> bytes:
        """The part of the JSON object that is the same for all events of this kind in this run."""
        if self._heads is None:
            self._heads = {}
        head = self._heads.get(kind)
        if head is None:
            shared = {
                "event": kind.names[self.source.kind],
                "run_id": self.run_id,
                "parent_run_id": self.parent_run_id,
                "root_run_id": self.root_run_id,
                "source": self.source,
            }
            head = self._heads[kind] = to_json(shared)[:-1] + b","
        return head

    def within(self, other: Stamp) -> bool:
        """Whether this is `other`'s run or one below it."""
        here: Stamp | None = self
        while here is not None:
            if here is other:
                return True
            here = here.parent
        return False


def view(slot: str) -> Any:
    """A read-only public name for a private slot, at C speed."""
    return property(attrgetter(slot))


E = TypeVar("E", bound="Event")
PUBLIC = frozenset(  # what `public` shows; fields that are not named here, also future ones, it does not
    {"event", "run_id", "parent_run_id", "root_run_id", "source", "seq", "at"}
    | {"content", "status", "cause", "step_id", "kind", "finish_reason"}
)


@dataclass_transform(frozen_default=True, eq_default=False)
def event(cls: type[E]) -> type[E]:
    """Make an event class of its annotations: a private slot and a read-only view for each, and a constructor.

    The constructor takes the fields of the class and of its bases, in that order; those with a default need not
    be given. The log's writer sets stamp, number, time and usage. Generated, since a frozen dataclass costs
    six times as much.
    """
    own = get_annotations(cls, eval_str=True)
    fields = {**cls.FIELDS, **own}
    defaults = cls.DEFAULTS | {name: vars(cls)[name] for name in own if name in vars(cls)}
    space = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    space |= {name: view(f"_{name}") for name in own}
    space |= {"__slots__": tuple(f"_{name}" for name in own), "FIELDS": fields, "DEFAULTS": defaults}
    given = [f"{name}=default_{name}" if name in defaults else name for name in fields]
    lines = [f"def __init__(self, {', '.join(given)}):", *(f"self._{name} = {name}" for name in fields)]
    if fields:
        exec("\n    ".join(lines), {f"default_{name}": value for name, value in defaults.items()}, space)
    return cast("type[E]", type(cls)(cls.__name__, cls.__bases__, space))  # type: ignore[misc]


class Event:
    """The base of all events. A value: readers cannot change it, equal fields make equal events.

    `seq` counts from 1 without gaps in the log of a root run; `at` is wall-clock seconds since the epoch;
    `metrics` is the usage that this event adds, the sum over a run's events is the usage of its outcome. What is
    charged in a step is told by that step's own content and end, the rest by the run's next other event.
    """

    __slots__ = ("_at", "_metrics", "_seq", "_stamp")
    names: ClassVar[dict[Kind, EventName]] = {}  # its name in each kind of run; empty in base classes
    FIELDS: ClassVar[dict[str, Any]] = {}  # the constructor's, in its order, with their types
    DEFAULTS: ClassVar[dict[str, Any]] = {}  # of those that need not be given
    STATUS: ClassVar[str]  # of outcomes: the final status
    CLASSES: ClassVar[tuple[type[Event], ...]] = ()  # all that have a name; set in `kinds`
    _wire: ClassVar[type[BaseModel] | None] = None  # see `_wire_model`

    run_id: str = view("_stamp.run_id")
    parent_run_id: str | None = view("_stamp.parent_run_id")
    root_run_id: str = view("_stamp.root_run_id")
    source: Source = view("_stamp.source")
    seq: int = view("_seq")
    at: float = view("_at")
    metrics: Usage | None = view("_metrics")

    def _stamped(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None = None) -> Self:
        """Set run, number and time; called once, by the writer that appends the event."""
        self._stamp, self._seq, self._at, self._metrics = stamp, seq, at, metrics
        return self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name: str = cls.__dict__.get("NAME", cls.__name__)
        cls._wire = None
        if name in NAMED:
            cls.names = {kind: name_in(kind, name) for kind in KINDS}

    @property
    def event(self) -> EventName:
        """The member of the enum of its kind: `event.event == RunEvent.run_content`."""
        return self.names[self._stamp.source.kind]

    @property
    def content(self) -> str | None:
        """The text of an event that has some: a piece in RunContent, all of it in an outcome."""
        return None

    @property
    def delta(self) -> str | None:
        """The text that this event adds, None but for RunContent: `text += event.delta or ""` gives each word once."""
        return None

    def _own(self) -> dict[str, Any]:
        own: dict[str, Any] = {"seq": self._seq, "at": self._at, "metrics": self._metrics}
        if hasattr(self, "STATUS"):
            own["status"] = self.STATUS
        return own | {name: getattr(self, name) for name in self.FIELDS}

    def to_json(self) -> bytes:
        """One JSON object on one line, UTF-8."""
        return self._stamp.head_of(type(self)) + to_json(self._own())[1:]

    def to_dict(self) -> dict[str, Any]:
        """The same object as JSON-able Python data."""
        stamp = self._stamp
        shared = {"event": self.event.value, "run_id": stamp.run_id, "parent_run_id": stamp.parent_run_id}
        data = {**shared, "root_run_id": stamp.root_run_id, "source": stamp.source, **self._own()}
        plain: dict[str, Any] = to_jsonable_python(data)
        return plain

    def public(self) -> dict[str, Any]:
        """What the client of a user may see of it, as JSON-able Python data: `json.dumps(event.public())`.

        The fields that all events have but `metrics`, and `content`, `status`, `cause`, `step_id`, `kind` and
        `finish_reason` where there are such: no texts of exceptions, names of steps, reasons, authors, usage or limits.
        `parse_event` takes the whole event only.
        """
        return {name: value for name, value in self.to_dict().items() if name in PUBLIC}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.names:
            return _schema_of_classes([kind for kind in Event.CLASSES if issubclass(kind, cls)], handler)
        wire = handler.generate_schema(_wire_model(cls))
        serial = core_schema.plain_serializer_function_ser_schema(cls.to_dict)
        built = core_schema.no_info_after_validator_function(lambda wired: _from_wire(cls, wired), wire)
        return core_schema.union_schema([core_schema.is_instance_schema(cls), built], serialization=serial)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.run_id, self._seq, type(self)))

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.FIELDS)
        return f"{type(self).__name__}(run_id={self.run_id!r}, seq={self._seq}{', ' if own else ''}{own})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.to_json())


SHARED = {  # fields of all events and their types, in the order of the JSON
    name: hint
    for name, hint in get_annotations(Event, eval_str=True).items()
    if name in ("run_id", "parent_run_id", "root_run_id", "source", "seq", "at", "metrics")
}


def _schema_of_classes(kinds: list[type[Event]], handler: GetCoreSchemaHandler) -> CoreSchema:
    """The schema of a base class: a union of the events below it, discriminated by `event`."""
    choices: dict[Any, CoreSchema] = {cls.__name__: handler.generate_schema(cls) for cls in kinds}
    name_of = {name.value: cls.__name__ for cls in kinds for name in cls.names.values()}

    def which(data: Any) -> str | None:
        if isinstance(data, Event):
            return type(data).__name__
        name = cast("dict[str, Any]", data).get("event") if isinstance(data, dict) else None
        return name_of.get(name) if isinstance(name, str) else None

    return core_schema.tagged_union_schema(choices, which)


def _wire_model(cls: type[Event]) -> type[BaseModel]:
    """The pydantic model of one event as JSON; built on first use, since fourteen of them cost 20 ms."""
    if cls._wire is None:
        named: Any = Literal[tuple(sorted({name.value for name in cls.names.values()}))]
        fields: dict[str, Any] = {"event": named, **SHARED}
        if hasattr(cls, "STATUS"):
            fields["status"] = Literal[cls.STATUS]
        fields |= cls.FIELDS
        required: dict[str, Any] = {name: (hint, ...) for name, hint in fields.items()}
        # a bound makes pydantic refuse lone surrogates, which could not be written again
        config = ConfigDict(extra="forbid", str_min_length=0, allow_inf_nan=False)
        cls._wire = create_model(cls.__name__, __config__=config, **required)
    return cls._wire


def event_from(cls: type[Event], data: Any) -> Event:
    """Rebuild an event of this class from JSON-able data, checking every field."""
    return _from_wire(cls, _wire_model(cls).model_validate(data))


def _revive(cls: type[Event], data: bytes) -> Event:
    return event_from(cls, from_json(data))


def _from_wire(cls: type[Event], wired: Any) -> Event:
    kind: Kind = wired.source.kind
    if wired.event != cls.names[kind].value:
        raise ValueError(f"an event of {kind} {wired.source.name!r} cannot be named {wired.event}")
    above = None if wired.parent_run_id is None else Stamp(wired.parent_run_id, wired.source)
    stamp = Stamp(wired.run_id, wired.source, above)
    if above is None and wired.root_run_id != wired.run_id:
        raise ValueError(f"a run without a parent is its own root: {wired.run_id!r}, not {wired.root_run_id!r}")
    stamp.root_run_id = wired.root_run_id
    own = [getattr(wired, name) for name in cls.FIELDS]
    return cls(*own)._stamped(stamp, wired.seq, wired.at, wired.metrics)
