"""Reading YAML, and laying a user's values over the shipped ones so that none keeps evidence that is not its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from workflow.lib import places
from workflow.lib.errors import UserError, from_os_error, shortened, unknown
from workflow.lib.plan.sweeps import Swept

ROOT = places.ROOT

# Snakemake's name for a YAML file with Python in it.
_EVALUATED = "__use_yte__"
# Values that an overlay may hold; all shipped ones together hold less than a tenth of that.
_LARGEST = 300_000
# How deep they may lie in one another; the shipped ones lie eight deep.
_DEEPEST = 50

_USER = {"source": "user", "where": ""}


def shipped(paper: str) -> dict[str, Any]:
    """`config/papers/<paper>.yaml` with the ledger of `config/claims/<paper>.yaml` under `claims`."""
    return {**read_once(places.configuration(paper)), "claims": read_once(places.ledger(paper))}


def read_once(path: Path) -> Mapping[str, Any]:
    """One of the shipped files, read once as long as it stays as it is: to look at, as others look at it too."""
    return _read_once(path, path.stat().st_mtime_ns if path.exists() else 0)


@cache
def _read_once(path: Path, _changed: int) -> Mapping[str, Any]:
    return read_yaml(path)


def refuse_copies(folder: Path) -> None:
    """Tell of copies of the papers' YAML, such as a deployment lays into `config/`: an edit there would change nothing.

    Args:
        folder: the one that the run is started in.

    Raises:
        UserError: one of them says something else than what is shipped, and read.
    """
    for kind in ("papers", "claims"):
        for ours in sorted((ROOT / "config" / kind).glob("*.yaml")):
            theirs = folder / "config" / kind / ours.name
            if theirs.is_file() and theirs.resolve() != ours and theirs.read_bytes() != ours.read_bytes():
                raise UserError(
                    f"{theirs}: is not read, and differs from {ours}, which is. Delete the copy, and lay what you want "
                    f"to change over it under the key {ours.stem} of your configuration (config/README.md shows how)."
                )


def read_yaml(path: Path | str, deepest: int | None = None) -> dict[str, Any]:
    """Read a YAML mapping, with the file and line named when it is not one.

    Args:
        path: of the file.
        deepest: how deep its values may lie in one another; None where it is ours and needs no bound.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"{path}: is {'a folder' if Path(path).is_dir() else 'no regular file'}; expected a YAML file")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise from_os_error(error) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: expected a text in UTF-8; byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    try:
        if deepest is not None:
            _check_depth(path, text, deepest)
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # a date such as 2020-13-45, a key that is a list
        reason = " ".join(str(error).replace(' in "<unicode string>"', " at").split())
        raise UserError(f"{path}: is not valid YAML. {reason}") from None
    except RecursionError:
        raise UserError(f"{path}: is not valid YAML. It is nested too deeply") from None
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else f"{type(loaded).__name__} ({shortened(loaded)})"
        raise UserError(f"{path}: expected keys with values, as in `ntp: {{...}}`; found {found}")
    return loaded


