"""Checks of plain arguments: each error names the field, the value and what would do."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from d2llm_vdb.errors import InputError

# Beyond any count or size there is, and within what every wire format and binding takes.
MAX_COUNT = 2**31 - 1

# What neither a server nor every file system takes in a name.
FORBIDDEN_IN_NAMES = set('<>:"/\\|?*')
LONGEST_NAME = 200

Check = Callable[[str, Any], None]
"""What takes a name and a value, and raises `InputError` where that will not do."""

# Integers that Qdrant takes over every road: gRPC has signed ones only.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1


def check_depth(name: str, value: Any, most: int) -> None:
    """Raise `InputError` if mappings and lists are nested more deeply; no recursion is needed."""
    level = [value]
    for _ in range(most + 1):
        level = [
            part
            for each in level
            if isinstance(each, Mapping | list | tuple)
            for part in (each.values() if isinstance(each, Mapping) else each)
        ]
        if not level:
            return
    raise InputError(f"{name} is nested more than {most} deep; flatten it")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `InputError` unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name}={value!r} is not one of {', '.join(choices)}")


def check_whole_number(name: str, value: Any, least: int = 1, most: int = MAX_COUNT) -> None:
    """Raise `InputError` unless `value` is an int between `least` and `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}")
    if value > most:
        raise InputError(f"{name}={value!r} must be at most {most}")


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """Raise `InputError` unless `value` is None or a finite number between `least` and `most`."""
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not _is_finite(value):
        raise InputError(f"{name}={value!r} must be a finite number")
    if not least <= value <= most:
        bounds = f"at least {least}" if most == math.inf else f"between {least} and {most}"
        raise InputError(f"{name}={value!r} must be {bounds}")


def check_comparable(name: str, value: float) -> None:
    """Raise `InputError` if a number of a filter is none that anything is compared with."""
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{name} is NaN, which nothing equals; give a number or leave it out")
    if isinstance(value, float) and math.isinf(value):  # JSON would make it no bound at all
        raise InputError(f"{name}={value} is beyond all numbers; give a finite one or leave it out")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # of a whole number that is larger than any with a fraction
        return False


def check_positive(name: str, value: Any) -> None:
    """Raise `InputError` unless `value` is None or a finite number above 0."""
    check_number(name, value)
    if value is not None and value <= 0:
        raise InputError(f"{name}={value!r} must be above 0")


def check_flag(name: str, value: Any) -> None:
    """Raise `InputError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be True or False")


def check_fields(values: Any, checks: Mapping[str, Check], prefix: str = "") -> None:
    """Raise `InputError` unless fields of a dataclass pass their checks, or are None by default.

    Args:
        values: the dataclass.
        checks: of its fields, by name.
        prefix: put before the names in errors.
    """
    for one in fields(values):
        value = getattr(values, one.name)
        if one.name not in checks or (value is None and one.default is None):
            continue
        if value is None:
            raise InputError(f"{prefix}{one.name}=None; leave it out for {one.default!r}")
        checks[one.name](prefix + one.name, value)


def is_loopback(host: str) -> bool:
    """Tell whether a host, by its address or as `localhost`, is this machine for itself alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_unicode(text: str) -> bool:
    """Tell whether a text is free of lone surrogates, which no database or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_unicode(name: str, value: str, of: object = None) -> None:
    """Refuse text with lone surrogates, which no database or tokenizer takes.

    Args:
        name: of the field.
        value: its text.
        of: what has the field, as the id of a passage; None where the name says it all.

    Raises:
        InputError: naming the field, what has it, and the place.
    """
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        owner = "" if of is None else f" of {of!r}"
        raise InputError(
            f"{name}{owner} is not valid Unicode at character {error.start}: "
            f"{value[error.start : error.end]!r}; decode its bytes with the right encoding"
        ) from error


def check_query(text: Any) -> None:
    """Raise `InputError` unless given a text to search for."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"query {text!r} must be a string that is not blank")
    check_unicode("query", text, text)


def check_tenant(tenant: object) -> None:
    """Raise `InputError` unless given a tenant's name or None."""
    if tenant is not None and (not isinstance(tenant, str) or not tenant.strip()):
        raise InputError(f"tenant={tenant!r} must be a name, or None for a collection without")
    if tenant is not None:
        check_unicode("tenant", tenant)


def check_name(name: str, value: object) -> None:
    """Raise `InputError` unless given what a collection or an alias can be called."""
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or value[:1] in ("", ".")
        or FORBIDDEN_IN_NAMES & set(value)
        or len(value.encode()) > LONGEST_NAME
    ):
        raise InputError(
            f"{name}={value!r} cannot be a name; use letters, digits, - and _, at most "
            f"{LONGEST_NAME} of them"
        )


def home_expanded(name: str, path: str | os.PathLike[str]) -> Path:
    """Return a path with its `~` expanded; `InputError` if there is no such home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{name}={os.fspath(path)!r}: no such home directory; write the path out"
        ) from error
