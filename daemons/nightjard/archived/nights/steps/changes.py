# SPDX-License-Identifier: BSD-3-Clause
"""Values of headers that a person had changed after the fact, kept with the night.

Headers are made anew whenever a product is. What was repaired is therefore no property of a file:
it is noted here, in ``record/header_changes.json``, and every later making takes it over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from nightjar.errors import StorageError
from nightjar.files import write_json_durably
from nightjar.fits.cards import CARD_BYTES, Card
from nightjard.archived.nights.dictionary.images import grouped
from nightjard.archived.nights.plan import FOLDER

_NAME = "header_changes.json"


@dataclass
class Changed:
    """The changes of one product.

    Attributes
    ----------
    cards
        Keyword -> its card as it is written, a multiple of 80 characters.
    history
        HISTORY cards that tell the old values, in the order of the changes.
    """

    cards: dict[str, str] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)


class HeaderChanges:
    """All changes of a night, by the name of the product.

    Parameters
    ----------
    folder
        Of the night.

    Raises
    ------
    StorageError
        The file cannot be read, or is not one of these.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER / _NAME
        self._found: dict[str, Changed] = {}
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            text = b""
        except OSError as error:
            raise StorageError(
                f"cannot read {self._path}: {error.strerror}", path=str(self._path)
            ) from error
        try:
            value: dict[str, Any] = json.loads(text) if text else {}
            self._found = {name: Changed(**each) for name, each in value.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{self._path} is damaged: {error}; restore it from a copy, or remove it and "
                "repair the headers again",
                path=str(self._path),
            ) from error
        self.digest = blake3(text).hexdigest() if text else ""

    @property
    def names(self) -> frozenset[str]:
        """Names of the products that have changes."""
        return frozenset(self._found)

    def applied(self, name: str, cards: str) -> str:
        """Return the cards of a product with its changes.

        Parameters
        ----------
        name
            Of the product.
        cards
            A multiple of 80 ASCII characters, no END.
        """
        changed = self._found.get(name)
        if changed is None:
            return cards
        waiting = dict(changed.cards)
        lines = [cards[at : at + CARD_BYTES] for at in range(0, len(cards), CARD_BYTES)]
        out: list[str] = []
        for image in grouped(tuple(line.encode("ascii") for line in lines)):
            text = image.decode("ascii")
            out.append(waiting.pop(_keyword(text), text))
        return "".join([*out, *waiting.values(), *changed.history])

    def add(self, name: str, cards: Mapping[str, Card], history: Sequence[Card]) -> None:
        """Note changes of a product; :meth:`save` keeps them."""
        changed = self._found.setdefault(name, Changed())
        changed.cards.update({key: card.to_bytes().decode("ascii") for key, card in cards.items()})
        changed.history += [card.to_bytes().decode("ascii") for card in history]

    def save(self) -> None:
        """Keep the changes durably."""
        write_json_durably(
            self._path, {name: vars(each) for name, each in sorted(self._found.items())}
        )

    def orphans(self, products: Iterable[str]) -> list[str]:
        """Return the products with changes that are none of the given ones."""
        return sorted(self.names - set(products))


def _keyword(image: str) -> str:
    """Return the keyword of a card; of a COMMENT that one is not available, that one."""
    keyword = image[:8].rstrip()
    if keyword == "COMMENT":
        first, _, rest = image[8:CARD_BYTES].strip().partition(" ")
        return first if rest.startswith("not available") else ""
    return keyword
