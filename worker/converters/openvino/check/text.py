"""Lets a converted model that reads text answer once."""

from worker.converters.openvino.check.files import MODEL
from worker.converters.openvino.check.running import Folder, first_of, integer, noise

_LOGITS = "logits"
_INSIDE = "hidden_states"
_THREE_LAYERS = 3


def write(folder: Folder) -> tuple[str, ...]:
    """A text generator rates what might come next."""
    tokens = folder.tokens()
    length = tokens["input_ids"].shape[1]
    model = folder.part(MODEL)
    if _INSIDE in model.inputs:
        tokens[_INSIDE] = noise((1, length, _THREE_LAYERS * _width_inside(folder)))
    logits = first_of(model.ask(tokens, length), _LOGITS)
    model.expect(logits, (1, length, None), f"{length} tokens")
    folder.check_detokenizer(tokens["input_ids"])
    return (f"{length} tokens give finite logits {logits.shape}",)


def _width_inside(folder: Folder) -> int:
    """How wide the layers of the model are that a draft of EAGLE-3 looks into."""
    config = folder.settings("config.json")
    return integer(config, "target_hidden_size", integer(config, "hidden_size", 1))


def embed(folder: Folder) -> tuple[str, ...]:
    """An encoder turns tokens into vectors, or all of them into one."""
    tokens = folder.tokens()
    length = tokens["input_ids"].shape[1]
    model = folder.part(MODEL)
    answers = model.ask(tokens, length)
    vectors = first_of(answers, "last_hidden_state", "token_embeddings")
    model.expect(vectors, (1, length, None), f"{length} tokens")
    if "sentence_embedding" in answers:
        model.expect(answers["sentence_embedding"], (1, vectors.shape[2]), f"{length} tokens")
    return (f"{length} tokens give finite vectors {vectors.shape}",)


def score(folder: Folder) -> tuple[str, ...]:
    """A cross-encoder gives a text its score."""
    tokens = folder.tokens()
    length = tokens["input_ids"].shape[1]
    model = folder.part(MODEL)
    scores = first_of(model.ask(tokens, length), _LOGITS)
    model.expect(scores, (1, None), f"{length} tokens")
    return (f"{length} tokens give finite scores {scores.shape}",)
