"""History: versions, tags and rollbacks against a plain model, in races, with lost answers, and on damage."""

import functools
import http.server
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbers_dataset import Lying, append, begin, ids_of, options, values_of

import chunkstore as cs
from chunkstore.errors import (
    CommitConflict,
    DatasetNotFound,
    InvalidDataset,
    MissingObject,
    ReadOnlyStore,
    StoreError,
    VersionExpired,
)
from chunkstore.format.documents import seal
from chunkstore.format.tags import Tag, tag_key
from chunkstore.format.versions import tombstone_to_json, version_key
from chunkstore.history.commit import commit, create_root, new_id, now, read_latest, read_version
from chunkstore.history.past_versions import roll_back
from chunkstore.history.tags import put_tag
from chunkstore.store.interface import Store
from chunkstore.store.local import LocalStore

# The whole against a model

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("tag"), st.sampled_from(["v1", "best", "2026.11"])),
        st.tuples(st.just("rollback"), st.none()),
    ).flatmap(lambda step: st.tuples(st.just(step), st.floats(0, 0.999))),
    min_size=1,
    max_size=7,
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_appends_tags_and_rollbacks_in_any_order_equal_a_model(location: Any, steps: Any) -> None:
    place = replace(location, url=f"{location.url}/{uuid.uuid4().hex}")
    begin(place)
    model: list[list[int]] = [[0]]  # values of each version
    messages, tags, fresh = [""], {}, 1
    for (kind, what), fraction in steps:
        number = 1 + int(fraction * len(model))
        if kind == "append":
            values = list(range(fresh, fresh + what))
            assert append(place, values, f"from {fresh}") == len(model) + 1
            model.append(model[-1] + values)
            messages.append(f"from {fresh}")
            fresh += what
        elif kind == "rollback":
            assert cs.rollback(place.url, number, message="back", **options(place)) == len(model) + 1
            model.append(model[number - 1])
            messages.append("back")
        elif tags.get(what, number) == number:
            assert cs.tag(place.url, what, number, **options(place)) == number
            tags[what] = number
        else:
            with pytest.raises(CommitConflict, match=f"{what}.*version {tags[what]}"):
                cs.tag(place.url, what, number, **options(place))
    listed = cs.versions(place.url, **options(place))
    assert [line.number for line in listed] == list(range(1, len(model) + 1))
    assert [line.parent for line in listed] == [None, *range(1, len(model))]
    assert [line.samples for line in listed] == [len(values) for values in model]
    assert [line.message for line in listed] == messages
    assert [line.time for line in listed] == sorted(line.time for line in listed)
    assert {name: line.number for line in listed for name in line.tags} == tags
    for name, number in tags.items():
        assert cs.open(place.url, tag=name, **options(place)).version == number
    id_of: dict[int, int] = {}
    for number, values in enumerate(model, 1):
        ds = cs.open(place.url, version=number, **options(place))
        assert ds["x"][:].tolist() == values
        assert ds.statistics["x"]["values"].count == len(values)
        assert ds.statistics["x"]["values"].max == max(values)
        for sample_id, value in zip(ids_of(place, number), values, strict=True):
            assert id_of.setdefault(sample_id, value) == value, "a sample id was given twice"
        difference = cs.diff(place.url, 1, number, **options(place))
        assert (difference.samples_added, difference.samples_removed) == (len(values) - 1, 0)


