"""What an event is made of: the stamp its run's events share, read-only fields, JSON. Knows no phenomenon.

Events are built on the hot path, once per delta, so they are slotted classes behind read-only properties:
a frozen dataclass costs six times as much to build, a pydantic model five times. Pydantic still describes them:
each class is usable as a field type, in a `TypeAdapter` and in a JSON schema.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, ClassVar, Literal, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema, from_json, to_json, to_jsonable_python

from ._names import KINDS, NAMED, EventName, Kind, Source, name_in
from .usage import Usage


class Stamp:
    """What all events of one run share. Immutable by agreement: only softstop builds and holds one."""

    __slots__ = ("_heads", "folded", "parent", "parent_run_id", "root_run_id", "run_id", "source")

    def __init__(self, run_id: str, source: Source, parent: Stamp | None = None) -> None:
        self.run_id = run_id
        self.source = source
        self.parent = parent
        self.parent_run_id = None if parent is None else parent.run_id
        self.root_run_id: str = run_id if parent is None else parent.root_run_id
        self.folded: list[str] | tuple[()] | None = None  # text that the log has folded, while the run lives
        self._heads: dict[type[Event], bytes] | None = None  # JSON up to `seq`; only made for runs that are sent out

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


class Event:
    """What all events have. Values: readers cannot change them, equal fields make equal events.

    `seq` counts from 1 without gaps in the log of a root run; `at` is wall-clock seconds since the epoch;
    `metrics` is the usage that this event adds, the sum over a run's events is the usage of its outcome.
    """

    __slots__ = ("_at", "_metrics", "_seq", "_stamp")
    names: ClassVar[dict[Kind, EventName]] = {}  # what it is called in each kind of run; empty in base classes
    FIELDS: ClassVar[tuple[str, ...]] = ()  # of this class only, in the order of the constructor
    STATUS: ClassVar[str]  # of outcomes: the final status they stand for
    _wire: ClassVar[type[BaseModel] | None] = None  # see `_wire_model`

    run_id: str = view("_stamp.run_id")
    parent_run_id: str | None = view("_stamp.parent_run_id")
    root_run_id: str = view("_stamp.root_run_id")
    source: Source = view("_stamp.source")
    seq: int = view("_seq")
    at: float = view("_at")
    metrics: Usage | None = view("_metrics")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None = None) -> None:
        self._stamp, self._seq, self._at, self._metrics = stamp, seq, at, metrics

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
        """The text of an event that has some."""
        return None

    def _own(self) -> dict[str, Any]:
        own = {"seq": self._seq, "at": self._at, "metrics": self._metrics}
        for name in self.FIELDS:
            own[name] = getattr(self, name)
        return own

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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.names:
            return _schema_of_kinds(cls, handler)
        wire = handler.generate_schema(_wire_model(cls))
        serial = core_schema.plain_serializer_function_ser_schema(cls.to_dict)
        rebuild = core_schema.no_info_before_validator_function(lambda data: data, wire)
        built = core_schema.no_info_after_validator_function(lambda wired: _from_wire(cls, wired), rebuild)
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


def _schema_of_kinds(base: type[Event], handler: GetCoreSchemaHandler) -> CoreSchema:
    """A base class stands for all events below it, told apart by their names."""
    below: list[type[Event]] = [base]
    kinds: list[type[Event]] = []
    while below:
        cls = below.pop(0)
        below.extend(cls.__subclasses__())
        if cls.names:
            kinds.append(cls)
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
        hints = get_type_hints(cls)
        fields: dict[str, Any] = {"event": Literal[tuple(sorted({name.value for name in cls.names.values()}))]}
        for name in ("run_id", "parent_run_id", "root_run_id", "source", "seq", "at", "metrics", *cls.FIELDS):
            fields[name] = hints[name] if name in hints else _hint_of(cls, name)
        required: dict[str, Any] = {name: (hint, ...) for name, hint in fields.items()}
        cls._wire = create_model(cls.__name__, __config__=ConfigDict(extra="forbid"), **required)
    return cls._wire


def _hint_of(cls: type[Event], name: str) -> Any:
    """The type of a field that is a property of its own."""
    return Literal[cls.STATUS] if name == "status" else get_type_hints(getattr(cls, name).fget)["return"]


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
    own = [getattr(wired, name) for name in cls.FIELDS if name != "status" or not hasattr(cls, "STATUS")]
    return cls(stamp, wired.seq, wired.at, wired.metrics, *own)
