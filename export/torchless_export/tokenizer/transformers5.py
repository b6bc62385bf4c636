"""How transformers 5 loads a tokenizer: the class builds it anew around the vocabulary of tokenizer.json.

Normalizer, pre-tokenizer, post-processor and the model's options come from the class and from tokenizer_config.json;
of tokenizer.json only the vocabulary and the merges count (Albert: the post-processor too). The generic class alone
takes the file as it is.

Source: transformers 5.23.0, `TokenizersBackend.convert_to_native_format` and `__init__`, `_from_pretrained` in
`tokenization_utils_base.py`, and the classes in `models/*/tokenization_*.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from torchless.errors import one_line
from torchless_export.tokenizer.classes import NAMED_TOKENS, TokenizerClass
from torchless_export.tokenizer.sources import (
    LoadedTokenizer,
    LoadError,
    TokenizerSources,
    is_failure,
    max_length_of,
    named_tokens,
    read_arguments,
    stored_settings,
    token_id,
)

_Tokens = Mapping[str, Any]
_Builder = Callable[[Mapping[str, Any], Mapping[str, Any], _Tokens], tokenizers.Tokenizer]
_Processor = Callable[[tokenizers.Tokenizer, _Tokens, Mapping[str, Any]], Any]


def load(sources: TokenizerSources) -> LoadedTokenizer:
    """Return the tokenizer as transformers 5 has it.

    Raises:
        LoadError: transformers 5 cannot load it.
    """
    if sources.class5 is None:
        raise LoadError("transformers 5 has no tokenizer class for it")
    try:
        return _load(sources, sources.class5)
    except BaseException as error:  # a class raises whatever a wrong argument leads to
        if isinstance(error, LoadError) or not is_failure(error):
            raise
        raise LoadError(one_line(str(error) or type(error).__name__, 200)) from error


def _load(sources: TokenizerSources, kind: TokenizerClass) -> LoadedTokenizer:
    config = dict(sources.config)
    if "additional_special_tokens" in config and not config.get("extra_special_tokens"):
        config["extra_special_tokens"] = config.pop("additional_special_tokens")
    specific = {k: config.pop(k) for k in [*config] if _names_a_token(k) and isinstance(config[k], str)}
    if isinstance(config.get("extra_special_tokens"), dict):
        specific |= config.pop("extra_special_tokens")
    if specific:
        config["model_specific_special_tokens"] = specific
    arguments = read_arguments(sources, config, 5)
    config = arguments.config
    tokens = named_tokens(kind, config, kind.options5)
    stored = tokenizers.Tokenizer.from_str(sources.text)
    padding_side, truncation_side, from_stored = stored_settings(stored, kind, config, tokens)
    extra = _extra_tokens(kind, config, tokens)
    if kind.name in _BUILDERS:
        build, process = _BUILDERS[kind.name]
        backend = build(sources.document, config, tokens)
        if process is None and stored.post_processor is not None:
            backend.post_processor = stored.post_processor
        _add_tokens(backend, arguments.added, tokens, extra)
        if process is not None:
            backend.post_processor = process(backend, tokens, config)
    else:
        backend = stored
        _add_tokens(backend, arguments.added, tokens, extra)
        if backend.post_processor is None:
            backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return LoadedTokenizer(
        version=5,
        backend=backend,
        tokens={key: str(token) for key, token in tokens.items() if token},
        extra=tuple(map(str, extra)),
        inputs=tuple(config.get("model_input_names", kind.inputs5)),
        padding_side=padding_side,
        truncation_side=truncation_side,
        max_length=max_length_of(config),
        from_stored=from_stored,
    )


def _names_a_token(key: str) -> bool:
    return key.endswith("_token") and key not in NAMED_TOKENS


def _extra_tokens(kind: TokenizerClass, config: Mapping[str, Any], tokens: dict[str, Any]) -> list[Any]:
    """Return the unnamed special tokens; those with a name of the checkpoint's own are put into `tokens`."""
    extra = config.get("extra_special_tokens")
    if "extra_special_tokens" not in config:
        # Camembert's own, and what special_tokens_map.json may hold under the old name.
        extra = config.get("additional_special_tokens") or list(kind.extra)
    own = dict(config.get("model_specific_special_tokens") or {})
    if isinstance(extra, dict):
        own, extra = own | extra, []
    own = {k: v for k, v in config.items() if _names_a_token(k) and isinstance(v, str | AddedToken)} | own
    if not all(isinstance(token, str | AddedToken) for token in (*own.values(), *(extra or ()))):
        raise LoadError("extra_special_tokens holds something that is no token")
    tokens |= own
    return list(extra or ())


def _add_tokens(
    backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken], tokens: _Tokens, extra: list[Any]
) -> None:
    """Add the tokens that the config lists, then the special ones that are not known by name."""
    adding: list[Any] = [token for _, token in sorted(added.items())]
    known = {token.content for token in backend.get_added_tokens_decoder().values()} | set(map(str, adding))
    named = [token for token in tokens.values() if token is not None]
    for token in (*named, *extra):
        if str(token) not in known and token not in adding:
            adding.append(token)
    names = set(map(str, named))
    for place, token in enumerate(adding):
        if isinstance(token, str):
            adding[place] = AddedToken(token, special=True)
        elif not token.special and str(token) in names:
            token.special = True
    backend.add_tokens(adding)


def _vocabulary(document: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, list):
        return {row[0] if isinstance(row, list) else row: index for index, row in enumerate(vocabulary)}
    return dict(vocabulary)


def _pieces(document: Mapping[str, Any]) -> list[tuple[str, float]]:
    vocabulary = document["model"]["vocab"]
    if not isinstance(vocabulary, list):
        raise LoadError("the class needs a Unigram model, and tokenizer.json has another")
    return [(piece, score) for piece, score in vocabulary]


