"""Object stores over the network: S3, Google Cloud Storage, Azure, and plain web servers to read from; all through obstore.

Requests carry deadlines and are retried with backoff within a minute. The one request that is never repeated behind our back
is the put-if-absent, whose answer must mean what it says. obstore's threads do not survive a fork, so a forked child gets an
error at once. Errors carry URL, key, attempts and cause, and never a credential: obstore's own exceptions, which may hold
whole requests, are not chained but retold.

The only file that imports obstore; `open_store` (location) imports it when a URL asks for it.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import obstore
import obstore.exceptions
import obstore.store

from chunkstore.errors import ForkedLoader, ReadOnlyStore, StoreError
from chunkstore.store.interface import Data, Listed, Upload, check_key, check_prefix, check_ranges, is_segment
from chunkstore.store.options import (
    find_s3_endpoint,
    find_secrets,
    plan_client_options,
    plan_retry_config,
    printable_url,
    redact,
    translate_s3_options,
)
from chunkstore.store.probe import check_commits_once
from chunkstore.store.upload_memory import PART_NBYTES, Part, UploadMemory

_Result = TypeVar("_Result")

# S3 takes 10,000 parts, so objects of 80 GiB.
_NUM_PARTS_IN_FLIGHT = 4
_NUM_KEYS_PER_DELETE = 1000
_PUT_ATTEMPTS = 5
_MAX_MESSAGE_LENGTH = 500

# What obstore's Path would rewrite in a prefix, so that the key stored is not the key meant.
_BAD_PREFIX = re.compile(r"[^ -~]|[\\{}^%`\]\[\"<>~#|*?]")

# What S3's servers answer, with 403, to a key or a secret that is not theirs.
_WRONG_CREDENTIALS = re.compile("SignatureDoesNotMatch|InvalidAccessKeyId|InvalidToken|ExpiredToken")

# The process in which obstore's threads run; None before the first request.
_runtime_pid: int | None = None


class ObjectStore:
    """A store in a bucket, or below an http(s) URL."""

    is_local = False

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._arguments = (url, dict(storage_options or {}))
        self._url = printable_url(url).rstrip("/")
        self._secrets = find_secrets(self._arguments[1])
        self._upload_memory = UploadMemory()
        self._pid = os.getpid()
        self._refuse_fork()
        parts = urlsplit(url)
        self._can_write = parts.scheme not in {"http", "https"}
        try:
            open_it, self._endpoint = _OPENERS[parts.scheme](url, self._arguments[1])
            self._objects = open_it(None)
            # Without retries: a repeated put-if-absent would meet its own first attempt and call it somebody else's.
            self._objects_once = open_it(0)
        except (obstore.exceptions.BaseError, TypeError, OSError) as error:
            problem = _first_words(str(error), self._secrets)
        else:
            return
        raise ValueError(f"cannot open {self._url} with these storage_options: {problem}")

    def __repr__(self) -> str:
        return f"ObjectStore({self._url!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any]]]:
        return type(self), self._arguments

    @property
    def url(self) -> str:
        """The URL, without query."""
        return self._url

    def read(self, key: str, *, limit_nbytes: int | None = None) -> bytes:
        """Read a whole object; see `Store.read`."""
        check_key(key)

        def get() -> bytes:
            result = obstore.get(self._objects, key)
            nbytes = result.meta["size"]
            if limit_nbytes is not None and nbytes > limit_nbytes:
                raise ValueError(f"{self._url}/{key} has {nbytes} bytes, more than the {limit_nbytes} expected")
            data = bytes(result.bytes())
            if len(data) != nbytes:
                raise StoreError(f"{self._url}/{key} has {nbytes} bytes, and {len(data)} came")
            return data

        return self._doing("read", key, get)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Read byte ranges [start, stop), all at once; see `Store.read_ranges`."""
        check_key(key)
        check_ranges(ranges)
        wanted = [(start, stop) for start, stop in ranges if start < stop]
        if not wanted:
            return [memoryview(b"") for _ in ranges]
        pieces = iter(self._doing("read", key, lambda: _get_ranges(self._objects, key, wanted)))
        buffers = [memoryview(next(pieces)) if start < stop else memoryview(b"") for start, stop in ranges]
        for (start, stop), buffer in zip(ranges, buffers, strict=True):
            if buffer.nbytes != stop - start:
                raise StoreError(f"{self._url}/{key}: bytes [{start}, {stop}) were asked for, and {buffer.nbytes} came")
        return buffers

    def read_end(self, key: str, nbytes: int) -> tuple[int, memoryview]:
        """Read the last bytes in one request, whose answer says the size; see `Store.read_end`."""
        check_key(key)
        return self._doing("read", key, lambda: _get_end(self._objects, key, nbytes))

    def write(self, key: str, data: Data) -> None:
        """Write a whole object; see `Store.write`."""
        self._refuse_write(check_key(key))
        body = memoryview(data).cast("B")
        self._doing("write", key, lambda: obstore.put(self._objects, key, body, max_concurrency=_NUM_PARTS_IN_FLIGHT))

    def open_upload(self, key: str) -> "ObjectUpload":
        """Start a multipart upload; an object of less than a part is put at once. See `Store.open_upload`."""
        self._refuse_write(check_key(key))
        writer = self._doing(
            "write",
            key,
            lambda: obstore.open_writer(
                self._objects, key, buffer_size=PART_NBYTES, max_concurrency=_NUM_PARTS_IN_FLIGHT
            ),
        )
        return ObjectUpload(self, key, writer, Part(self._upload_memory))

    def write_if_absent(self, key: str, data: Data) -> bool:
        """Put with `If-None-Match: *` or its like, and resolve an unclear answer by reading back.

        See `Store.write_if_absent`. Two writers of the very same bytes may both be told True where an answer was unclear.
        """
        self._refuse_write(check_key(key))
        body = bytes(data)
        for attempt in range(_PUT_ATTEMPTS):
            try:
                return self._put_if_absent(key, body)
            except StoreError:
                if attempt + 1 == _PUT_ATTEMPTS:
                    raise
            # It may have arrived all the same; the bytes say whose it is.
            try:
                return self.read(key) == body
            except FileNotFoundError:
                time.sleep(random.uniform(0, 0.2 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """List objects; see `Store.list`."""
        prefix = check_prefix(prefix)
        if not self._can_write:
            raise StoreError(f"cannot list {self._url}/{prefix}: a web server has no listing of objects")
        pages = iter(self._doing("list", prefix, lambda: obstore.list(self._objects, prefix or None)))
        while page := self._doing("list", prefix, lambda: next(pages, None)):
            for meta in page:
                if all(is_segment(segment) for segment in meta["path"].split("/")):
                    yield Listed(meta["path"], meta["size"], meta["last_modified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request where the store can; see `Store.delete`."""
        every = [check_key(key) for key in keys]
        for start in range(0, len(every), _NUM_KEYS_PER_DELETE):
            some = every[start : start + _NUM_KEYS_PER_DELETE]
            self._refuse_write(some[0])
            try:
                self._doing("delete", some[0], lambda some=some: obstore.delete(self._objects, some))  # type: ignore[misc]
            except FileNotFoundError:
                self._delete_one_by_one(some)

    def check_commits(self) -> None:
        """Race for a key; see `Store.check_commits`."""
        self._refuse_write("_chunkstore")
        check_commits_once(self, f"{self._url} at {self._endpoint}")

    def _put_if_absent(self, key: str, body: bytes) -> bool:
        def put() -> bool:
            try:
                obstore.put(self._objects_once, key, body, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
            return True

        return self._doing("write", key, put)

    def _delete_one_by_one(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                self._doing("delete", key, lambda key=key: obstore.delete(self._objects, key))  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def _refuse_write(self, key: str) -> None:
        if not self._can_write:
            raise ReadOnlyStore(f"{self._url} is a web server: {key} cannot be written there, only read")

    def _refuse_fork(self) -> None:
        global _runtime_pid  # noqa: PLW0603  (there is one runtime a process)
        pid = os.getpid()
        if self._pid != pid or _runtime_pid not in {None, pid}:
            raise ForkedLoader(
                f"{self._url} is used in a forked child, where the threads of its network client do not exist. Start workers"
                ' with multiprocessing\'s "spawn" or "forkserver" (DataLoader: multiprocessing_context="forkserver"), or'
                " use local data."
            )
        _runtime_pid = pid

    def _doing(self, verb: str, key: str, call: Callable[[], _Result]) -> _Result:
        """Call obstore, and turn its errors into ours; the originals, which may hold secrets, go no further than this."""
        self._refuse_fork()
        try:
            return call()
        except FileNotFoundError as error:
            failure: Exception = FileNotFoundError(
                f"no object {key} in {self._url}{_reason(str(error), self._secrets)}"
            )
        except (obstore.exceptions.BaseError, OSError) as error:
            failure = self._translate(verb, key, error)
        raise failure

    def _translate(self, verb: str, key: str, error: Exception) -> Exception:
        where = f"cannot {verb} {self._url}/{key}"
        words = _first_words(str(error), self._secrets)
        refused = isinstance(error, obstore.exceptions.PermissionDeniedError)
        if isinstance(error, obstore.exceptions.UnauthenticatedError) or _WRONG_CREDENTIALS.search(words):
            return PermissionError(
                f"{where}: the server does not accept the credentials: {words}. Check the access key and its secret in"
                " storage_options or the environment."
            )
        if refused or "(code: AccessDenied)" in words:
            return PermissionError(
                f"{where}: {words}. Check the credentials in storage_options or the environment; S3 also answers 403 for an"
                " object that does not exist when the credentials may not list the bucket."
            )
        if "501 Not Implemented" in words and verb in {"write", "delete"}:
            hint = ". Try storage_options={'disable_bulk_delete': True}" if verb == "delete" else ""
            return ReadOnlyStore(f"{where}: the server does not know this kind of request: {words}{hint}")
        retries = re.search(r"after (\d+) retries", str(error))
        attempts = 1 + int(retries.group(1)) if retries else 1
        failure = StoreError(f"{where} (attempts: {attempts}): {words}")
        failure.__cause__ = type(error)(words)
        return failure


def _get_ranges(objects: Any, key: str, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    if any(start <= stop for (_, stop), (start, _) in pairwise(sorted(ranges))):
        # obstore would merge those that touch, and whoever planned them apart wants them apart
        return [obstore.get_range(objects, key, start=start, end=stop) for start, stop in ranges]
    starts, stops = zip(*ranges, strict=True)
    return list(obstore.get_ranges(objects, key, starts=starts, ends=stops, coalesce=0))


def _get_end(objects: Any, key: str, nbytes: int) -> tuple[int, memoryview]:
    try:
        result = obstore.get(objects, key, options={"range": {"suffix": nbytes}})
        size = result.meta["size"]
        data = memoryview(bytes(result.bytes()))
    except (obstore.exceptions.NotSupportedError, obstore.exceptions.GenericError):
        # Azure counts no bytes from the end, and an empty object has none to give
        size = obstore.head(objects, key)["size"]
        start = max(0, size - nbytes)
        data = memoryview(bytes(obstore.get_range(objects, key, start=start, end=size))) if size else memoryview(b"")
    if len(data) != min(size, nbytes):
        raise StoreError(f"{key}: its last {nbytes} of {size} bytes were asked for, and {len(data)} came")
    return size, data


class ObjectUpload(Upload):
    """A multipart upload. It shares the memory for what it gathers and sends with all others of its store.

    Parts of an aborted one stay in the bucket, invisible, until the bucket's rule for incomplete uploads removes them.
    """

    def __init__(self, store: ObjectStore, key: str, writer: Any, part: Part) -> None:
        self._store = store
        self._key = key
        self._writer = writer
        self._part = part

    def write(self, data: Data) -> None:
        """Append bytes; waits while too many parts are on their way."""
        writer = self._open_writer()
        view = memoryview(data).cast("B")
        while view.nbytes:
            piece = view[: PART_NBYTES - self._part.nbytes]
            self._aborting(lambda piece=piece: self._part.add(piece))  # type: ignore[misc]
            view = view[piece.nbytes :]
            if self._part.nbytes == PART_NBYTES:  # obstore sends it as it is, and keeps it until it has arrived
                self._aborting(lambda: writer.write(self._part.take()))

    def finish(self) -> None:
        """Complete the upload."""
        writer = self._open_writer()
        if self._part.nbytes:
            self._aborting(lambda: writer.write(self._part.take()))
        self._aborting(writer.close)
        self._writer = None

    def abort(self) -> None:
        """Never complete it."""
        self._writer = None
        self._part.drop()

    def _open_writer(self) -> Any:
        if self._writer is None:
            raise ValueError(f"the upload of {self._store.url}/{self._key} is over")
        return self._writer

    def _aborting(self, call: Callable[[], object]) -> None:
        try:
            self._store._doing("write", self._key, call)
        except BaseException:
            self.abort()
            raise


def _open_s3(url: str, options: Mapping[str, Any]) -> tuple[Callable[[int | None], Any], str]:
    config = translate_s3_options(options)
    endpoint = find_s3_endpoint(config, os.environ)
    return _opener(obstore.store.S3Store, url, config, endpoint), endpoint or "amazonaws.com"


def _open_gcs(url: str, options: Mapping[str, Any]) -> tuple[Callable[[int | None], Any], str]:
    endpoint = options.get("base_url") or os.environ.get("GOOGLE_BASE_URL")
    return _opener(obstore.store.GCSStore, url, options, endpoint), endpoint or "googleapis.com"


def _open_azure(url: str, options: Mapping[str, Any]) -> tuple[Callable[[int | None], Any], str]:
    endpoint = options.get("endpoint") or os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT")
    account = options.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    return _opener(obstore.store.AzureStore, url, options, endpoint), endpoint or f"{account}.blob.core.windows.net"


def _open_web(url: str, options: Mapping[str, Any]) -> tuple[Callable[[int | None], Any], str]:
    if unknown := set(options) - {"client_options", "retry_config"}:
        raise ValueError(f"unknown storage_options for {printable_url(url)}: {', '.join(sorted(unknown))}")
    root = url.rstrip("/")
    client = plan_client_options(options.get("client_options"), url)
    retry = plan_retry_config(options.get("retry_config"))
    return lambda _: obstore.store.HTTPStore(root, client_options=client, retry_config=retry), url  # type: ignore[arg-type]


_OPENERS: Mapping[str, Callable[[str, Mapping[str, Any]], tuple[Callable[[int | None], Any], str]]] = {
    "s3": _open_s3,
    "gs": _open_gcs,
    "az": _open_azure,
    "http": _open_web,
    "https": _open_web,
}


def _opener(kind: Any, url: str, options: Mapping[str, Any], endpoint: str | None) -> Callable[[int | None], Any]:
    """Prepare to open a bucket: give a function of the number of retries, None for the usual."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc:
        raise ValueError(f"{url} names no bucket")
    if _BAD_PREFIX.search(prefix) or any(segment in {"", ".", ".."} for segment in prefix.split("/") if prefix):
        raise ValueError(
            f"{printable_url(url)}: the path in a bucket is of printable ASCII, without '..' and empty segments"
        )
    config = {name: value for name, value in options.items() if name not in {"client_options", "retry_config"}}
    client = plan_client_options(options.get("client_options"), endpoint)
    retry = plan_retry_config(options.get("retry_config"))

    def open_it(max_retries: int | None) -> Any:
        retries = retry if max_retries is None else {**retry, "max_retries": max_retries}
        return kind(parts.netloc, prefix=prefix or None, client_options=client, retry_config=retries, **config)

    return open_it


def _first_words(text: str, secrets: Iterable[str]) -> str:
    """Shorten obstore's message to what happened: no dump of the request, of the server's XML only code and message."""
    text = text.split("\n\nDebug source", 1)[0]
    head, _, body = text.partition("<")
    told = re.findall(r"<(?:Code|Message)>([^<]*)</", "<" + body)
    return redact(" ".join([head.strip(), *told]).strip().rstrip("."), secrets)[:_MAX_MESSAGE_LENGTH]


def _reason(text: str, secrets: Iterable[str]) -> str:
    """Say what is absent, where the server says that it is more than the object."""
    return f": {_first_words(text, secrets)}" if "NoSuchBucket" in text or "ContainerNotFound" in text else ""
