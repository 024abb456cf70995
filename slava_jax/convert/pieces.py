"""Sentencepiece models as tokenizers of the `tokenizers` library, with sentencepiece's own ids.

That library merges pairs of a list, sentencepiece any two neighbours whose union is a piece. Both
agree on almost every model, but not by construction: what is built here is compared with
sentencepiece, over all pieces and over awkward texts, and refused where an id differs.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from slava_jax.convert.rules import ConvertError
from slava_jax.facts import shown

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of a piece
_BPE = 2  # trainer_spec.model_type
_SPACE = "\u2581"  # how sentencepiece writes a space
_CHUNK = 64  # pieces in one text of the comparison
_AWKWARD = (
    "", " ", "a", " one", "  two  blanks", "\nline", "a\n\n b ", "tab\there", "12 nm, 4096 x 3072",
    "It's (20.000 kV)", "5 \u00b5m \u03bcm \u212b", "gr\u00fc\u00dfe e\u0301 \ufb01 \u2460",
    "\u6f22\u5b57 \uff21", "\U0001f52c\U0001f9ea", "zzzzzzz aaaa", "\u00a0\u3000\u200b", "\x00\x7f",
    "a \u2581 ", "\u2581a\u2581",
)  # fmt: skip
_REMEDY = (
    "put a tokenizer.json into the folder: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) "
    "of transformers writes it"
)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A byte-pair model of sentencepiece: a `ModelProto`, and its merges if they are listed.

    Attributes:
      place: the file, for error messages.
      remedy: what to do if its ids cannot be reproduced.
    """

    proto: ModelProto
    place: str
    remedy: str
    merges: Sequence[tuple[str, str]] | None = None

    def of_type(self, *types: int) -> list[str]:
        """The pieces of some types, in the order of their ids."""
        return [piece.piece for piece in self.proto.pieces if piece.type in types]

    def special(self) -> dict[str, str]:
        """The unknown, start, end and padding piece, by transformers' names."""
        loaded = _loaded(self)
        ids = {name: getattr(loaded, f"{name}_id")() for name in ("unk", "bos", "eos", "pad")}
        return {f"{n}_token": self.proto.pieces[i].piece for n, i in ids.items() if i >= 0}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with ids as sentencepiece's.

        Raises:
          ConvertError: not a byte-pair model, damaged, or an id differs.
        """
        if self.proto.trainer_spec.model_type != _BPE:
            raise ConvertError(
                f"{self.place}: a sentencepiece model that is not of byte pairs; {self.remedy}"
            )
        loaded = _loaded(self)
        built = _built(self)
        scores = {p.score for p in self.proto.pieces if p.type == NORMAL and len(p.piece) > 1}
        if len(scores) > 1:
            _compare(built, loaded, self)
        elif self.merges is None and scores:
            raise ConvertError(
                f"{self.place}: all tokens have the same score and there are no merges, so it does "
                f"not say how text is cut; {self.remedy}"
            )
        return built


def read_pieces(path: Path, prefix: bool = True) -> Pieces:
    """Reads a tokenizer.model.

    Args:
      prefix: whether a text may begin with a space that is not its own.

    Raises:
      ConvertError: it is damaged.
    """
    proto = ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
        if not proto.pieces:
            raise DecodeError("it has no pieces")
    except (DecodeError, OSError) as error:
        raise ConvertError(
            f"{path}: not a sentencepiece model, or damaged ({error}); download it again"
        ) from error
    proto.normalizer_spec.add_dummy_prefix &= prefix
    return Pieces(proto, str(path), _REMEDY)


def gguf_pieces(vocabulary: dict[str, Any], place: str) -> Pieces:
    """The sentencepiece model in the vocabulary of a GGUF file (`gguf_tokenizer`).

    Raises:
      ConvertError: a field is missing or damaged.
    """
    lists = [vocabulary.get(name) for name in ("tokens", "scores", "token_type")]
    if not all(isinstance(held, list) and len(held) == len(lists[0]) for held in lists):
        raise ConvertError(
            f"{place}: tokenizer.ggml.tokens, scores and token_type must be lists of one length; "
            "convert the Hugging Face folder of this model instead"
        )
    proto = ModelProto()
    for token, score, kind in zip(*lists, strict=True):
        if not math.isfinite(score):
            raise ValueError(f"tokenizer.ggml.scores: has {score}")
        proto.pieces.add(piece=token, score=score, type=kind)
    kinds = set(lists[2])
    if UNKNOWN not in kinds and "unk_token_id" in vocabulary:  # some writers call it a control
        proto.pieces[vocabulary["unk_token_id"]].type = UNKNOWN
    spec = proto.normalizer_spec
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = _BPE, BYTE in kinds
    spec.add_dummy_prefix = bool(vocabulary.get("add_prefix_space", True))
    spec.remove_extra_whitespaces = bool(vocabulary.get("remove_extra_whitespaces", False))
    spec.precompiled_charsmap = bytes(vocabulary.get("precompiled_charsmap", b""))
    merges = vocabulary.get("merges")
    if merges is not None:
        merges = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    remedy = "convert the Hugging Face folder of this model instead"
    return Pieces(proto, place, remedy, merges)


def _loaded(pieces: Pieces) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=pieces.proto.SerializeToString())
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConvertError(
            f"{pieces.place}: sentencepiece cannot read it ({shown(str(error))}); download it again"
        ) from error


def _built(pieces: Pieces) -> Tokenizer:
    proto, spec = pieces.proto, pieces.proto.normalizer_spec
    fallback = proto.trainer_spec.byte_fallback
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = _merges(proto) if pieces.merges is None else pieces.merges
    unknown = pieces.of_type(UNKNOWN)[0]  # sentencepiece loads no model without it
    built = Tokenizer(
        models.BPE(ids, list(merges), unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    )
    steps = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # At the end, but not at the start, sentencepiece takes its own mark for a space.
        rules = ((" {2,}", " "), (rf"\A |[ {_SPACE}]+\z", ""))
        steps += [normalizers.Replace(Regex(rule), to) for rule, to in rules]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    built.normalizer = normalizers.Sequence(steps)
    ends = [decoders.Strip(" ", 1, 0)] * spec.add_dummy_prefix
    back = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence(back + ends)
    # Text is searched for the tokens that follow, except where the caller has special ones split.
    built.add_special_tokens([_added(piece) for piece in pieces.of_type(UNKNOWN, CONTROL)])
    built.add_tokens([_added(piece) for piece in pieces.of_type(USER_DEFINED)])
    return built


def _added(piece: str) -> AddedToken:
    return AddedToken(piece, normalized=False)


def _merges(proto: ModelProto) -> list[tuple[str, str]]:
    """All pairs of pieces whose union is a piece, the best score first.

    Only normal pieces: '</s>' or '<0x0A>' in a text never becomes the token of that name.
    """
    normal = {p.piece: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == NORMAL}
    merges = [
        (order, cut, piece)
        for piece, order in normal.items()
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    return [(piece[:cut], piece[cut:]) for _, cut, piece in sorted(merges)]


def _compare(built: Tokenizer, loaded: sentencepiece.SentencePieceProcessor, of: Pieces) -> None:
    """Raises ConvertError if the ids of a text differ."""
    built = Tokenizer.from_str(built.to_str())
    built.encode_special_tokens = True
    texts = list(_texts(of))
    found = [each.ids for each in built.encode_batch(texts, add_special_tokens=False)]
    for text, ours, theirs in zip(texts, found, loaded.encode(texts), strict=True):
        if ours != theirs:
            raise ConvertError(
                f"{of.place}: the ids of this sentencepiece model cannot be reproduced (those of "
                f"{shown(text)} differ); {of.remedy}"
            )


def _texts(pieces: Pieces) -> Iterator[str]:
    yield from _AWKWARD
    for piece in pieces.of_type(UNKNOWN, CONTROL, UNUSED, BYTE):
        yield f"a{piece}b"
    if pieces.merges is None:  # else a GGUF file
        yield from (f"a{piece}b" for piece in pieces.of_type(USER_DEFINED))
    normal = pieces.of_type(NORMAL)
    for start in range(0, len(normal), _CHUNK):
        for between in ("", " "):
            yield between.join(normal[start : start + _CHUNK]).replace(_SPACE, " ")