def _charsmap(document: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the first precompiled SentencePiece normalizer of tokenizer.json, if any."""
    given = document.get("normalizer") or {}
    for part in given.get("normalizers", ()) if given.get("type") == "Sequence" else (given,):
        if part.get("type") == "Precompiled":
            yield normalizers.Precompiled(base64.b64decode(part["precompiled_charsmap"]))
            return


def _metaspace(config: Mapping[str, Any], otherwise: str = "never") -> str:
    return "always" if config.get("add_prefix_space", True) else otherwise


def _build_word_piece(document: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(_vocabulary(document), unk_token=str(tokens["unk_token"])))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _build_byte_level(document: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> tokenizers.Tokenizer:
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in document["model"].get("merges", ())]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=_vocabulary(document),
            merges=merges,
            dropout=None,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def _build_unigram(
    pieces: list[tuple[str, float]], unknown: int, steps: list[Any], splits: list[Any], scheme: str
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    if steps:
        backend.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return backend


def _build_xlm_roberta(document: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> tokenizers.Tokenizer:
    steps, splits = list(_charsmap(document)), [pre_tokenizers.WhitespaceSplit()]
    return _build_unigram(_pieces(document), 3, steps, splits, _metaspace(config))


def _build_camembert(document: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> tokenizers.Tokenizer:
    pieces = _pieces(document)
    unknown = next((i for i, (piece, _) in enumerate(pieces) if piece == str(tokens["unk_token"])), 0)
    steps, splits = list(_charsmap(document)), [pre_tokenizers.WhitespaceSplit()]
    return _build_unigram(pieces, unknown, steps, splits, _metaspace(config))


def _build_albert(document: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> tokenizers.Tokenizer:
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not config.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if config.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    steps += _charsmap(document)
    backend = _build_unigram(_pieces(document), 1, steps, [pre_tokenizers.WhitespaceSplit()], _metaspace(config))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[
            ("[CLS]", backend.token_to_id(str(tokens["cls_token"]))),
            ("[SEP]", backend.token_to_id(str(tokens["sep_token"]))),
        ],
    )
    return backend


def _build_deberta_v2(document: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> tokenizers.Tokenizer:
    pieces = _pieces(document)
    token = (str(tokens["unk_token"]), 0.0)
    unknown = pieces.index(token) if token in pieces else config.get("unk_id", 1)
    steps: list[Any] = [normalizers.Lowercase()] if config.get("do_lower_case", False) else []
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    splits = [pre_tokenizers.Punctuation(behavior="isolated")] if config.get("split_by_punct", False) else []
    return _build_unigram(pieces, unknown, steps, splits, _metaspace(config, "first"))


def _template(begin: str, end: str, single: str, pair: str, fallback: tuple[int, int] | None = None) -> _Processor:
    """Return what makes a template of the special tokens `begin` and `end`; `fallback`: ids where there is none."""

    def process(backend: tokenizers.Tokenizer, tokens: _Tokens, config: Mapping[str, Any]) -> Any:
        names = str(tokens[begin]), str(tokens[end])
        ids = [token_id(backend, tokens, key) for key in (begin, end)]
        if fallback is not None:
            ids = [number if found is None else found for found, number in zip(ids, fallback, strict=True)]
        return processors.TemplateProcessing(
            single=single.format(*names),
            pair=pair.format(*names),
            special_tokens=list(zip(names, ids, strict=True)),
        )

    return process


def _roberta_processing(backend: tokenizers.Tokenizer, tokens: _Tokens, config: Mapping[str, Any]) -> Any:
    return processors.RobertaProcessing(
        (str(tokens["sep_token"]), token_id(backend, tokens, "sep_token")),
        (str(tokens["cls_token"]), token_id(backend, tokens, "cls_token")),
        config.get("trim_offsets", True),
        config.get("add_prefix_space", False),
    )


def _mpnet_processing(backend: tokenizers.Tokenizer, tokens: _Tokens, config: Mapping[str, Any]) -> Any:
    ids = [token_id(backend, tokens, key) for key in ("sep_token", "cls_token")]
    sep, cls = (number if found is None else found for found, number in zip(ids, (2, 0), strict=True))
    return processors.RobertaProcessing((str(tokens["sep_token"]), sep), (str(tokens["cls_token"]), cls), True, False)


_ONE_SEP = ("{0}:0 $A:0 {1}:0", "{0}:0 $A:0 {1}:0 $B:1 {1}:1")
_TWO_SEPS = ("{0} $A {1}", "{0} $A {1} {1} $B {1}")
_BERT_TEMPLATE = _template("cls_token", "sep_token", *_ONE_SEP, (2, 3))
_BUILDERS: Mapping[str, tuple[_Builder, _Processor | None]] = {
    "AlbertTokenizer": (_build_albert, None),
    "BertTokenizer": (_build_word_piece, _BERT_TEMPLATE),
    "CamembertTokenizer": (_build_camembert, _template("bos_token", "eos_token", *_TWO_SEPS)),
    "DebertaTokenizer": (_build_byte_level, _template("cls_token", "sep_token", *_TWO_SEPS)),
    "DebertaV2Tokenizer": (_build_deberta_v2, _template("cls_token", "sep_token", *_ONE_SEP, (0, 0))),
    "DistilBertTokenizer": (_build_word_piece, _BERT_TEMPLATE),
    "ElectraTokenizer": (_build_word_piece, _BERT_TEMPLATE),
    "MPNetTokenizer": (_build_word_piece, _mpnet_processing),
    "RobertaTokenizer": (_build_byte_level, _roberta_processing),
    "XLMRobertaTokenizer": (_build_xlm_roberta, _template("bos_token", "eos_token", *_TWO_SEPS)),
}
