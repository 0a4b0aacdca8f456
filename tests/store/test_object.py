"""What is particular to object stores over the network: errors, lost answers, secrets, forks, memory."""

import json
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from chunkstore.errors import ReadOnlyStore, StoreError
from chunkstore.store.location import Store, open_store

QUICK = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=5)},
}
SECRETS = ("hunter2-known-secret", "AKIAKNOWNKEY", "known-session-token")


@pytest.fixture
def store(scripted_s3: Any) -> Store:
    return open_store("s3://bucket/data", storage_options=scripted_s3.storage_options(retry_config=QUICK))


def test_each_range_is_one_request_of_exactly_its_bytes(store: Store, scripted_s3: Any) -> None:
    scripted_s3.objects["/bucket/data/object"] = bytes(1000)
    for ranges in ([(0, 10), (20, 30)], [(0, 10), (10, 20)], [(5, 8), (0, 10)], [(0, 10), (3, 3), (500, 1000)]):
        scripted_s3.requests.clear()
        store.read_ranges("object", ranges)
        wanted = [f"GET /bucket/data/object bytes={start}-{stop - 1}" for start, stop in ranges if start < stop]
        assert sorted(scripted_s3.requests) == sorted(wanted)


def test_reading_an_object_is_one_request_even_with_a_limit(store: Store, scripted_s3: Any) -> None:
    scripted_s3.objects["/bucket/data/object"] = bytes(1000)
    store.read("object", limit_nbytes=1000)
    assert len(scripted_s3.requests) == 1


def test_a_server_that_ignores_ranges_is_found_out(store: Store, scripted_s3: Any) -> None:
    scripted_s3.objects["/bucket/data/object"] = bytes(range(100))
    scripted_s3.honours_ranges = False
    with pytest.raises(StoreError, match="object"):
        store.read_ranges("object", [(10, 20)])


def test_a_body_cut_short_is_an_error(store: Store, scripted_s3: Any) -> None:
    scripted_s3.objects["/bucket/data/object"] = bytes(range(100))
    scripted_s3.cuts_bodies = True
    with pytest.raises(StoreError, match="object"):
        store.read_ranges("object", [(10, 20)])
    with pytest.raises(StoreError, match="object"):
        store.read("object")


def test_a_busy_server_is_asked_again(store: Store, scripted_s3: Any) -> None:
    scripted_s3.objects["/bucket/data/object"] = b"1"
    scripted_s3.unavailable = 2
    assert store.read("object") == b"1"
    assert len(scripted_s3.requests) == 3


def test_a_server_that_stays_busy_is_an_error_that_counts_attempts(store: Store, scripted_s3: Any) -> None:
    scripted_s3.unavailable = 1000
    with pytest.raises(StoreError, match=r"s3://bucket/data/object \(attempts: 3\).*503") as caught:
        store.read("object")
    assert "503" in str(caught.value.__cause__)
    assert len(scripted_s3.requests) == 3


@pytest.mark.parametrize("num_lost", [1, 3])
def test_a_put_if_absent_whose_answer_is_lost_is_ours(store: Store, scripted_s3: Any, num_lost: int) -> None:
    scripted_s3.failing_puts = num_lost
    assert store.write_if_absent("object", b"ours")
    assert scripted_s3.objects == {"/bucket/data/object": b"ours"}
    assert not store.write_if_absent("object", b"theirs")


def test_a_put_if_absent_that_never_arrived_is_sent_again(store: Store, scripted_s3: Any) -> None:
    # the put is refused, then the read, which is repeated until it is answered
    scripted_s3.unavailable = 2
    assert store.write_if_absent("object", b"ours")
    assert scripted_s3.objects == {"/bucket/data/object": b"ours"}


def test_a_put_if_absent_without_any_answer_is_an_error(store: Store, scripted_s3: Any) -> None:
    scripted_s3.unavailable = 1000
    with pytest.raises(StoreError, match="object"):
        store.write_if_absent("object", b"ours")


def test_a_store_that_ignores_put_if_absent_is_read_only(store: Store, scripted_s3: Any) -> None:
    scripted_s3.honours_conditions = False
    with pytest.raises(ReadOnlyStore, match="put-if-absent"):
        store.check_commits()
    assert scripted_s3.objects == {}


def test_a_store_that_lets_write_but_not_delete_passes(scripted_s3: Any) -> None:
    # the scripted server does not know the bulk request
    options = scripted_s3.storage_options(disable_bulk_delete=False, retry_config=QUICK)
    store = open_store("s3://bucket/data", storage_options=options)
    store.check_commits()
    with pytest.raises(ReadOnlyStore, match="disable_bulk_delete"):
        store.delete(["object"])


def test_a_store_that_honours_it_passes(store: Store, scripted_s3: Any) -> None:
    store.check_commits()
    assert scripted_s3.objects == {}