def test_where_no_dataset_is_nothing_is_tagged_listed_or_rolled_back(local: Any, tmp_path: Any) -> None:
    calls = (
        lambda: cs.tag(local.url, "v1"),
        lambda: cs.open(local.url, tag="v1"),
        lambda: cs.versions(local.url),
        lambda: cs.rollback(local.url, 1),
        lambda: cs.diff(local.url, 1),
    )
    for call in calls:
        with pytest.raises(DatasetNotFound, match="no chunkstore dataset"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("written", ["group of version 3", "group of version 2", "array", "long metadata"])
def test_zarr_written_by_others_is_said_to_be_only_read(local: Any, written: str) -> None:
    store = local.open()
    if written == "array":
        zarr.create_array(local.url, data=np.arange(5), zarr_format=2)
    else:
        group = zarr.open_group(local.url, mode="w", zarr_format=2 if written.endswith("2") else 3)
        group.create_array("x", data=np.arange(5))
        if written == "long metadata":
            group.attrs["notes"] = "?" * (1 << 20)
    calls = (
        lambda: cs.append(local.url),
        lambda: cs.verify(local.url),
        lambda: cs.versions(local.url),
        lambda: cs.tag(local.url, "v1"),
        lambda: cs.rollback(local.url, 1),
        lambda: cs.gc(local.url),
        lambda: cs.compact(local.url),
        lambda: cs.add_fields(local.url, {"y": cs.Array("int64")}),
        lambda: cs.fragment(local.url),
    )
    before = sorted(listed.key for listed in store.list())
    for call in calls:
        with pytest.raises(DatasetNotFound, match=r"is Zarr written by others.*only reads it, with chunkstore\.open"):
            call()
    assert [key for key in sorted(listed.key for listed in store.list()) if "probe" not in key] == before


def test_what_a_creation_that_died_left_is_not_taken_for_somebody_elses(local: Any) -> None:
    create_root(local.open())
    with pytest.raises(DatasetNotFound, match="create one with"):
        cs.append(local.url)


@pytest.mark.parametrize("number", [-1, 0, 3])
def test_a_version_that_does_not_exist_is_neither_tagged_nor_gone_back_to(local: Any, number: int) -> None:
    begin(local, [1])
    for call in (lambda: cs.tag(local.url, "v1", number), lambda: cs.rollback(local.url, number)):
        with pytest.raises(DatasetNotFound, match=f"version {number} does not exist; the latest is 2"):
            call()
    assert [line.tags for line in cs.versions(local.url)] == [(), ()]


def test_behind_a_web_server_tags_are_opened_by_name_and_nothing_is_written(local: Any) -> None:
    begin(local, [1])
    cs.tag(local.url, "v1", 1)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=local.url)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            assert cs.open(url, tag="v1").version == 1
            assert [(line.samples, line.tags) for line in cs.versions(url)] == [(1, None), (2, None)]
            with pytest.raises(ReadOnlyStore):
                cs.tag(url, "v2")
            with pytest.raises(ReadOnlyStore):
                cs.rollback(url, 1)
        finally:
            server.shutdown()
            thread.join(10)


# Tags in races and with lost answers


def test_of_tags_of_one_name_at_once_exactly_one_wins(location: Any) -> None:
    begin(location, [1], [2], [3], [4], [5])
    barrier = threading.Barrier(6)

    def name_it(number: int) -> int | None:
        barrier.wait(30)
        try:
            return cs.tag(location.url, "best", number, **options(location))
        except CommitConflict:
            return None

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(name_it, range(1, 7)))
    (winner,) = [number for number in outcomes if number is not None]
    assert cs.open(location.url, tag="best", **options(location)).version == winner


def test_a_lost_answer_after_a_tag_was_put_is_found_out(location: Any) -> None:
    store = begin(location)
    calls = []

    def put_and_fail(real: Store, key: str, data: bytes) -> bool:
        calls.append(key)
        real.write_if_absent(key, data)
        raise StoreError("connection reset")

    put_tag(Lying(store, "/tags/", put_and_fail), "v1", Tag(read_latest(store).dataset, 1, now(), new_id()))  # type: ignore[arg-type]
    assert calls == [tag_key("v1")]
    assert values_of(location, tag="v1") == [0]


# Rollback


def test_a_rollback_has_the_contents_of_the_old_version_and_can_be_rolled_back(location: Any) -> None:
    begin(location, [1, 2], [3])
    assert cs.rollback(location.url, 1, **options(location)) == 4
    assert cs.rollback(location.url, 3, message="no, all of it", **options(location)) == 5
    assert [values_of(location, version=n) for n in range(1, 6)] == [[0], [0, 1, 2], [0, 1, 2, 3], [0], [0, 1, 2, 3]]
    listed = cs.versions(location.url, **options(location))
    assert [line.message for line in listed[3:]] == ["rolled back to version 1", "no, all of it"]
    for old, new in ((1, 4), (3, 5)):
        assert cs.diff(location.url, old, new, **options(location)).is_empty
    found = cs.diff(location.url, 4, **options(location))
    assert (found.old, found.new, found.samples_added, found.samples_removed) == (4, 5, 3, 0)
    assert [(c.field, c.kind, c.old.count, c.new.count) for c in found.statistics_changed] == [("x", "values", 1, 4)]


