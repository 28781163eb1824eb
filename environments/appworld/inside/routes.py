"""What an API call may carry: documented parameters, and plain values where they become part of an address.

The engine writes parameters into the path of a request as they are. Text with a slash would lead to another path, the
one that swaps the databases for instance; so what is no plain value never gets so far.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from environments.appworld.inside.apis_proxy import DATE, OF_THE_REQUESTER, UNDOCUMENTED

ARGUMENTS, IN_ALL = 12 << 20, 64 << 20
"""Bytes of JSON that the arguments of one call, and of all calls of an episode, may have."""
PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\?#%&;={}\ud800-\udfff]{1,256}")
"""Text that stays one part of a path."""


class BadArgument(ValueError):
    """An argument that is not sent; the message is for the agent."""


class Routes:
    """The APIs that a block may call. docs: for each app, the engine's own documents of its APIs."""

    def __init__(self, docs: Mapping[str, list[dict[str, Any]]], private: Mapping[str, list[dict[str, Any]]]) -> None:
        """private: the same with the APIs that are not documented, whose paths are to be avoided."""
        self.apis = {app: {doc["api_name"]: doc for doc in of} for app, of in docs.items() if app not in UNDOCUMENTED}
        every = [part for of in private.values() for doc in of for part in doc["path"].split("/")]
        self._words = {part for part in every if part and not part.startswith("{")}

    def names(self) -> dict[str, list[str]]:
        """The APIs of each app."""
        return {app: list(of) for app, of in self.apis.items()}

    def checked(self, app: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments to send. BadArgument for a call that is not to be made.

        Parameters that an API does not document are left out: the engine overlooks them, or should.
        """
        if not (isinstance(app, str) and isinstance(name, str) and name in self.apis.get(app, {})):
            raise BadArgument(f"there is no API {app!r:.80}.{name!r:.80}")
        doc = self.apis[app][name]
        known = {parameter["name"]: parameter for parameter in doc["parameters"]}
        for given in arguments:
            if given.startswith("_") or given in OF_THE_REQUESTER:
                raise BadArgument(f"{given!r:.80} is no parameter of {app}.{name}")
        kept = {given: revived(value) for given, value in arguments.items() if given in known or given in _ALWAYS}
        for part in re.findall(r"\{(\w+)\}", doc["path"]):
            if part in kept:
                self._check_part(f"{app}.{name}", known[part], kept[part])
        return kept

    def _check_part(self, api: str, parameter: Mapping[str, Any], value: Any) -> None:
        """Whether a value can be a part of the path."""
        text, name = str(value), parameter["name"]
        documented = re.findall(r"'([^']*)'", " ".join(parameter["constraints"] or ()))
        plain = PLAIN.fullmatch(text) and text.strip(". ") and isinstance(value, str | int | float | type(None))
        if not plain or (text in self._words and text not in documented):
            kind = "an integer" if parameter["type"] == "integer" else "one plain word or address"
            raise BadArgument(f"422: {name} of {api} is {text!r:.80}; it must be {kind}")


def size(arguments: Any, sent: int) -> int:
    """Bytes of JSON of a call's arguments. BadArgument where they are too many, beside those `sent` before."""
    count = len(json.dumps(arguments))
    if count > ARGUMENTS:
        raise BadArgument(f"422: the arguments have {count:,} bytes as JSON; a call may have {ARGUMENTS:,}")
    if sent + count > IN_ALL:
        raise BadArgument(f"422: the arguments of all calls have more than {IN_ALL:,} bytes as JSON; send less")
    return count


_ALWAYS = frozenset({"access_token", "raise_on_failure"})
"""What the requester takes of every call."""


def revived(value: Any) -> Any:
    """Data from a player, its dates as objects of the same text, so that the engine says of them what it would say."""
    if isinstance(value, list):
        return [revived(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    date = value.get(DATE)
    if value.keys() == {DATE} and isinstance(date, list) and [type(part) for part in date] == [str, str]:
        return _date(*date)
    return {key: revived(entry) for key, entry in value.items()}


def _date(kind: str, text: str) -> Any:
    name = kind if kind.isidentifier() else "date"
    return type(name, (), {"__str__": lambda _: text})()


def from_engine() -> Routes:
    """What the installed engine documents."""
    from appworld.api_docs import prepare_api_docs
    from appworld.apps import get_all_apps

    every = get_all_apps(skip_admin=False, skip_api_docs=False, skip_supervisor=False)
    docs = {app: _callable(app) for app in every}
    return Routes(docs, {app: prepare_api_docs(app, include_private_apis=True) for app in every})


def _callable(app: str) -> list[dict[str, Any]]:
    """The documents of the APIs that the engine's collection offers."""
    from appworld.api_docs import prepare_api_docs
    from appworld.common.utils import get_name_to_apis

    documents = {doc["api_name"]: doc for doc in prepare_api_docs(app, include_private_apis=True)}
    return [documents[name] for name in get_name_to_apis(app, ignore_private_apis=True)]
