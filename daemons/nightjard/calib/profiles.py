# SPDX-License-Identifier: BSD-3-Clause
"""Changes of a chamber's profile: proposed from measurements, looked at, accepted by a person.

A proposal is a file with a patch (RFC 6902; each operation also says what was there, how much
differs and what measurement says so). Accepting it appends a version; no version is ever edited.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar import __version__
from nightjar.calibration.chamber import ChamberProfile, load_profile, profile_history
from nightjar.config.load import load, parse
from nightjar.config.paths import config_root, read_json
from nightjar.errors import ConfigError, Refused, StorageError, storage_code
from nightjar.files import fsync_folder, write_durably
from nightjar.times import iso, parse_iso
from nightjard.calib.profile_change import FORMAT, Change, Evidence, Proposal

_DEDICATED = {"FLATFLUX00": "flat", "PSFLUX00": "point", "FOCUS00": "point"}
_LEAST_SIGMA = 2.0


@dataclass(frozen=True, slots=True)
class _Measure:
    """A measurement, and the entry of the profile that it is about."""

    path: str
    is_dedicated: bool
    evidence: Evidence


def profile_at(name: str, utc_ns: int) -> ChamberProfile:
    """Return the version that was in force at a time; the first one for what was before it.

    Raises
    ------
    ConfigError
        No such profile, or a version cannot be read.
    """
    first_ns = min(parse_iso(one.valid_from) for one in profile_history(name))
    return load_profile(name, at_ns=max(utc_ns, first_ns))


# --- proposing ----------------------------------------------------------------------------------


def propose(
    folders: Iterable[Path], chamber: str, utc_ns: int, *, shift_all: bool = False
) -> Proposal:
    """Return the change that results of FOCUS00, FLATFLUX00 and PSFLUX00 suggest.

    Parameters
    ----------
    folders
        Of tests, or of sessions.
    chamber
        Name of the profile; the change is to its newest version.
    shift_all
        Where the focus of one filter was measured, shift the filters that were not by as much.

    Raises
    ------
    ConfigError
        No such profile, no results, or none with a value that a profile has.
    """
    profile = profile_history(chamber)[-1]
    warnings: list[str] = []
    measures = []
    for path in _find_results(folders):
        measures += _measures(path, profile, warnings)
    if not measures:
        raise ConfigError(
            "none of these results has a best_focus or a saturation_time with its wavelength; "
            "analyse FOCUS00, FLATFLUX00 or PSFLUX00 first"
        )
    patch: list[Change] = []
    unchanged: list[str] = []
    for entry in dict.fromkeys(measure.path for measure in measures):
        change = _combine([one for one in measures if one.path == entry], profile, warnings)
        if abs(change.difference) <= _LEAST_SIGMA * (change.error or 0.0) or not change.difference:
            unchanged.append(change.line())
        else:
            patch.append(change)
    if shift_all:
        patch += _shifted(patch, unchanged, profile)
    warnings += [f"{one.path[1:]}: a large change; is it true?" for one in patch if one.is_large]
    return Proposal(
        format=FORMAT, program=f"nightjar {__version__}", proposed=f"{iso(utc_ns, 0)}Z",
        profile=chamber, base_version=profile.version, patch=patch, unchanged=unchanged,
        warnings=warnings,
    )  # fmt: skip


def _find_results(folders: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for folder in folders:
        # A test's folder has its older attempts in it, which are no measurements more.
        tests = sorted(folder.iterdir()) if _results_of(folder) is None else [folder]
        here = [path for one in tests if (path := _results_of(one)) is not None]
        if not here:
            raise ConfigError(f"{folder} has no results.json, nor has a folder in it")
        found.update({path.resolve(): None for path in here})
    return list(found)


def _results_of(folder: Path) -> Path | None:
    """Return the results of a test's folder: its own, else those of the attempt in force."""
    for path in (folder / "results.json", folder / "current" / "results.json"):
        if path.is_file():
            return path
    return None