def test_refused_requests_are_permission_errors_that_say_what_else_403_means(store: Store, scripted_s3: Any) -> None:
    scripted_s3.forbidden_body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    for call in (
        lambda: store.read("object"),
        lambda: store.read_ranges("object", [(0, 1)]),
        lambda: store.write("object", b"1"),
        lambda: store.write_if_absent("object", b"1"),
    ):
        with pytest.raises(PermissionError, match=r"s3://bucket/data/object.*AccessDenied.*does not exist"):
            call()


def test_a_reader_of_a_real_server_may_read_but_not_write(s3: Any, s3_server: Any) -> None:
    s3.open().write("object", b"1")
    reader = open_store(s3.url, storage_options=s3_server.storage_options(reader=True))
    assert reader.read("object") == b"1"
    for call in (
        lambda: reader.write("other", b"1"),
        lambda: reader.write_if_absent("other", b"1"),
        lambda: reader.delete(["object"]),
        lambda: _upload(reader),
    ):
        with pytest.raises(PermissionError, match="credentials"):
            call()
    with pytest.raises(ReadOnlyStore, match=r"cannot be written to with these credentials: .*403"):
        reader.check_commits()
    assert s3.open().read("object") == b"1"


def _upload(store: Store) -> None:
    with store.open_upload("other") as upload:
        upload.write(bytes(20 << 20))


def test_wrong_and_unknown_keys_are_permission_errors_without_secrets(s3: Any, everything_printed: Any) -> None:
    for wrong in ({"secret_access_key": "hunter2-known-secret"}, {"access_key_id": "AKIAKNOWNKEY"}):
        store = open_store(s3.url, storage_options={**s3.storage_options, **wrong})
        with pytest.raises(PermissionError, match=r"does not accept the credentials.*403") as caught:
            store.read("object")
        with pytest.raises(ReadOnlyStore, match=r"does not accept the credentials.*403") as refused:
            store.check_commits()
        for error in (caught.value, refused.value):
            assert not any(secret in everything_printed(error) for secret in SECRETS)


@pytest.mark.parametrize("fault", ["forbidden", "unavailable", "absent", "ranges", "silent", "option"])
def test_no_error_and_no_repr_carries_a_secret(scripted_s3: Any, everything_printed: Any, fault: str) -> None:
    options = scripted_s3.storage_options(retry_config=QUICK)
    scripted_s3.objects["/bucket/data/object"] = bytes(10)
    if fault == "forbidden":
        # as servers do that dislike a signature
        scripted_s3.forbidden_body = (
            "<Error><Code>SignatureDoesNotMatch</Code><Message>bad hunter2-known-secret, Signature=abcdef</Message>"
            "<AWSAccessKeyId>AKIAKNOWNKEY</AWSAccessKeyId>"
            "<StringToSign>hunter2-known-secret known-session-token</StringToSign></Error>"
        )
    elif fault == "unavailable":
        scripted_s3.unavailable = 1000
    elif fault == "ranges":
        scripted_s3.honours_ranges = False
    elif fault == "silent":
        options["endpoint"] = "http://127.0.0.1:1"
    elif fault == "option":
        with pytest.raises(ValueError, match="S3PutConditional") as refused:
            open_store("s3://bucket/data", storage_options={**options, "conditional_put": "hunter2-known-secret"})
        assert not any(secret in everything_printed(refused.value) for secret in SECRETS)
        return
    store = open_store("s3://bucket/data", storage_options=options)
    calls: list[Callable[[], object]] = [
        lambda: store.read("absent"),
        lambda: store.read_ranges("absent" if fault == "absent" else "object", [(2, 4)]),
    ]
    if fault not in {"absent", "ranges"}:
        calls += [
            lambda: store.write("object", b"1"),
            lambda: store.write_if_absent("object", b"1"),
            lambda: store.delete(["object"]),
            lambda: list(store.list()),
            store.check_commits,
        ]
    for call in calls:
        with pytest.raises((StoreError, PermissionError, FileNotFoundError, ReadOnlyStore)) as caught:
            call()
        shown = everything_printed(caught.value)
        assert "s3://bucket/data" in shown
        assert not any(secret in shown for secret in (*SECRETS, "abcdef"))
    assert not any(secret in repr(store) + str(store) + store.url for secret in SECRETS)


@pytest.mark.timeout(60)
def test_a_silent_server_is_an_error_within_the_deadline() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        store = open_store(
            "s3://bucket/data",
            storage_options={
                "endpoint": f"http://127.0.0.1:{listener.getsockname()[1]}",
                "access_key_id": "a",
                "secret_access_key": "b",
                "client_options": {"timeout": "500ms"},
                "retry_config": QUICK,
            },
        )
        started = time.monotonic()
        with pytest.raises(StoreError, match="object"):
            store.read("object")
        assert time.monotonic() - started < 20