@pytest.mark.parametrize("message", [None, 3, "\ud800"])
def test_a_message_that_cannot_be_kept_is_refused(local: Any, message: Any) -> None:
    begin(local)
    with pytest.raises(ValueError, match="message="):
        cs.rollback(local.url, 1, message=message)
    assert cs.open(local.url).version == 1


def test_sample_ids_are_never_used_again_after_a_rollback(location: Any) -> None:
    begin(location, [1, 2], [3])
    cs.rollback(location.url, 1, **options(location))
    append(location, [4, 5])
    assert values_of(location) == [0, 4, 5]
    assert ids_of(location, 5) == [0, 4, 5]
    cs.rollback(location.url, 2, **options(location))
    append(location, [6])
    assert ids_of(location, 7) == [0, 1, 2, 6]


def test_a_rollback_that_loses_the_race_to_an_append_goes_back_from_that(location: Any) -> None:
    store = begin(location, [1])
    raced = []

    def let_an_append_win(real: Store, key: str, data: bytes) -> bool:
        if not raced:
            raced.append(append(location, [2, 3]))
        return real.write_if_absent(key, data)

    lying: Any = Lying(store, "/versions/", let_an_append_win)
    assert roll_back(lying, read_version(store, 1), "back").number == 4
    assert raced == [3]
    assert values_of(location, version=3) == [0, 1, 2, 3]
    assert values_of(location) == [0]
    append(location, [4])
    assert ids_of(location, 5) == [0, 4]


def test_an_append_begun_before_a_rollback_goes_on_from_it(location: Any) -> None:
    begin(location, [1, 2])
    writer = cs.append(location.url, **options(location))
    writer.write({"x": 3})
    assert cs.rollback(location.url, 1, **options(location)) == 3
    writer.close()
    assert values_of(location) == [0, 3]
    assert ids_of(location, 4) == [0, 3]


def test_rollbacks_and_appends_at_once_leave_a_history_that_adds_up(location: Any) -> None:
    begin(location, [1])

    def one(i: int) -> int:
        if i % 3 == 0:
            return cs.rollback(location.url, 1 + i % 2, message=f"back to {1 + i % 2}", **options(location))
        return append(location, [10 * i, 10 * i + 1], f"append {i}")

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(one, range(12)))
    assert sorted(numbers) == list(range(3, 15))
    listed = cs.versions(location.url, **options(location))
    model = [[0], [0, 1]]
    for line in listed[2:]:
        verb, _, which = line.message.rpartition(" ")
        i = int(which)
        model.append(model[i - 1] if verb == "back to" else model[-1] + [10 * i, 10 * i + 1])
        assert values_of(location, version=line.number) == model[-1]
    id_of: dict[int, int] = {}
    for number, values in enumerate(model, 1):
        for sample_id, value in zip(ids_of(location, number), values, strict=True):
            assert id_of.setdefault(sample_id, value) == value


def test_a_lost_answer_of_a_rollback_makes_one_version(location: Any) -> None:
    store = begin(location, [1])
    calls = []

    def put_and_fail(real: Store, key: str, data: bytes) -> bool:
        calls.append(key)
        real.write_if_absent(key, data)
        raise StoreError("connection reset")

    lying: Any = Lying(store, "/versions/", put_and_fail)
    assert roll_back(lying, read_version(store, 1), "back").number == 3
    assert calls == [version_key(3)]
    assert len(cs.versions(location.url, **options(location))) == 3


def test_a_loader_stopped_before_a_rollback_goes_on_over_its_own_version(local: Any) -> None:
    begin(local, list(range(1, 40)))
    loader = cs.Loader(local.url, batch_size=8, shuffle=True, seed=3, rank=0, world_size=1)
    seen = []
    for step, batch in enumerate(loader):
        seen += batch["x"].tolist()
        if step == 1:
            state = loader.state_dict()
            break
    assert cs.rollback(local.url, 1) == 3
    append(local, [99] * 40)
    again = cs.Loader(local.url, batch_size=8, shuffle=True, seed=3, rank=0, world_size=1)
    again.load_state_dict(state)
    rest = [value for batch in again for value in batch["x"].tolist()]
    assert sorted(seen + rest) == list(range(40))


# What gc gave up (a version document says so; gc itself comes later)


