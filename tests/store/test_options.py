"""Storage options: names, deadlines, and the secrets in them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import HTTPStore

from chunkstore.store.options import (
    _CLIENT_OPTION_NAMES,
    find_s3_endpoint,
    find_secrets,
    is_loopback,
    plan_client_options,
    printable_url,
    redact,
    translate_s3_options,
)


def test_names_of_s3fs_become_those_of_obstore() -> None:
    assert translate_s3_options(
        {
            "key": "k",
            "secret": "s",
            "token": "t",
            "anon": True,
            "client_kwargs": {"endpoint_url": "e", "region_name": "r"},
            "request_payer": True,
        }
    ) == {
        "access_key_id": "k",
        "secret_access_key": "s",
        "session_token": "t",
        "skip_signature": True,
        "endpoint": "e",
        "region": "r",
        "request_payer": True,
    }


def test_one_option_under_two_names_must_agree() -> None:
    assert translate_s3_options({"endpoint_url": "e", "client_kwargs": {"endpoint_url": "e"}}) == {"endpoint": "e"}
    with pytest.raises(ValueError, match="twice") as caught:
        translate_s3_options({"secret": "hunter2", "secret_access_key": "hunter3"})
    assert "hunter" not in str(caught.value)


def test_the_endpoint_is_the_one_obstore_takes() -> None:
    environment = {"AWS_ENDPOINT_URL": "b", "AWS_ENDPOINT_URL_S3": "a"}
    assert find_s3_endpoint({}, {}) is None
    assert find_s3_endpoint({}, environment) == "a"
    assert find_s3_endpoint({"endpoint": "c"}, environment) == "c"


def test_client_options_are_those_that_obstore_knows() -> None:
    for name in _CLIENT_OPTION_NAMES:
        try:
            HTTPStore("https://example.org", client_options={name: "true"})
        except ValueError as error:  # only a name that is not known is a ValueError of just this text
            assert "Invalid key" not in str(error), name
        except Exception:  # the value may not suit
            continue


def test_deadlines_stand_unless_given() -> None:
    planned = plan_client_options({"timeout": "5s"}, None)
    assert planned["timeout"] == "5s"
    assert timedelta() < planned["connect_timeout"] <= timedelta(seconds=10)
    assert timedelta() < planned["read_timeout"] <= timedelta(seconds=60)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:9000", True),
        ("http://127.0.0.1:9000/x", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:9000", True),
        ("http://minio.localhost", True),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
        ("http://user:x@127.0.0.1@example.org/", False),
        ("http://[::ffff:10.0.0.1]", False),
    ],
)
def test_loopback_is_this_machine_only(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_a_printable_url_has_no_user_and_no_query() -> None:
    assert printable_url("s3://bucket/a/b") == "s3://bucket/a/b"
    assert printable_url("https://user:pa@ss@host/x?sig=1#f") == "https://host/x"


@given(
    st.text("ABCXYZ0123456789+/=.$", min_size=4, max_size=30),
    st.sampled_from(
        ["secret_access_key", "access_key_id", "session_token", "password", "sas_key", "account_key", "secret"]
    ),
    st.text("abcxyz \n:,", max_size=20),
)
def test_a_secret_never_survives_redaction(secret: str, name: str, around: str) -> None:
    secrets = find_secrets({name: secret}, {})
    assert secrets == (secret,)
    assert secret not in redact(f"{around}{secret}{around}{secret}{secret}", secrets)


def test_secrets_are_found_wherever_they_sit() -> None:
    options = {
        "endpoint": "https://minio.example.org",
        "region": "eu-west-1",
        "key": "AKIA0001",
        "client_kwargs": {"aws_secret_access_key": "nested-secret"},
        "client_options": {"default_headers": {"Authorization": b"Bearer header-secret"}, "timeout": "60s"},
    }
    environment = {"AWS_SECRET_ACCESS_KEY": "environment-secret", "HOME": "/home/someone", "AWS_REGION": "eu-west-1"}
    assert set(find_secrets(options, environment)) == {
        "AKIA0001",
        "nested-secret",
        "Bearer header-secret",
        "environment-secret",
    }


@pytest.mark.parametrize(
    "text",
    [
        "GET https://host/x?X-Amz-Signature=hunter2&X-Amz-Credential=hunter2 failed",
        "https://user:hunter2@host/x",
        "Authorization: hunter2",
        "Signature=hunter2, x",
    ],
)
def test_signed_requests_are_redacted_by_their_form(text: str) -> None:
    assert "hunter2" not in redact(text, ())
