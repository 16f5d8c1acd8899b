"""Events are values: immutable, equal by their fields, the same after a trip over JSON or pickle, named as agreed."""

import copy
import json
import pickle  # noqa: TID251 - events of other processes arrive so; nothing in src unpickles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

import softstop
from kit.events import EVERY, KINDS, NAMES, OWN_FIELDS, SHARED_FIELDS, events, example
from softstop import (
    Event,
    MisuseError,
    Outcome,
    RunCancelled,
    RunCompleted,
    RunContent,
    RunEvent,
    RunFailed,
    RunStarted,
    RunStatus,
    Source,
    StepCompleted,
    StepStarted,
    TeamRunEvent,
    ToolCallStarted,
    Usage,
    WorkflowRunEvent,
    parse_event,
)
from softstop.events import EVENT_CLASSES, Stamp

# -- names -----------------------------------------------------------------------------------------------------------


def test_there_is_one_class_a_phenomenon_and_no_other() -> None:
    assert set(EVENT_CLASSES) == set(NAMES)
    assert len(EVENT_CLASSES) == 23
    assert all(getattr(softstop, cls.__name__) is cls for cls in EVENT_CLASSES)


@pytest.mark.parametrize(("cls", "kind"), EVERY)
def test_an_event_is_named_by_the_enum_of_its_kind_with_the_agreed_value(cls: type[Event], kind: str) -> None:
    index = KINDS.index(kind)
    event = example(cls, kind)
    assert event.event is NAMES[cls][index]
    assert event.event == NAMES[cls][index + 3]
    assert type(event.event) is (RunEvent, TeamRunEvent, WorkflowRunEvent)[index]
    assert json.loads(event.to_json())["event"] == NAMES[cls][index + 3]


@pytest.mark.parametrize(("enum", "index"), [(RunEvent, 0), (TeamRunEvent, 1), (WorkflowRunEvent, 2)])
def test_each_enum_has_a_member_for_each_class_and_none_besides(enum: Any, index: int) -> None:
    assert {member: member.value for member in enum} == {names[index]: names[index + 3] for names in NAMES.values()}


@pytest.mark.parametrize(("cls", "kind"), EVERY)
def test_every_event_has_the_shared_fields_and_exactly_its_own(cls: type[Event], kind: str) -> None:
    event = example(cls, kind)
    for name in (*SHARED_FIELDS, "content"):
        assert hasattr(event, name)
    assert (event.source.kind, event.source.id, event.source.name) == (kind, "teller", "Teller")
    assert set(event.to_dict()) == SHARED_FIELDS | OWN_FIELDS[cls]


def test_only_content_and_outcome_events_have_content() -> None:
    with_text = {cls for cls in NAMES if example(cls).content is not None}
    assert with_text == {RunContent, RunCompleted, RunCancelled, RunFailed}


@pytest.mark.parametrize(
    ("cls", "status"),
    [(RunCompleted, RunStatus.completed), (RunCancelled, RunStatus.cancelled), (RunFailed, RunStatus.failed)],
)
def test_an_outcome_event_has_its_status_and_no_other_event_has_one(cls: type[Outcome], status: RunStatus) -> None:
    event = example(cls)
    assert isinstance(event, Outcome)
    assert event.status is status
    others = [known for known in NAMES if not issubclass(known, Outcome | StepCompleted)]
    assert not [known for known in others if hasattr(example(known), "status")]


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_no_field_of_an_event_can_be_set_deleted_or_added(cls: type[Event]) -> None:
    event = example(cls)
    before = event.to_json()
    for name in (*SHARED_FIELDS, *OWN_FIELDS[cls], "content", "something_new"):
        with pytest.raises(AttributeError):
            setattr(event, name, "changed")
        with pytest.raises(AttributeError):
            delattr(event, name)
    assert not hasattr(event, "__dict__")
    assert event.to_json() == before


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_nothing_that_hangs_on_an_event_can_be_changed_either(cls: type[Event]) -> None:
    event = example(cls, metrics=Usage(input_tokens=1))
    with pytest.raises(AttributeError):
        event.source.name = "changed"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        event.metrics.input_tokens = 2  # type: ignore[union-attr, misc]
    for name in OWN_FIELDS[cls]:
        assert isinstance(getattr(event, name), str | int | float | tuple | BaseModel | None)


@given(st.data())
def test_equal_fields_make_equal_events_with_equal_hashes(data: st.DataObject) -> None:
    event = data.draw(events())
    twin = parse_event(event.to_json())
    assert twin is not event
    assert twin == event
    assert hash(twin) == hash(event)
    assert len({twin, event}) == 1


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_events_that_differ_in_one_field_are_not_equal(cls: type[Event]) -> None:
    event = example(cls)
    assert event == example(cls)
    for changes in ({"seq": 4}, {"at": 6.0}, {"run_id": "r2"}, {"metrics": Usage(input_tokens=1)}, {"kind": "team"}):
        assert event != example(cls, **changes)
    assert event != event.to_dict()
    assert event is not None


