# SPDX-License-Identifier: BSD-3-Clause
"""The campaign file: where data and results are, what the hardware is, which tests to analyse how.

Its keys are those that analysts know from the configuration script of earlier campaigns; the file
is JSON, strict, and every path in it is relative to the file. Nothing in it is dropped silently:
a handle or a test that does not exist is refused with what may have been meant.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from nightjar.config.load import StrictModel, load, parse
from nightjar.config.paths import read_json
from nightjar.errors import ConfigError
from nightjar.executor.choosing import ExecutorConfig
from nightjard.calib.flags import FLAGS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$")]
CcdKey = Annotated[str, Field(pattern=r"^CCD[1-9]\d?$")]
WaveKey = Annotated[str, Field(pattern=r"^nm\d{1,5}$")]
Obsid = Annotated[int, Field(ge=0, le=999_999_999)]
Limits = Annotated[tuple[Obsid | None, Obsid | None], Field(strict=False)]
Folders = Annotated[
    tuple[str, ...], Field(strict=False),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]  # fmt: skip


class DiffValues(StrictModel):
    """Values of all scripts that belong to the hardware: serials, who operates."""

    operator: str = Field("unk", description="Who operates; not compared with the log.")
    sn_ccd1: str = Field("", description="Serial of CCD 1; empty: not compared.")
    sn_ccd2: str = Field("", description="Serial of CCD 2.")
    sn_ccd3: str = Field("", description="Serial of CCD 3.")
    sn_roe: str = Field("", description="Serial of the read-out electronics.")
    sn_rpsu: str = Field("", description="Serial of the power supply.")


class InputProducts(StrictModel):
    """Calibration products that go in; paths are below `cdppath`."""

    Mask: dict[CcdKey, str] = Field({}, description="Cosmetics masks.")
    Gain: str | dict[CcdKey, dict[str, Annotated[float, Field(gt=0, le=1000)]]] = Field(
        {}, description="Electrons per ADU by CCD and quadrant, or results.json of a PTC test."
    )
    FF: dict[WaveKey, dict[CcdKey, str]] = Field({}, description="Master flats.")
    BFE: str | None = Field(None, description="Table of brighter-fatter coefficients.")
    NL: str | None = Field(
        None, description="Curves of non-linearity (NL_MODEL of a linearity test); photon "
        "transfer and brighter-fatter take their frames with them.",
    )  # fmt: skip
    bias: dict[CcdKey, str] = Field({}, description="Master biases.")
    offsets: dict[CcdKey, dict[str, float]] = Field(
        {}, description="Expected offset, ADU, by CCD and quadrant."
    )
    HK: dict[Name, Annotated[tuple[float, float], Field(strict=False)]] = Field(
        {}, description="Voltage calibration of the electronics: parameter of housekeeping -> "
        "offset (V) and gain; offset + gain x command is what it should read.",
    )  # fmt: skip


class WaitConfig(StrictModel):
    """How data are waited for."""

    sleep_s: float = Field(120.0, gt=0, le=86400, strict=False, description="Between two looks.")
    give_up_s: float = Field(
        14400.0, gt=0, le=1e7, strict=False,
        description="Without a newly completed test for so long, whether to give up is asked.",
    )  # fmt: skip
    answer_s: float = Field(
        60.0, gt=0, le=86400, strict=False, description="No answer within this time: give up."
    )
    housekeeping_s: float = Field(
        300.0, ge=0, le=1e7, strict=False,
        description="Images are whole and for so long no housekeeping came: done without it.",
    )  # fmt: skip
    files_s: float = Field(
        3600.0, ge=0, le=1e7, strict=False,
        description="The log is complete and for so long no missing or cut image came: done "
        "without them.",
    )  # fmt: skip


class Waiver(StrictModel):
    """A flag that is known and accepted for a while: told, but it alarms nobody."""

    flag: str = Field(description="Name of the flag.")
    test: str = Field("*", description="A test, a handle, or * for all.")
    reason: str = Field(min_length=1, max_length=400, description="Why.")
    expires: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="Last day, UTC: YYYY-MM-DD.")

    @model_validator(mode="after")
    def _check(self) -> Waiver:
        if self.flag not in FLAGS:
            raise ValueError(f"no flag {self.flag!r}{meant(self.flag, FLAGS)}")
        try:
            dt.date.fromisoformat(self.expires)
        except ValueError:
            raise ValueError(f"expires: {self.expires!r} is no day") from None
        return self

    def holds(self, flag: str, test: str, handle: str, day: dt.date) -> bool:
        """Tell whether it waives a flag of a test on a day."""
        return (
            flag == self.flag
            and self.test in ("*", test, handle)
            and day <= dt.date.fromisoformat(self.expires)
        )


class ScheduledTest(StrictModel):
    """A test of a session: which data, which sub-tasks."""

    test: Name = Field(description="Specific name: FOCUS00_800.")
    obsids: Limits = Field((None, None), description="First and last OBSID; null: not known yet.")
    todo: dict[str, bool] | None = Field(
        None, description="Sub-task -> to be done; only those that are true. All if not given."
    )
    options: dict[str, Any] = Field({}, description="Options of the analysis.")
    datapath: Folders | None = Field(None, description="Its day folders, if not the session's.")

    @model_validator(mode="after")
    def _check(self) -> ScheduledTest:
        first, last = self.obsids
        if (first is None) != (last is None):
            raise ValueError("obsids: give both OBSIDs or null for both")
        if first is not None and last is not None and first > last:
            raise ValueError(f"obsids: the first, {first}, is after the last, {last}")
        return self


_KEYS = ("test", "obsids", "todo", "options")


def _entry(value: Any) -> Any:
    """Return ``[test, [first, last], todo, options]`` as an object."""
    if not isinstance(value, list):
        return value
    if not 1 <= len(value) <= len(_KEYS):
        raise ValueError("must be [test, [first OBSID, last OBSID], todo flags, options]")
    return dict(zip(_KEYS, value, strict=False))


_ENTRY_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "array", "minItems": 1, "maxItems": 4,
            "prefixItems": [
                {"type": "string"},
                {"type": "array", "items": {"type": ["integer", "null"]}, "minItems": 2,
                 "maxItems": 2},
                {"type": ["object", "null"], "additionalProperties": {"type": "boolean"}},
                {"type": "object"},
            ],
        },
        ScheduledTest.model_json_schema(),
    ]
}  # fmt: skip
Entry = Annotated[ScheduledTest, BeforeValidator(_entry), WithJsonSchema(_ENTRY_SCHEMA)]


class Session(StrictModel):
    """What is to be done with the data of a session."""

    datapath: Folders = Field((), description="Day folder or folders, below `datapath`.")
    schedule: tuple[Entry, ...] = Field(
        (), strict=False, description="Tests in the order in which they are taken and analysed."
    )

    @model_validator(mode="after")
    def _check(self) -> Session:
        _no_twins([entry.test for entry in self.schedule], "schedule")
        return self


def _no_twins(names: list[str], where: str) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(
            f"{where}: {', '.join(twins)} given twice; a repetition is called {twins[0]}.2"
        )


class CampaignFile(StrictModel):
    """The file as it is written."""

    dataroot: str = Field(".", description="Folder of the block's data.")
    datapath: str = Field("data", description="Parent of the day folders, below `dataroot`.")
    cdppath: str = Field("calproducts", description="Folder of calibration products.")
    resroot: str = Field(description="Folder of results.")
    BLOCKID: Name = Field(description="Name of the block that is tested.")
    CHAMBER: Name = Field(description="Profile of the test chamber.")
    detector: str = Field("ccd273", min_length=1, description="Name or path of its description.")
    elvis: Name = Field("7.5.X", description="Version of the acquisition software.")
    camptype: Name = Field("Full", description="Catalogue of tests.")
    diffvalues: DiffValues = Field(
        DiffValues(), description="Serials and operator: what the log must say."
    )
    inCDPs: InputProducts = Field(  # noqa: N815 - the name that analysts know
        InputProducts(), description="Calibration products that go in."
    )
    perflimits: dict[Name, dict[str, Any]] = Field(
        {}, description="Test or handle -> limits that replace those of the catalogue; null: "
        "not judged."
    )
    doReport: bool = Field(True, description="Write reports.")  # noqa: N815
    executor: ExecutorConfig = Field(ExecutorConfig(), description="Where analyses run.")
    wait: WaitConfig = Field(WaitConfig(), description="When to look, when to give up.")
    waivers: tuple[Waiver, ...] = Field(
        (), strict=False, description="Flags that are known and accepted until a day."
    )
    waived_keys: tuple[str, ...] = Field(
        ("motr_siz",), strict=False,
        description="Columns of the log that are not compared with the script.",
    )  # fmt: skip
    tasks2execute: dict[Name, Annotated[tuple[Name, ...], Field(strict=False)]] = Field(
        {}, description="Session -> handles or tests; those of the schedule if not given."
    )
    test_specifics: dict[Name, Session] = Field({}, description="Session -> schedule, folders.")

    @model_validator(mode="after")
    def _check(self) -> CampaignFile:
        if not self.sessions:
            raise ValueError("neither tasks2execute nor test_specifics names a session")
        for session, names in self.tasks2execute.items():
            _no_twins(list(names), f"tasks2execute.{session}")
            if not names:
                raise ValueError(f"tasks2execute.{session}: names no test")
        return self

    @property
    def sessions(self) -> list[str]:
        """Sessions, in the order of the file."""
        return list(dict.fromkeys([*self.tasks2execute, *self.test_specifics]))


def meant(name: str, known: Any) -> str:
    """Return ``; did you mean X?``, or what there is."""
    from nightjar.calibration.catalogue import nearest  # 70 ms, for those who err

    near = nearest(name, known, 2, 0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are: {', '.join(known)}" if known else ""


class Campaign:
    """A campaign file with its paths resolved."""

    def __init__(self, file: CampaignFile, path: Path) -> None:
        self.file = file
        self.path = path
        self._base = path.resolve().parent

    def resolved(self, text: str, base: Path | None = None) -> Path:
        """Return a path of the file: relative ones from the file's folder, or from `base`.

        Steps up at its beginning are taken, so that logs and results tell a plain path; where
        they come after a link they are left to the system.
        """
        path = Path(text).expanduser()
        if path.is_absolute():
            return path
        folder, parts = base or self._base, list(path.parts)
        while parts and parts[0] == ".." and not folder.is_symlink():
            folder, parts = folder.parent, parts[1:]
        return folder.joinpath(*parts)

    @property
    def results_root(self) -> Path:
        """Folder of results."""
        return self.resolved(self.file.resroot)

    @property
    def products_root(self) -> Path:
        """Folder of calibration products."""
        return self.resolved(self.file.cdppath)

    def day_folder(self, text: str) -> Path:
        """Return a day folder of the file."""
        parent = self.resolved(self.file.datapath, self.resolved(self.file.dataroot))
        return self.resolved(text, parent)

    @property
    def detector_source(self) -> str:
        """Name of the detector, or the absolute path of its description."""
        text = self.file.detector
        return str(self.resolved(text)) if text.endswith(".json") else text

    def require_session(self, run: str) -> str:
        """Return the name of a session, or raise ConfigError with those that there are."""
        if run not in self.file.sessions:
            raise ConfigError(
                f"{self.path}: no session {run!r}{meant(run, self.file.sessions)}",
                path=str(self.path),
            )
        return run

    def limits_of(self, test: str, handle: str) -> dict[str, Any]:
        """Return the limits that the file sets for a test: the handle's, then its own."""
        return {**self.file.perflimits.get(handle, {}), **self.file.perflimits.get(test, {})}


def load_campaign(path: Path) -> Campaign:
    """Read a campaign file.

    Raises
    ------
    ConfigError
        One line per fault: file, key path, value, what is allowed.
    """
    return Campaign(load(path, CampaignFile), path)


def campaign_of(path: Path, changes: dict[str, Any]) -> Campaign:
    """Read a campaign file and replace top-level keys, as options of the command do."""
    value = {**read_json(path), **changes}
    return Campaign(parse(value, CampaignFile, str(path)), path)
