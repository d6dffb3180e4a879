"""Let a command take dataclasses of options, each field an option of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def with_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let typer see the fields of each argument that is a dataclass as options of the command.

    The command itself is called with the dataclass.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)
    }

    @wraps(command)
    def run(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group)})
        return command(**given)

    signature = inspect.signature(command)
    shown: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            kinds = get_type_hints(groups[name], include_extras=True)
            shown += [
                inspect.Parameter(
                    one.name,
                    parameter.KEYWORD_ONLY,
                    default=one.default,
                    annotation=kinds[one.name],
                )
                for one in fields(groups[name])
            ]
        else:
            shown.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))
    typed: Any = run
    typed.__signature__ = signature.replace(parameters=shown)
    typed.__annotations__ = {one.name: one.annotation for one in shown}
    return run