def test_a_tool_call_is_a_step_but_never_equal_to_one() -> None:
    assert isinstance(example(ToolCallStarted), StepStarted)
    assert example(ToolCallStarted) != example(StepStarted)


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_a_repr_shows_class_run_and_seq(cls: type[Event]) -> None:
    assert repr(example(cls)).startswith(f"{cls.__name__}(run_id='r1', seq=3")


# -- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "kind"), EVERY)
def test_every_class_and_kind_comes_back_from_json_and_dict(cls: type[Event], kind: str) -> None:
    event = example(cls, kind, metrics=Usage(output_tokens=2, cost_nano_usd=7))
    for back in (parse_event(event.to_json()), parse_event(event.to_json().decode()), parse_event(event.to_dict())):
        assert type(back) is cls
        assert back == event
        assert back.event is event.event


@given(events())
def test_any_event_is_one_line_of_strict_json_and_comes_back_equal(event: Event) -> None:
    wire = event.to_json()
    assert b"\n" not in wire
    assert b"\r" not in wire
    data = json.loads(wire.decode("utf-8"), parse_constant=pytest.fail)
    assert data == event.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    back = parse_event(wire)
    assert type(back) is type(event)
    assert back == event
    assert back.to_json() == wire


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in JSON-able data that hold no other."""
    if isinstance(data, dict | list) and data:
        keys = data if isinstance(data, dict) else range(len(data))
        return [leaf for key in keys for leaf in leaves(data[key], (*path, key))]
    return [path]


WILD = (
    st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud800", float("inf"), float("-inf"), float("nan"), 10**400, -1, True, None, b"x", [], {}])
    | st.floats()
)


@given(events(), st.data())
def test_what_is_taken_for_an_event_can_be_written_and_read_again(event: Event, data: st.DataObject) -> None:
    """A lone surrogate was once taken, and the event could not be sent on."""
    fields = event.to_dict()
    *way, last = data.draw(st.sampled_from(leaves(fields)))
    inner: Any = fields
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(WILD)
    try:
        taken = parse_event(fields)
    except (MisuseError, ValidationError):
        return
    wire = taken.to_json()
    assert json.loads(wire, parse_constant=pytest.fail)
    assert parse_event(wire) == taken


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "\ud800"},
        {"run_id": "r\ud800"},
        {"at": float("inf")},
        {"source": {"kind": "agent", "id": "a", "name": "\ud800"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_field_that_could_not_be_written_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        parse_event({**example(StepStarted).to_dict(), **fields})


def test_a_line_of_70_kilobytes_survives() -> None:
    text = "x" * 70_000 + "\0\n" + "é" * 10
    event = RunContent(text)._stamped(Stamp("r", Source("agent", "a", "A")), 1, 1.0)
    assert parse_event(event.to_json()).content == text
    assert event.to_json().count(b"\n") == 0


def test_a_member_s_event_keeps_its_parent_over_the_wire() -> None:
    parent = Stamp("lead", Source("team", "t", "T"))
    event = RunStarted()._stamped(Stamp("m1", Source("agent", "a", "A"), parent), 2, 1.0)
    back = parse_event(event.to_json())
    assert (back.run_id, back.parent_run_id) == ("m1", "lead")
    assert back.source == Source("agent", "a", "A")


def test_every_event_of_a_tree_names_its_root_also_over_the_wire() -> None:
    root = Stamp("lead", Source("team", "t", "T"))
    middle = Stamp("m1", Source("workflow", "w", "W"), root)
    leaf = Stamp("m2", Source("agent", "a", "A"), middle)
    for stamp in (root, middle, leaf):
        event = RunStarted()._stamped(stamp, 2, 1.0)
        assert event.root_run_id == "lead"
        assert list(json.loads(event.to_json()))[1:4] == ["run_id", "parent_run_id", "root_run_id"]
        assert parse_event(event.to_json()).root_run_id == parse_event(event.to_dict()).root_run_id == "lead"


def test_a_run_without_a_parent_cannot_name_another_root() -> None:
    with pytest.raises(ValidationError, match="root_run_id"):
        parse_event({key: value for key, value in example(RunStarted).to_dict().items() if key != "root_run_id"})
    with pytest.raises(MisuseError, match="its own root"):
        parse_event({**example(RunStarted).to_dict(), "root_run_id": "another"})


@given(events())
def test_any_event_survives_pickle_and_copy(event: Event) -> None:
    for back in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):  # noqa: S301
        assert type(back) is type(event)
        assert back == event


# -- what is no event ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        b"", "", b"{", "[]", "null", "3", '"RunStarted"', b"\xff\xfe", "{}", '{"event": null}', '{"event": 3}',
        '{"event": ["RunStarted"]}', '{"event": {"a": 1}}', '{"event": "runstarted"}', '{"event": "Event"}',
        '{"event": "Outcome"}', '{"event": "RunStarted\\n"}', "[" * 100_000,
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_no_json_object_or_names_no_event_is_misuse(wire: Any) -> None:
    with pytest.raises(MisuseError, match="event"):
        parse_event(wire)


@pytest.mark.parametrize("data", [{}, {"event": ["RunStarted"]}, {"event": None}, {1: 2}, [], None, 3])
def test_python_data_that_is_no_event_is_misuse(data: Any) -> None:
    with pytest.raises(MisuseError):
        parse_event(data)


@pytest.mark.parametrize(("cls", "kind"), EVERY)
def test_a_missing_an_unknown_and_a_mistyped_field_are_each_told(cls: type[Event], kind: str) -> None:
    good = example(cls, kind).to_dict()
    for name in set(good) - {"event"}:
        with pytest.raises(ValidationError, match=name):
            parse_event({key: value for key, value in good.items() if key != name})
    with pytest.raises(ValidationError, match="forged"):
        parse_event({**good, "forged": 1})
    with pytest.raises(ValidationError, match="seq"):
        parse_event({**good, "seq": "many"})
    with pytest.raises(ValidationError, match="source"):
        parse_event({**good, "source": "me"})


def test_an_outcome_cannot_carry_another_status() -> None:
    with pytest.raises(ValidationError, match="status"):
        parse_event({**example(RunCancelled).to_dict(), "status": "completed"})


@pytest.mark.parametrize(
    ("kind", "name"), [("agent", "TeamRunStarted"), ("team", "RunStarted"), ("workflow", "RunStarted")]
)
def test_a_name_of_another_kind_is_refused(kind: str, name: str) -> None:
    with pytest.raises(MisuseError, match=name):
        parse_event({**example(RunStarted, kind).to_dict(), "event": name})


@given(st.text(alphabet=st.characters(), max_size=50) | st.binary(max_size=50))
def test_garbage_is_misuse_and_nothing_else(garbage: str | bytes) -> None:
    with pytest.raises(MisuseError):
        parse_event(garbage)


# -- pydantic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "kind"), EVERY)
def test_a_type_adapter_of_each_class_validates_and_dumps_it(cls: type[Event], kind: str) -> None:
    adapter: TypeAdapter[Event] = TypeAdapter(cls)
    event = example(cls, kind)
    assert adapter.validate_python(event) is event
    assert adapter.validate_json(event.to_json()) == event
    assert adapter.validate_python(event.to_dict()) == event
    assert json.loads(adapter.dump_json(event)) == event.to_dict()


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_a_json_schema_names_every_field_and_the_three_event_names(cls: type[Event]) -> None:
    schema = TypeAdapter(cls).json_schema()
    assert set(schema["properties"]) == SHARED_FIELDS | OWN_FIELDS[cls]
    assert set(schema["required"]) == SHARED_FIELDS | OWN_FIELDS[cls]
    assert schema["additionalProperties"] is False
    names = schema["properties"]["event"]
    assert set(names.get("enum", [names.get("const")])) == set(NAMES[cls][3:])


@pytest.mark.parametrize("cls", [RunContent, RunCancelled], ids=lambda cls: cls.__name__)
def test_a_type_adapter_of_one_class_refuses_another_class(cls: type[Event]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(cls).validate_python(example(RunStarted))
    with pytest.raises(ValidationError):
        TypeAdapter(cls).validate_json(example(RunStarted).to_json())


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_the_base_class_is_a_field_type_that_takes_every_event(cls: type[Event]) -> None:
    class Envelope(BaseModel):
        event: Event

    event = example(cls)
    letter = Envelope(event=event)
    assert letter.event is event
    assert Envelope.model_validate_json(letter.model_dump_json()).event == event
    with pytest.raises(ValidationError):
        Envelope.model_validate({"event": {"event": "RunForged"}})


def test_the_base_class_outcome_takes_the_three_outcomes_and_nothing_else() -> None:
    adapter: TypeAdapter[Outcome] = TypeAdapter(Outcome)
    for cls in (RunCompleted, RunCancelled, RunFailed):
        assert adapter.validate_json(example(cls).to_json()) == example(cls)
    with pytest.raises(ValidationError):
        adapter.validate_python(example(RunStarted))


@pytest.mark.parametrize(("base", "count"), [(Event, 23), (Outcome, 3)])
def test_the_schema_of_a_base_class_lists_its_events(base: type[Event], count: int) -> None:
    schema = TypeAdapter(base).json_schema()
    assert len(schema.get("oneOf") or schema.get("anyOf") or ()) == count


def test_a_union_of_events_is_told_apart_by_its_names() -> None:
    adapter: TypeAdapter[RunContent | RunStarted] = TypeAdapter(RunContent | RunStarted)
    assert type(adapter.validate_json(example(RunStarted).to_json())) is RunStarted
    assert type(adapter.validate_json(example(RunContent).to_json())) is RunContent