def _measures(path: Path, profile: ChamberProfile, warnings: list[str]) -> list[_Measure]:
    document = read_json(path)
    test, values = document.get("test"), document.get("values")
    if not isinstance(test, str) or not isinstance(values, list):
        raise ConfigError(f"{path}: no results of a test: it lacks test or values")
    if document.get("is_drill"):
        warnings.append(f"{test}: a drill, not a measurement: left out")
        return []
    chamber = document.get("chamber", profile.name)
    if chamber != profile.name:
        warnings.append(f"{test}: was taken in chamber {chamber}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    flags = [str(name) for name in document.get("flag_names", [])]
    handle = str(document.get("handle") or test.split("_")[0])
    found = []
    for index, one in enumerate(values):
        where = one.get("where", {}) if isinstance(one, dict) else None
        if not isinstance(where, dict) or not _is_number(one.get("error", 0.0) or 0.0):
            raise ConfigError(f"{path}: values.{index}: not a value as calib run writes it")
        if "ccd" in where or not isinstance(where.get("wave"), int):
            continue  # of a part of the block, or of no filter
        entry = _entry_of(one.get("name"), handle, where, profile)
        if entry is None:
            continue
        value = one.get("value")
        if not _is_number(value) or value <= 0 or not math.isfinite(value):
            warnings.append(f"{test}: {one['name']} is {value!r}: left out")
            continue
        evidence = Evidence(
            test=test, name=one["name"], value=value, error=one.get("error"),
            results=str(path), sha256=digest, flags=flags,
        )  # fmt: skip
        is_dedicated = one["name"] == "best_focus" or handle in ("FLATFLUX00", "PSFLUX00")
        found.append(_Measure(entry, is_dedicated, evidence))
        bad = [flag for flag in flags if flag in ("BADFIT", "STARS_MISSING", "SUBTASKCRASH")]
        if bad:
            warnings.append(f"{test}: flagged {', '.join(bad)}: look at its report first")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _entry_of(
    name: Any, handle: str, where: dict[str, Any], profile: ChamberProfile
) -> str | None:
    """Return the path of the profile's entry that a value is about; None for other values."""
    wave = int(where["wave"])
    if name == "best_focus":
        return f"/mirror_nom/F{profile.filter_slot(wave)}"
    if name != "saturation_time":
        return None
    source = where.get("source") or _DEDICATED.get(handle, "flat")
    profile.saturation_s(source, wave)  # it has one
    return f"/tFWC_{source}/nm{wave}"


def _combine(
    measures: list[_Measure], profile: ChamberProfile, warnings: list[str]
) -> Change:
    """Return the change of one entry: from tests that are made for it where there are any."""
    path = measures[0].path
    best = [one for one in measures if one.is_dedicated] or measures
    values = [one.evidence.value for one in best]
    errors = [one.evidence.error for one in best if one.evidence.error]
    error: float | None = None
    if len(errors) == len(best):
        weights = [1.0 / error**2 for error in errors]
        value = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        error = sum(weights) ** -0.5
        spread = max(abs(v - value) / e for v, e in zip(values, errors, strict=True))
        if spread > 3:
            warnings.append(f"{path[1:]}: the measurements differ by {spread:.1f} sigma")
    else:
        value = sum(values) / len(values)
    table, key = path[1:].split("/")
    old = getattr(profile, table)[key]
    is_focus = table == "mirror_nom"
    value = round(value, 3) if is_focus else float(f"{value:.4g}")
    return Change(
        path=path, value=value, old=old, difference=round(value - old, 6), error=error,
        unit="mm" if is_focus else "s", evidence=[one.evidence for one in best],
    )  # fmt: skip


def _shifted(
    patch: list[Change], unchanged: list[str], profile: ChamberProfile
) -> list[Change]:
    """Return changes of the mirror for the filters that nobody measured: the mean of the others."""
    focus = [change for change in patch if change.unit == "mm"]
    if not focus:
        return []
    shift = sum(change.difference for change in focus) / len(focus)
    known = {change.path for change in focus}
    known |= {f"/{line.split(':')[0].replace('.', '/')}" for line in unchanged}
    return [
        Change(
            path=f"/mirror_nom/{slot}", value=round(old + shift, 3), old=old,
            difference=round(round(old + shift, 3) - old, 6), error=None, unit="mm",
            evidence=[one for change in focus for one in change.evidence],
        )
        for slot, old in profile.mirror_nom.items()
        if f"/mirror_nom/{slot}" not in known
    ]  # fmt: skip


def write_proposal(proposal: Proposal, path: Path) -> None:
    """Write a proposal, never over another file."""
    text = json.dumps(proposal.model_dump(mode="json"), indent=2, ensure_ascii=False)
    try:
        write_durably(path, f"{text}\n".encode())
    except FileExistsError as error:
        raise Refused(f"{path} is there already; name another file with --out") from error
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}", code=storage_code(error), path=str(path)
        ) from error


