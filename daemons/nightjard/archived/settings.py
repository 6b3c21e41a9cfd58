# SPDX-License-Identifier: BSD-3-Clause
"""What observers set: written into, and done with, the frames that are accepted from then on."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nightjar.api.archive import SETTING_KEYS
from nightjar.clock import Clock
from nightjar.errors import Code, InvalidArgument, Refused
from nightjar.times import iso
from nightjard.archived.headers import fits_on_card
from nightjard.archived.store import Store
from nightjard.archived.tables import Stored

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]{0,39}\Z")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings in force.

    Attributes
    ----------
    object, frame_type
        Cards OBJECT and IMAGETYP; None leaves them as the camera wrote them.
    prefix
        Put before file names; None for none.
    archive
        Whether frames of a camera are archived; True for cameras that are not named.
    """

    object: str | None = None
    frame_type: str | None = None
    prefix: str | None = None
    archive: Mapping[str, bool] = field(default_factory=dict)

    def is_archiving(self, camera: str) -> bool:
        """Tell whether frames of a camera are archived."""
        return self.archive.get(camera, True)

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "object": self.object,
            "frame_type": self.frame_type,
            "prefix": self.prefix,
            "archive": dict(self.archive),
        }


class SettingsKeeper:
    """The settings in force and since when; kept in the database.

    Parameters
    ----------
    store
        Where they are kept.
    cameras, frame_types
        What may be named.
    clock
        Dates changes.

    Attributes
    ----------
    present : Settings
        Those in force.
    """

    def __init__(
        self, store: Store, cameras: Sequence[str], frame_types: Sequence[str], clock: Clock
    ) -> None:
        self._store = store
        self._cameras = cameras
        self._frame_types = frame_types
        self._clock = clock
        self._since: Stored | None = None
        self._lock = threading.Lock()
        self.present = Settings()

    def load(self) -> None:
        """Take those that an earlier life kept."""
        stored = self._store.setting("settings")
        if stored is not None:
            self.present, self._since = Settings(**stored.value), stored

    def change(self, changes: Mapping[str, Any], who: str) -> str:
        """Change settings, all or nothing; durable on return. Return what changed, as text."""
        with self._lock:
            new = changed(self.present, changes, self._cameras, self._frame_types)
            text = difference(self.present, new)
            if text:
                stored = Stored(new.plain(), self._clock.now_ns(), who)
                self._store.put_setting("settings", stored, f"{text} (by {who})")
                self.present, self._since = new, stored
        return text

    def snapshot(self) -> dict[str, Any]:
        """Return plain values, every camera named; waits for nothing."""
        since, present = self._since, self.present
        return {
            **present.plain(),
            "archive": {name: present.is_archiving(name) for name in self._cameras},
            "changed": iso(since.changed_ns, 0) if since else None,
            "changed_by": since.changed_by if since else None,
        }


def changed(
    settings: Settings,
    changes: Mapping[str, Any],
    cameras: Sequence[str],
    frame_types: Sequence[str],
) -> Settings:
    """Return settings with changes made: all of them or, on an error, none.

    Raises
    ------
    InvalidArgument
        An unknown key or a value of the wrong type.
    Refused
        An unknown camera or frame type, a text that cannot be a card or part of a file name.
    """
    if not changes:
        raise InvalidArgument(f"no setting given; known: {', '.join(SETTING_KEYS)}")
    unknown = sorted(set(changes) - set(SETTING_KEYS))
    if unknown:
        raise InvalidArgument(
            f"unknown setting {', '.join(map(repr, unknown))}; known: {', '.join(SETTING_KEYS)}"
        )
    texts = {key: _text(key, changes[key]) for key in SETTING_KEYS[:3] if key in changes}
    _check_object(texts.get("object"))
    _check_prefix(texts.get("prefix"))
    if texts.get("frame_type"):
        texts["frame_type"] = _frame_type(str(texts["frame_type"]), frame_types)
    archive = dict(settings.archive)
    archive.update(_archive(changes.get("archive", {}), cameras))
    return replace(settings, **texts, archive=archive)


def difference(old: Settings, new: Settings) -> str:
    """Return what differs, as people say it; empty for nothing."""
    parts = [
        f"{key.replace('_', ' ')} {getattr(old, key) or 'none'} -> {getattr(new, key) or 'none'}"
        for key in SETTING_KEYS[:3]
        if getattr(old, key) != getattr(new, key)
    ]
    parts += [
        f"archiving of {camera} {_on(old.is_archiving(camera))} -> {_on(new.is_archiving(camera))}"
        for camera in sorted({*old.archive, *new.archive})
        if old.is_archiving(camera) != new.is_archiving(camera)
    ]
    return ", ".join(parts)


def _on(is_on: bool) -> str:
    return "on" if is_on else "off"


def _text(key: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidArgument(f"{key} must be a text or null, not {value!r:.60}")
    return value.strip() or None


def _check_object(text: str | None) -> None:
    if text is not None and not fits_on_card(text):
        raise Refused(
            "object must be printable ASCII of at most 68 characters (a quote counts as two)",
            code=Code.OUT_OF_RANGE,
        )


def _check_prefix(text: str | None) -> None:
    if text is not None and not _PREFIX.match(text):
        raise Refused(
            "prefix becomes part of file names: at most 40 letters, digits and . _ + -, the first "
            "a letter or digit",
            code=Code.OUT_OF_RANGE,
        )


def _frame_type(text: str, known: Sequence[str]) -> str:
    for name in known:
        if name.lower() == text.lower():
            return name
    raise Refused(
        f"frame_type must be one of {', '.join(known)}, not {text!r:.60}", code=Code.OUT_OF_RANGE
    )


def _archive(value: Any, cameras: Sequence[str]) -> dict[str, bool]:
    if not isinstance(value, Mapping):
        raise InvalidArgument("archive must be an object: {camera: true or false}")
    for camera, is_on in value.items():
        if camera not in cameras:
            raise Refused(
                f"no camera {camera!r:.60}; configured: {', '.join(cameras)}",
                code=Code.UNKNOWN_ITEM,
            )
        if not isinstance(is_on, bool):
            raise InvalidArgument(f"archive.{camera} must be true or false, not {is_on!r:.60}")
    return dict(value)