def condemn(store: Store, *, fragments: tuple[str, ...] = (), versions: tuple[int, ...] = ()) -> None:
    def next_version(parent: Any) -> Any:
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=new_id(),
            condemned_fragments=fragments,
            condemned_versions=versions,
        )

    commit(store, next_version, create=False)


def test_a_version_with_condemned_fragments_is_not_gone_back_to(local: Any) -> None:
    store = begin(local, [1])
    cs.rollback(local.url, 1)
    second = read_version(store, 2).fragments[1].id
    condemn(store, fragments=(second,))
    with pytest.raises(VersionExpired, match="version 2 was given up by gc, with 1 of its 2 fragments"):
        cs.rollback(local.url, 2)
    assert cs.rollback(local.url, 1) == 5
    assert read_latest(store).condemned_fragments == (second,)


def test_fragments_condemned_while_a_rollback_is_on_its_way_stop_it(local: Any) -> None:
    store = begin(local, [1])
    cs.rollback(local.url, 1)
    old = read_version(store, 2)

    def let_gc_win(real: Store, key: str, data: bytes) -> bool:
        if read_latest(real).number == 3:
            condemn(real, fragments=(old.fragments[1].id,))
        return real.write_if_absent(key, data)

    lying: Any = Lying(store, "/versions/", let_gc_win)
    with pytest.raises(VersionExpired):
        roll_back(lying, old, "")
    assert read_latest(store).number == 4


def test_a_condemned_version_is_not_listed_tagged_or_gone_back_to(local: Any) -> None:
    store = begin(local, [1], [2])
    condemn(store, versions=(2,))
    assert [line.number for line in cs.versions(local.url)] == [1, 3, 4]
    with pytest.raises(VersionExpired, match="cannot be tagged"):
        cs.tag(local.url, "v1", 2)
    with pytest.raises(VersionExpired, match="version 2 was given up"):
        cs.rollback(local.url, 2)
    append(local, [3])
    assert read_latest(store).condemned_versions == (2,)


# Listing


def test_a_condemned_version_that_a_tag_spared_is_listed(local: Any) -> None:
    store = begin(local)
    append(local, [1])
    append(local, [2])
    cs.tag(local.url, "spared", 1)
    condemn(store, versions=(1, 2))
    assert [(line.number, line.tags) for line in cs.versions(local.url)] == [(1, ("spared",)), (3, ()), (4, ())]
    for write in (lambda: cs.rollback(local.url, 1), lambda: cs.tag(local.url, "again", 1)):
        with pytest.raises(VersionExpired, match=r"open\(url, tag=name\) opens"):
            write()
    store.write(version_key(1), seal(tombstone_to_json(1)))
    assert [line.number for line in cs.versions(local.url)] == [3, 4]


def test_a_version_that_vanished_is_told_by_name(local: Any) -> None:
    store = begin(local, [1], [2])
    store.delete([version_key(2)])
    with pytest.raises(MissingObject, match=f"{version_key(2)} is absent"):
        cs.versions(local.url)


def test_a_damaged_version_is_told_by_name(local: Any) -> None:
    store = begin(local, [1], [2])
    store.write(version_key(2), store.read(version_key(2))[:-9])
    with pytest.raises(InvalidDataset, match=version_key(2)):
        cs.versions(local.url)
    with pytest.raises(InvalidDataset, match=version_key(2)):
        cs.diff(local.url, 2)


def test_documents_are_read_side_by_side(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until all are asked for, so read one after another they would never come."""
    begin(local, *[[i] for i in range(8)])
    for i in range(6):
        cs.tag(local.url, f"t{i}")
    together = {"/versions/": threading.Barrier(8), "/tags/": threading.Barrier(6)}
    real = LocalStore.read

    def read(self: LocalStore, key: str, *, limit_nbytes: int | None = None) -> bytes:
        if threading.current_thread().name.startswith(("chunkstore-versions", "chunkstore-tags")):
            next(barrier for folder, barrier in together.items() if folder in key).wait(20)
        return real(self, key, limit_nbytes=limit_nbytes)

    monkeypatch.setattr(LocalStore, "read", read)
    lines = cs.versions(local.url)
    assert [line.number for line in lines] == list(range(1, 10))
    assert lines[-1].tags == tuple(f"t{i}" for i in range(6))