def _check_depth(path: Path | str, text: str, deepest: int) -> None:
    """Refuse what lies so deep that reading it would end the process: libyaml's reader of values calls itself."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > deepest:
            line = event.start_mark.line + 1  # type: ignore[union-attr]  # every event of a text has one
            raise UserError(f"{path}: line {line}: expected values at most {deepest} deep in one another, found deeper")


def read_overlay(path: Path | str) -> dict[str, Any]:
    """Read a user's file over the shipped ones.

    Snakemake reads it too, and takes what is refused here: a key that stands twice, a file that evaluates Python,
    anchors that stand for more than anyone wrote.
    """
    loaded = read_yaml(path, _DEEPEST)
    if _EVALUATED in loaded:
        raise UserError(f"{path}: the key {_EVALUATED} makes snakemake evaluate the file as a program; remove it")
    left, waiting = _LARGEST, list[Any]([loaded])
    while waiting:
        found = waiting.pop()
        inside = [*found, *found.values()] if isinstance(found, dict) else found
        left -= len(inside)
        if left < 0:
            raise UserError(
                f"{path}: holds more than {_LARGEST:,} values once its anchors (&) and aliases (*) are resolved"
            )
        waiting += [value for value in inside if isinstance(value, dict | list)]
    return loaded


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def lay(base: Mapping[str, Any], mine: Any, paper: str) -> dict[str, Any]:
    """Lay a user's changes over a paper's YAML.

    A changed value is tagged `user` unless it brings a source of its own; null removes an experiment, optimizer,
    figure or claim; `like: <name>` starts a new experiment, optimizer or figure from another one.

    Args:
        base: as `shipped` returns it.
        mine: nested mappings of the same layout, in which bare values are enough.
        paper: its name, for messages.

    Raises:
        UserError: naming what cannot be laid over anything.
    """
    laid = dict(base)
    for key, value in _mapping(mine, paper).items():
        entry = _ENTRIES.get(key)
        laid[key] = value if entry is None else _collection(base.get(key, {}), value, f"{paper}.{key}", entry)
    return laid


def _collection(base: Mapping[str, Any], mine: Any, where: str, entry: Any) -> dict[str, Any]:
    """Lay entries over entries by name."""
    laid = dict(base)
    for name, value in _mapping(mine, where).items():
        if value is None:
            if name not in base:
                raise UserError(f"{where}: null removes what is there, but this is an {unknown('entry', name, base)}")
            del laid[name]
            continue
        changes = dict(_mapping(value, f"{where}.{name}"))
        model = changes.pop("like", name)
        if not isinstance(model, str):
            raise UserError(f"{where}.{name}.like: expected the name of an entry, found {shortened(model)}")
        if model != name and model not in base:
            raise UserError(f"{where}.{name}.like: {unknown('entry', model, base)}")
        begun = base.get(model, {})
        if model != name and entry is _claim:
            raise UserError(f"{where}.{name}.like: what a claim measures goes by its name; no other one's text fits")
        if model != name and entry in _NAMED:
            begun = {_NAMED[entry]: model, **begun}
        laid[name] = entry(begun, changes, f"{where}.{name}")
    return laid


def _experiment(base: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> dict[str, Any]:
    laid = {**base, **mine}
    if "settings" in mine:
        laid["settings"] = _values(base.get("settings", {}), _mapping(mine["settings"], f"{where}.settings"))
    if "optimizers" in mine:
        laid["optimizers"] = _collection(
            base.get("optimizers", {}), mine["optimizers"], f"{where}.optimizers", _optimizer
        )
    for key in ("seeds", "stream", "objective", "target"):
        if key in mine and mine[key] != base.get(key):
            laid[key] = _value(base.get(key), mine[key])
    return laid


def _optimizer(base: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> dict[str, Any]:
    label = where.rpartition(".")[2]
    if base and mine.get("rule", base.get("rule", label)) != base.get("rule", label):
        # Another rule: what was read about the old one says nothing about this one.
        base = {key: {**setting, **_USER} if isinstance(setting, Mapping) else setting for key, setting in base.items()}
    return _values(base, mine)


def _entry(base: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {**base, **mine}


def _claim(base: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> dict[str, Any]:
    changed = any(key in mine and mine[key] != base.get(key) for key in ("low", "high", "share"))
    # The reason that a shipped claim fails is about its shipped band.
    kept = {key: value for key, value in base.items() if key != "reason"} if changed else base
    return {**kept, **({"band": "user"} if changed else {}), **mine}


_ENTRIES = {"experiments": _experiment, "figures": _entry, "claims": _claim}
# The key that an entry's name stands for where it is not given; one that starts from another entry has that one's.
_NAMED = {_optimizer: "rule", _entry: "draws"}


def _values(base: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    return {**base, **{key: _value(base.get(key), value, there=bool(base)) for key, value in mine.items()}}


def _value(base: Any, mine: Any, there: bool = False) -> Any:
    """One value laid over another; the same value keeps its evidence, and a sweep what it takes the place of.

    `there` says that what it belongs to was there before, and so runs without this value.
    """
    swept = Swept.of(mine)
    if swept is not None:
        if base is not None and swept.base is None:
            found = Swept.of(base)
            swept = replace(swept, base=found.base if found else base if isinstance(base, Mapping) else {"value": base})
        return replace(swept, there=there)
    given = dict(mine) if isinstance(mine, Mapping) and {"value", "source", "where"} & set(mine) else {"value": mine}
    if isinstance(base, Mapping) and "sweep" not in base and given.get("value", base.get("value")) == base.get("value"):
        return {**base, **given}
    return {**_USER, **given}


def _mapping(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: expected a mapping laid out as in the shipped YAML, found {shortened(found)}")
    return found
