"""The tokenizer of a tiny policy, trained by the run: byte-level BPE, operators split first, one token for each line
number, MiMo's control tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from envfarm.core.errors import Reason, TrainerError

from .chat import SPECIALS, Piece

PADDING = "<|endoftext|>"
CONTROL = (PADDING, *(piece.text for piece in SPECIALS))
"""MiMo's control tokens."""
LISTED = re.compile(r" #(\d+)\n")
"""The end of a listed line, with its number: one token."""
ADDED = re.compile(r"\$\(\(\d+\+(\d+)\)\)")
"""A line number in ``$((119+7))``: one token, the 7."""
_NUMBERS = re.compile(f"{LISTED.pattern}|{ADDED.pattern}")
_OFTEN = (
    "== != <= >= < > + - * / // % ** = += -= *= /= //= %= -> := "
    "if elif else not in is and or True False None return break continue for while 0 1 2 -1 \"\" ''"
)
"""What edits are about: always tokens of their own, however rare in the texts at hand."""
# Operators stand alone, whatever is around them, so that an edit of one is one token for another. A word or an
# operator takes the space before it along; digits stand alone.
_WORDS_KEPT = 200_000
_SPLIT = r" ?(?:\*\*=?|//=?|==|!=|<=|>=|->|:=|[-+*/%&|^~<>=@!]=?)| ?[A-Za-z_]+| ?[0-9]| ?[^\sA-Za-z0-9_]|\s+"


class TinyTokenizer:
    """Text to ids and back. Plain text never becomes a control token, whatever it holds."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = {text: self._id(text) for text in CONTROL}
        self._listed, self._added = self._id(_listed(1)), self._id(_added(1))
        self.lines = self._added - self._listed
        """Line numbers that have tokens: 1 to this."""
        self._texts = {self._listed + n - 1: f" #{n}\n" for n in range(1, self.lines + 1)}
        self._texts |= {self._added + n - 1: str(n) for n in range(1, self.lines + 1)}
        self._texts |= {number: text for text, number in self._control.items()}
        self._words: dict[str, list[int]] = {}

    @property
    def size(self) -> int:
        """Ids are below it."""
        return self._tokenizer.get_vocab_size()

    def control(self, text: str) -> int:
        """The id of one of :data:`CONTROL`."""
        return self._control[text]

    def listed(self, token: int) -> int | None:
        """The number of a listed line's end, None for another token."""
        number = token - self._listed + 1
        return number if 1 <= number <= self.lines else None

    def added(self, number: int) -> int:
        """The id of a line number as it stands in a command."""
        if not 1 <= number <= self.lines:
            raise ValueError(f"line {number} has no token: 1 to {self.lines} have")
        return self._added + number - 1

    def is_added(self, token: int) -> bool:
        """Whether it is one of :meth:`added`."""
        return self._added <= token < self._added + self.lines

    def encode(self, pieces: str | Iterable[Piece]) -> list[int]:
        """Ids of plain text, or of a chat's pieces."""
        if isinstance(pieces, str):
            return self._plain(pieces)
        ids: list[int] = []
        for piece in pieces:
            ids += [self._control[piece.text]] if piece.special else self._plain(piece.text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens by their names."""
        parts: list[str] = []
        plain: list[int] = []
        for each in ids:
            if each in self._texts:
                parts += [self._tokenizer.decode(plain), self._texts[each]]
                plain = []
            else:
                plain.append(each)
        return "".join((*parts, self._tokenizer.decode(plain)))

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._tokenizer.save(str(path))

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for found in _NUMBERS.finditer(text):
            listed = found[1] is not None
            number = int(found[1] or found[2])
            if 1 <= number <= self.lines:
                start, end = found.span() if listed else found.span(2)
                ids += self._bytes(text[at:start])
                ids.append((self._listed if listed else self._added) + number - 1)
                at = end
        return ids + self._bytes(text[at:])

    def _bytes(self, text: str) -> list[int]:
        # The library looks for added tokens in any text; word by word, the model behind it does not.
        ids: list[int] = []
        for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text):  # type: ignore[union-attr]
            known = self._words.get(word)
            if known is None:
                if len(self._words) > _WORDS_KEPT:
                    self._words.clear()
                known = self._words[word] = [token.id for token in self._tokenizer.model.tokenize(word)]
            ids += known
        return ids

    def _id(self, text: str) -> int:
        found = self._tokenizer.token_to_id(text)
        if found is None:
            raise TrainerError(
                f"The tokenizer has no token '{text}'.",
                reason=Reason.checkpoint_mismatch,
                phase="tokenizer",
                remedy="Give the tokenizer.json that the policy was trained with.",
            )
        return found


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, lines: int) -> TinyTokenizer:
    """A tokenizer of ``vocabulary`` plain tokens, the control tokens and ``lines`` line numbers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([  # type: ignore[assignment]
        pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(chain(repeat(f"{_OFTEN}\n{_OFTEN.replace(' ', chr(10))}", 1000), texts), trainer)
    numbers = range(1, lines + 1)
    names = (*CONTROL, *map(_listed, numbers), *map(_added, numbers))
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    return TinyTokenizer(tokenizer)


def load_tokenizer(path: Path) -> TinyTokenizer:
    """Raises ``TrainerError`` for a file that is not there or is no tokenizer of this kind."""
    try:
        return TinyTokenizer(Tokenizer.from_file(str(path)))
    except TrainerError:
        raise
    except Exception as error:  # the boundary to a library that raises plain Exception
        missing = not path.exists()
        raise TrainerError(
            f"The tokenizer {path} {'is not there' if missing else 'cannot be read'}: {error}.",
            reason=Reason.checkpoint_missing if missing else Reason.checkpoint_corrupt,
            phase="tokenizer",
            remedy="Give the folder of a complete checkpoint.",
        ) from error


def _listed(number: int) -> str:
    return f"<|listed:{number}|>"


def _added(number: int) -> str:
    return f"<|added:{number}|>"
