"""Storage options as people write them, made into what obstore takes: s3fs's names translated, deadlines set, secrets known.

Pure but for the environment, which is read when a store is opened. Nothing here may put a value it was given into an error:
the name of an option is printable, its value is not. `object` stands behind it; `filesystem` borrows the redaction.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

# Deadlines on every wait: without them a silent server is a hang. The user's own values go over these one by one.
CLIENT_OPTIONS: Mapping[str, Any] = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(seconds=60),
}
RETRY_CONFIG: Mapping[str, Any] = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}

_CLIENT_OPTION_NAMES = frozenset(
    """allow_http allow_invalid_certificates connect_timeout default_content_type default_headers http1_only http2_only
    http2_keep_alive_interval http2_keep_alive_timeout http2_keep_alive_while_idle http2_max_frame_size pool_idle_timeout
    pool_max_idle_per_host proxy_ca_certificate proxy_excludes proxy_url randomize_addresses read_timeout root_certificate
    timeout user_agent""".split()
)
_MAPPINGS = ("client_options", "retry_config", "client_kwargs")

_S3FS_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "anon": "skip_signature",
}
_CLIENT_KWARGS_NAMES = {
    "endpoint_url": "endpoint",
    "region_name": "region",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
# In the order in which obstore prefers them.
_S3_ENDPOINT_OPTIONS = ("aws_endpoint_url_s3", "endpoint_url_s3", "endpoint", "aws_endpoint", "aws_endpoint_url")
_S3_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_SECRET_NAME = re.compile(r"secret|token|passw|key|credential|sas|signature|auth|account$|header|proxy", re.IGNORECASE)
_CLOUD_VARIABLE = re.compile(r"(AWS|AZURE|GOOGLE)_")
_MIN_SECRET_LENGTH = 4
_PATTERNS = (
    (re.compile(r"(?<=://)[^/@\s]+@"), ""),  # user:password@host
    (re.compile(r"(https?://[^\s?\"']+)\?[^\s\"')]+"), r"\1"),  # a signed URL's query
    (re.compile(r"(?i)(signature|authorization|credential)\s*[=:]\s*[^\s,;&<]+"), r"\1=***"),
)


def check_object_options(url: str, options: Mapping[str, Any]) -> None:
    """See that options are of types that obstore takes, since what it says of others names neither option nor URL.

    Args:
        url: whose options they are, for errors.
        options: as the user gave them.

    Raises:
        ValueError: an option is of the wrong type, or a client option is not known.
    """
    where = f"storage_options of {printable_url(url)}"
    for name, value in options.items():
        if not isinstance(name, str):
            raise ValueError(f"{where}: names are str, not {type(name).__name__}")
        if name in _MAPPINGS:
            if value is not None and not isinstance(value, Mapping):
                raise ValueError(f"{where}: {name} is a dict, not {type(value).__name__}")
        elif name != "credential_provider" and not isinstance(value, str | bool | timedelta | None):
            raise ValueError(f"{where}: {name} is a str, not {type(value).__name__}")
    for name, value in (options.get("client_options") or {}).items():
        if name not in _CLIENT_OPTION_NAMES:
            raise ValueError(
                f"{where}: client_options[{name!r}] is not known; there are {', '.join(sorted(_CLIENT_OPTION_NAMES))}"
            )
        taken = Mapping if name == "default_headers" else str | bool | timedelta | bytes
        if not isinstance(value, taken):
            raise ValueError(f"{where}: client_options[{name!r}] cannot be {type(value).__name__}")


def translate_s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give S3 options under obstore's names.

    Args:
        options: under obstore's names, under s3fs's (`key`, `secret`, `token`, `endpoint_url`, `anon`, `client_kwargs`),
            or mixed.

    Raises:
        ValueError: two names of one option were given, or `client_kwargs` holds what cannot be translated.
    """
    given = {name: value for name, value in options.items() if name != "client_kwargs"}
    translated: dict[str, Any] = {}
    pairs = [(name, _S3FS_NAMES.get(name, name), value) for name, value in given.items()]
    for name, value in (options.get("client_kwargs") or {}).items():
        if name not in _CLIENT_KWARGS_NAMES:
            raise ValueError(
                f"client_kwargs[{name!r}] is not known; there are {', '.join(sorted(_CLIENT_KWARGS_NAMES))}"
            )
        pairs.append((f"client_kwargs[{name!r}]", _CLIENT_KWARGS_NAMES[name], value))
    for name, target, value in pairs:
        if value is None:
            continue
        if target in translated and translated[target] != value:
            raise ValueError(f"storage option {target!r} is given twice, once as {name!r}, with different values")
        translated[target] = value
    return translated


def find_s3_endpoint(options: Mapping[str, Any], environment: Mapping[str, str]) -> str | None:
    """Find the endpoint that obstore will use; None for Amazon's own."""
    for names, source in ((_S3_ENDPOINT_OPTIONS, options), (_S3_ENDPOINT_VARIABLES, environment)):
        for name in names:
            if source.get(name):
                return str(source[name])
    return None


def plan_client_options(given: Mapping[str, Any] | None, endpoint: str | None) -> dict[str, Any]:
    """Lay the user's client options over our deadlines, and allow plain http where it is safe or was asked for.

    Args:
        given: the user's `client_options`.
        endpoint: the URL that requests go to, if it is known.

    Raises:
        ValueError: the endpoint is plain http, not on loopback, and the user did not say `allow_http`.
    """
    planned = {**CLIENT_OPTIONS, **(given or {})}
    if endpoint is not None and urlsplit(endpoint).scheme == "http":
        if is_loopback(endpoint):
            planned.setdefault("allow_http", True)
        elif not planned.get("allow_http"):
            raise ValueError(
                f"{printable_url(endpoint)} is plain http on another machine: data and signatures would cross the network in"
                ' the clear. Use https, or say storage_options={"client_options": {"allow_http": True}}.'
            )
    return planned


def plan_retry_config(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Lay the user's retry configuration over ours.

    Raises:
        ValueError: it holds a name that is not known, which obstore would pass over in silence.
    """
    for name in given or {}:
        if name not in RETRY_CONFIG:
            raise ValueError(f"retry_config[{name!r}] is not known; there are {', '.join(RETRY_CONFIG)}")
    return {**RETRY_CONFIG, **(given or {})}


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def printable_url(url: str) -> str:
    """Give a URL without user, password, query and fragment."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url).split("?")[0].split("#")[0]


def find_secrets(options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Collect the values that no message may show: those of options and cloud variables whose names speak of secrets."""
    found: set[str] = set()
    _collect_secrets(options, False, found)
    _collect_secrets({name: value for name, value in environment.items() if _CLOUD_VARIABLE.match(name)}, False, found)
    # the longest first, so that one that contains another goes as a whole
    return tuple(sorted(found, key=len, reverse=True))


def _collect_secrets(value: object, is_secret: bool, found: set[str]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _collect_secrets(inner, is_secret or bool(_SECRET_NAME.search(str(name))), found)
    elif isinstance(value, list | tuple):
        for inner in value:
            _collect_secrets(inner, is_secret, found)
    elif is_secret and isinstance(value, str | bytes):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if len(text) >= _MIN_SECRET_LENGTH and text.lower() not in {"true", "false"}:
            found.add(text)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Take secrets, signed queries and signatures out of a message."""
    for secret in secrets:
        text = text.replace(secret, "***")
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
