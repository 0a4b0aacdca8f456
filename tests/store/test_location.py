"""What `open_store` makes of what people type."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from chunkstore.errors import ReadOnlyStore
from chunkstore.store.interface import HasPaths
from chunkstore.store.local import LocalStore
from chunkstore.store.location import Store, open_store

SECRET = "hunter2-known-secret"


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys, chunkstore.store.location\n"
        "heavy = {'obstore', 'fsspec', 's3fs', 'zarr', 'numpy', 'numba', 'torch', 'botocore'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("form", ["str", "Path", "file", "file_localhost", "trailing"])
def test_a_path_is_a_local_store_however_written(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "with space"
    forms: dict[str, str | Path] = {
        "str": str(folder),
        "Path": folder,
        "file": folder.as_uri(),
        "file_localhost": folder.as_uri().replace("file://", "file://localhost"),
        "trailing": f"{folder}/",
    }
    store = open_store(forms[form])
    assert isinstance(store, LocalStore)
    assert isinstance(store, Store)
    assert isinstance(store, HasPaths)
    assert store.url == str(folder)


@pytest.mark.parametrize(
    "url", ["s3://bucket/x", "gs://bucket/x", "https://host/x", "file:///tmp/x", "memory://x", "S3://bucket/x"]
)
def test_a_url_that_a_path_has_mangled_is_refused(tmp_path: Path, monkeypatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="pass URLs as str"):
        open_store(Path(url))
    assert list(tmp_path.iterdir()) == []
    open_store(Path("a:/x"))  # a drive's letter, or a folder's odd name
    open_store(Path("a/s3:/x"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"region": 5}, "region is a str, not int"),
        ({"secret_access_key": b"hunter2-known-secret"}, "secret_access_key is a str, not bytes"),
        ({5: "x"}, "names are str, not int"),
        ({"client_options": {"foo": SECRET}}, r"client_options\['foo'\] is not known; there are allow_http, "),
        ({"client_options": {"timeout": 5}}, r"client_options\['timeout'\] cannot be int"),
        ({"client_options": {"default_headers": SECRET}}, r"client_options\['default_headers'\] cannot be str"),
        ({"client_options": 5}, "client_options is a dict, not int"),
        ({"retry_config": 5}, "retry_config is a dict, not int"),
        ({"client_kwargs": 5}, "client_kwargs is a dict, not int"),
        (5, "are a dict, not int"),
    ],
)
def test_an_option_of_the_wrong_type_is_named_with_its_url(options: Any, told: str) -> None:
    with pytest.raises(ValueError, match="^storage_options of s3://bucket/x:? " + told) as caught:
        open_store("s3://bucket/x", storage_options=options)
    assert SECRET not in str(caught.value)


def test_a_relative_path_stays_where_it_was_when_the_process_moves(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("data")
    store.write("object", b"1")
    monkeypatch.chdir("/")
    assert store.read("object") == b"1"
    assert store.url == str(tmp_path / "data")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/data").url == str(tmp_path / "data")


def test_opening_a_store_touches_nothing(tmp_path: Path) -> None:
    open_store(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
    # nothing listens there
    open_store(
        "s3://bucket/x",
        storage_options={"endpoint": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "b"},
    )


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@example.org/data",
        f"https://example.org/data?X-Amz-Signature={SECRET}",
        f"s3://key:{SECRET}@bucket/data",
        f"s3://bucket/data?token={SECRET}",
        f"https://example.org/data#{SECRET}",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, everything_printed) -> None:
    with pytest.raises(ValueError, match="storage_options") as caught:
        open_store(url)
    assert SECRET not in everything_printed(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("", {}, "empty"),
        ("/tmp/x", {"region": "r"}, "region"),
        ("memory://x", {"endpoint": "r"}, "endpoint"),
        ("s3://bucket/x", {"nonsense": "r"}, "nonsense"),
        ("gs://bucket/x", {"nonsense": "r"}, "nonsense"),
        ("az://container/x", {"nonsense": "r", "account_name": "x"}, "nonsense"),
        ("https://example.org/x", {"region": "r"}, "region"),
        ("s3://bucket/x", {"client_options": {"nonsense": "r"}}, "nonsense"),
        ("s3://bucket/x", {"retry_config": {"nonsense": 1}}, "nonsense"),
        ("s3://bucket/x", {"client_kwargs": {"nonsense": "r"}}, "nonsense"),
        ("s3://bucket/x", {"key": "a", "access_key_id": "b"}, "access_key_id"),
        ("s3:///x", {}, "bucket"),
        ("s3://bucket/a/../b", {}, r"\.\."),
        ("s3://bucket/a//b", {}, "empty"),
        ("file://host/x", {}, "host"),
        ("nonsense://x", {}, "nonsense"),
        ("zip://x::nonsense://y", {}, "nonsense"),
    ],
)
def test_what_is_not_understood_is_told(url: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        open_store(url, storage_options=options)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://example.org/data", {}),
        ("http://127.0.0.1.example.org/data", {}),
        ("s3://bucket/x", {"endpoint": "http://minio.example.org:9000"}),
        ("s3://bucket/x", {"endpoint_url": "http://10.0.0.1:9000"}),
        ("s3://bucket/x", {"aws_endpoint_url": "http://10.0.0.1:9000"}),
        ("s3://bucket/x", {"client_kwargs": {"endpoint_url": "http://10.0.0.1:9000"}}),
        ("az://container/x", {"endpoint": "http://10.0.0.1:9000", "account_name": "x"}),
        ("gs://bucket/x", {"base_url": "http://10.0.0.1:9000"}),
    ],
)
def test_plain_http_to_another_machine_must_be_asked_for(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="plain http"):
        open_store(url, storage_options=options)
    open_store(url, storage_options={**options, "client_options": {"allow_http": True}})


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_plain_http_from_the_environment_is_no_exception(monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://minio.example.org:9000")
    with pytest.raises(ValueError, match="plain http"):
        open_store("s3://bucket/x")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_the_usual_environment_variables_work(s3, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, s3.storage_options["endpoint"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.storage_options["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.storage_options["secret_access_key"])
    store = open_store(s3.url)
    store.write("object", b"1")
    assert s3.open().read("object") == b"1"


@pytest.mark.parametrize("region", [{"region": "eu-west-1"}, {"client_kwargs": {"region_name": "eu-west-1"}}, {}])
def test_names_of_s3fs_work(s3, region: dict[str, Any]) -> None:
    options = {
        "key": s3.storage_options["access_key_id"],
        "secret": s3.storage_options["secret_access_key"],
        "endpoint_url": s3.storage_options["endpoint"],
        **region,
    }
    store = open_store(s3.url, storage_options=options)
    store.write("object", b"1")
    assert s3.open().read("object") == b"1"


def test_memory_is_the_one_of_fsspec(memory) -> None:
    store = memory.open()
    store.write("folder/object", b"1")
    filesystem = fsspec.filesystem("memory")
    name = memory.url.removeprefix("memory://")
    assert filesystem.cat_file(f"/{name}/folder/object") == b"1"
    filesystem.pipe_file(f"/{name}/other", b"2")
    assert store.read("other") == b"2"
    assert open_store(f"/{name}", filesystem=filesystem).read("other") == b"2"


def test_a_given_local_file_system_can_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data", filesystem=fsspec.filesystem("file"))
    store.check_commits()
    assert store.is_local


def test_any_other_file_system_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "object").write_bytes(b"0123456789")
    given = open_store("folder", filesystem=fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file")))
    by_url = open_store("simplecache::file://" + str(tmp_path / "folder"), storage_options={"simplecache": {}})
    for store in (given, by_url):
        assert store.read("object") == b"0123456789"
        with pytest.raises(ReadOnlyStore, match="put-if-absent"):
            store.check_commits()


def test_options_and_a_file_system_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alone"):
        open_store(tmp_path, storage_options={"a": 1}, filesystem=fsspec.filesystem("file"))
    with pytest.raises(ValueError, match="fsspec file system, not dict"):
        open_store(tmp_path, filesystem={})