# --- accepting ----------------------------------------------------------------------------------


def accept(
    path: Path, *, author: str, reason: str, utc_ns: int, valid_from: str | None = None,
    allow_large: bool = False,
) -> tuple[ChamberProfile, Path]:  # fmt: skip
    """Append the version that a proposal asks for.

    Parameters
    ----------
    author, reason
        Who answers for it, and why.
    valid_from
        From when on it is in force, ISO 8601 UTC; default now.

    Returns
    -------
    ChamberProfile, Path
        The new version and its file.

    Raises
    ------
    Refused
        The profile has changed since, a change is large, or there is nothing to change.
    StorageError
        It cannot be written.
    """
    proposal = load(path, Proposal)
    base = profile_history(proposal.profile)[-1]
    _check(proposal, base, path, allow_large=allow_large)
    begin = valid_from or f"{iso(utc_ns, 0)}Z"
    try:
        starts_too_early = parse_iso(begin) < parse_iso(base.valid_from)
    except ValueError as error:
        raise ConfigError(f"--valid-from {begin}: {error}") from error
    if starts_too_early:
        raise Refused(
            f"version {base.version} holds from {base.valid_from}; the next one cannot from {begin}"
        )
    content = base.model_dump(mode="json")
    for change in proposal.patch:
        table, key = change.path[1:].split("/")
        content[table][key] = change.value
    content.update(
        version=base.version + 1, valid_from=begin, recorded=f"{iso(utc_ns, 0)}Z", author=author,
        reason=reason, evidence=list(_evidence_lines(proposal)),
    )  # fmt: skip
    profile = parse(content, ChamberProfile, str(path))
    return profile, _append(profile)


def _check(proposal: Proposal, base: ChamberProfile, path: Path, *, allow_large: bool) -> None:
    if not proposal.patch:
        raise Refused(f"{path} changes nothing")
    if base.version != proposal.base_version:
        raise Refused(
            f"{path} changes version {proposal.base_version} of {base.name}, in force is version "
            f"{base.version}; propose it again"
        )
    faults = []
    for change in proposal.patch:
        table, key = change.path[1:].split("/")
        old = getattr(base, table).get(key)
        if old != change.old:
            faults.append(f"{path}: {change.path}: was {change.old:g}, the profile says {old}")
        if abs(change.value - change.old - change.difference) > 1e-5:
            faults.append(f"{path}: {change.path}: value, old and difference do not fit")
        if change.is_large and not allow_large:
            faults.append(
                f"{path}: {change.path}: {change.old:g} -> {change.value:g} {change.unit} is a "
                "large change; accept it with --large where it is meant"
            )
    if faults:
        raise Refused("\n".join(faults))


def _evidence_lines(proposal: Proposal) -> Iterable[str]:
    for change in proposal.patch:
        for one in change.evidence:
            error = "" if one.error is None else f" +- {one.error:.3g}"
            yield (
                f"{change.path[1:].replace('/', '.')}: {one.test} {one.name} {one.value:.6g}"
                f"{error} {change.unit} (results.json {one.sha256[:12]})"
            )


def _append(profile: ChamberProfile) -> Path:
    folder = config_root("calib") / "chambers" / profile.name
    path = folder / f"{profile.version:04d}.json"
    text = json.dumps(profile.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(folder.parent)
        write_durably(path, text.encode())
    except FileExistsError as error:
        raise Refused(f"{path} was written by somebody else meanwhile; propose again") from error
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; set CALIB_CONFIG_ROOT to a folder of yours",
            code=storage_code(error), path=str(path),
        ) from error  # fmt: skip
    return path


def default_author() -> str:
    """Return who runs this program, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