def test_a_web_server_is_read_only(scripted_s3: Any) -> None:
    scripted_s3.objects["/data/folder/object"] = b"0123456789"
    store = open_store(f"{scripted_s3.url}/data/")
    assert store.url == f"{scripted_s3.url}/data"
    assert store.read("folder/object") == b"0123456789"
    assert [bytes(piece) for piece in store.read_ranges("folder/object", [(0, 2), (8, 10)])] == [b"01", b"89"]
    with pytest.raises(FileNotFoundError):
        store.read("absent")
    for call in (
        lambda: store.write("x", b""),
        lambda: store.write_if_absent("x", b""),
        lambda: store.open_upload("x"),
        lambda: store.delete(["folder/object"]),
        store.check_commits,
    ):
        with pytest.raises(ReadOnlyStore, match="web server"):
            call()
    with pytest.raises(StoreError, match="list"):
        list(store.list())


def test_an_absent_bucket_is_told(s3: Any) -> None:
    store = open_store("s3://no-such-bucket-here/data", storage_options=s3.storage_options)
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        store.read("object")


def test_many_objects_list_and_delete(s3: Any) -> None:
    store = s3.open()
    keys = [f"many/{number}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(key, b"1"), keys))
    assert sorted(key for key, *_ in store.list()) == sorted(keys)
    store.delete(keys)
    assert list(store.list()) == []


_FORK = """
import json, os, pickle, signal, sys
from chunkstore.errors import ForkedLoader
from chunkstore.store.location import open_store
signal.alarm(30)
url, options = json.loads(sys.argv[1])
store = open_store(url, storage_options=options)
unused = open_store(url + "/unused", storage_options=options)
store.write("object", b"1")
upload = store.open_upload("upload")
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    attempts = [
        lambda: store.read("object"),
        lambda: store.read_ranges("object", [(0, 1)]),
        lambda: store.write("object", b"2"),
        lambda: store.write_if_absent("new", b"2"),
        lambda: list(store.list()),
        lambda: store.delete(["object"]),
        lambda: store.open_upload("object"),
        lambda: upload.write(b"2"),
        store.check_commits,
        lambda: unused.read("object"),
        lambda: open_store(url, storage_options=options),
        lambda: pickle.loads(pickle.dumps(store)),
    ]
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except ForkedLoader as error:
            assert "spawn" in str(error)
            continue
        os._exit(1 + number)
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, f"attempt {os.waitstatus_to_exitcode(status) - 1} did not raise ForkedLoader"
assert store.read("object") == b"1"
"""

_FORK_BEFORE_USE = """
import json, os, signal, sys
import chunkstore.store.object
from chunkstore.store.location import open_store
signal.alarm(30)
url, options = json.loads(sys.argv[1])
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os._exit(0 if open_store(url, storage_options=options).read("object") == b"1" else 1)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert open_store(url, storage_options=options).read("object") == b"1"
"""


@pytest.mark.parametrize("code", [_FORK, _FORK_BEFORE_USE], ids=["after use", "before use"])
def test_a_forked_child_gets_an_error_or_a_store_that_works_never_a_hang(s3: Any, code: str) -> None:
    s3.open().write("object", b"1")
    arguments = json.dumps([s3.url, s3.storage_options])
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, arguments], check=True, timeout=60)


def test_a_spawned_process_opens_what_was_pickled(s3: Any) -> None:
    store = s3.open()
    store.write("object", b"1")
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).read('object'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(store), stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert answer.stdout == b"b'1'\n"


_BIG_UPLOAD = """
import json, sys
from chunkstore.store.location import open_store
url, options = json.loads(sys.argv[1])
store = open_store(url, storage_options=options)
store.write("small", b"1")


def peak_kib():  # ru_maxrss would be the parent's, where that is larger: it survives exec
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])


before = peak_kib()
piece = bytes(1 << 20)
with store.open_upload("big") as upload:
    for _ in range(200):
        upload.write(piece)
print((peak_kib() - before) << 10)
"""


def test_an_upload_takes_bounded_memory(s3: Any) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _BIG_UPLOAD, json.dumps([s3.url, s3.storage_options])],
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    assert {listed.key: listed.nbytes for listed in s3.open().list()}["big"] == 200 << 20
    assert 8 << 20 < int(answer.stdout) < 100 << 20  # a part is held at least, else nothing was measured


def test_other_threads_run_while_one_waits_for_the_network(scripted_s3: Any) -> None:
    """The server is a thread of this very process: it could not answer if a request held the GIL."""
    scripted_s3.objects["/bucket/data/object"] = bytes(1 << 20)
    store = open_store("s3://bucket/data", storage_options=scripted_s3.storage_options())
    assert store.read("object") == bytes(1 << 20)
    assert store.read_ranges("object", [(0, 1 << 20)])[0] == bytes(1 << 20)
    with store.open_upload("upload") as upload:
        upload.write(b"1")
    assert scripted_s3.objects["/bucket/data/upload"] == b"1"
