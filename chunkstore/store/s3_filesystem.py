"""S3 through an s3fs file system object, which brings its own session and credentials.

Read as any fsspec file system is; written with S3's own requests. The put-if-absent is a conditional put (`If-None-Match: *`).
s3fs, and botocore beneath it, repeat requests by themselves, and drop a condition that they are too old to know; a refusal is
resolved by reading back whose bytes are there, and the probe before the first commit finds out the rest. `open_filesystem`
(filesystem) chooses it. Imports nothing of s3fs: it is given the object.
"""

import random
import time
from collections.abc import Iterable
from typing import Any

from chunkstore.errors import StoreError
from chunkstore.store.filesystem import FilesystemStore
from chunkstore.store.interface import Data, Upload, check_key
from chunkstore.store.probe import check_commits_once

PART_NBYTES = 8 << 20
"""S3 takes 10,000 parts, so objects of 80 GiB."""
_NUM_KEYS_PER_DELETE = 1000
_PUT_ATTEMPTS = 10
_ABSENT = {"NoSuchKey", "404"}


class S3FilesystemStore(FilesystemStore):
    """A store below a path of an `s3fs.S3FileSystem`; it can commit."""

    def write(self, key: str, data: Data) -> None:
        """Write a whole object; see `Store.write`."""
        self._request("write", key, "put_object", Body=bytes(data))

    def open_upload(self, key: str) -> Upload:
        """Start a multipart upload; an object of less than a part is put at once. See `Store.open_upload`."""
        return S3FilesystemUpload(self, check_key(key))

    def write_if_absent(self, key: str, data: Data) -> bool:
        """Put with `If-None-Match: *`; see `Store.write_if_absent`.

        Two writers of the very same bytes may both be told True where an answer was unclear.
        """
        body = bytes(data)
        arguments = {**self._place(key), "Body": body, "IfNoneMatch": "*"}

        def put() -> bool:
            try:
                self._filesystem.call_s3("put_object", **arguments)
            except OSError as error:
                if _is_refusal(error):
                    return False
                raise
            return True

        for attempt in range(_PUT_ATTEMPTS):
            if self._doing("write", key, put):
                return True
            try:  # it may have been this very put, sent twice
                return self.read(key) == body
            except FileNotFoundError:  # another put of the key was under way, and came to nothing
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise StoreError(
            f"cannot write {self.url}/{key}: refused {_PUT_ATTEMPTS} times as if it were there, and it is not"
        )

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request; see `Store.delete`."""
        places = [(key, self._place(key)) for key in keys]
        for start in range(0, len(places), _NUM_KEYS_PER_DELETE):
            some = places[start : start + _NUM_KEYS_PER_DELETE]
            objects = {"Objects": [{"Key": place["Key"]} for _, place in some], "Quiet": True}
            bucket, first = some[0][1]["Bucket"], some[0][0]
            answer = self._doing(
                "delete",
                first,
                lambda bucket=bucket, objects=objects: self._filesystem.call_s3(  # type: ignore[misc]
                    "delete_objects", Bucket=bucket, Delete=objects
                ),
            )
            codes = {failure.get("Code") for failure in answer.get("Errors", [])} - _ABSENT
            if codes:
                raise StoreError(f"cannot delete {self.url}/{first} and others: {', '.join(sorted(map(str, codes)))}")

    def check_commits(self) -> None:
        """Race for a key; see `Store.check_commits`."""
        endpoint = self._filesystem.endpoint_url or self._filesystem.client_kwargs.get("endpoint_url", "amazonaws.com")
        check_commits_once(self, f"{self.url} at {endpoint} through s3fs")

    def _place(self, key: str) -> dict[str, str]:
        bucket, path, _ = self._filesystem.split_path(self._path(key))
        return {"Bucket": bucket, "Key": path}

    def _request(self, verb: str, key: str, method: str, **arguments: Any) -> Any:
        place = self._place(key)
        return self._doing(verb, key, lambda: self._filesystem.call_s3(method, **place, **arguments))


class S3FilesystemUpload(Upload):
    """A multipart upload, one part after another.

    Parts of an aborted one are removed; those of a writer that died stay in the bucket, invisible, until the bucket's rule for
    incomplete uploads removes them.
    """

    def __init__(self, store: S3FilesystemStore, key: str) -> None:
        self._store, self._key = store, key
        self._gathered = bytearray()
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._is_over = False

    def write(self, data: Data) -> None:
        """Append bytes."""
        self._refuse_when_over()
        self._gathered += memoryview(data).cast("B")
        while len(self._gathered) >= PART_NBYTES:
            self._send(bytes(self._gathered[:PART_NBYTES]))
            del self._gathered[:PART_NBYTES]

    def finish(self) -> None:
        """Complete the upload."""
        self._refuse_when_over()
        if self._upload_id is None:
            self._store.write(self._key, self._gathered)
        else:
            if self._gathered:
                self._send(bytes(self._gathered))
            self._request("complete_multipart_upload", MultipartUpload={"Parts": self._parts})
        self._is_over = True
        self._gathered = bytearray()

    def abort(self) -> None:
        """Never complete it."""
        if self._is_over:
            return
        self._is_over = True
        self._gathered = bytearray()
        if self._upload_id is not None:
            self._request("abort_multipart_upload")

    def _send(self, part: bytes) -> None:
        if self._upload_id is None:
            begun = self._store._request("write", self._key, "create_multipart_upload")
            self._upload_id = begun["UploadId"]
        number = len(self._parts) + 1
        sent = self._request("upload_part", PartNumber=number, Body=part)
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def _request(self, method: str, **arguments: Any) -> Any:
        return self._store._request("write", self._key, method, UploadId=self._upload_id, **arguments)

    def _refuse_when_over(self) -> None:
        if self._is_over:
            raise ValueError(f"the upload of {self._store.url}/{self._key} is over")


def _is_refusal(error: OSError) -> bool:
    """Whether a conditional put was answered with 412, or with 409 because another put of the key was under way."""
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return isinstance(error, FileExistsError) or status in {409, 412}
