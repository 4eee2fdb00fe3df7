"""Lets a converted model that reads text answer once."""

from worker.converters.openvino.check.files import MODEL
from worker.converters.openvino.check.running import Folder, first_of

_LOGITS = "logits"


def write(folder: Folder) -> tuple[str, ...]:
    """A text generator rates what might come next."""
    tokens = folder.tokens()
    length = tokens["input_ids"].shape[1]
    model = folder.part(MODEL)
    logits = first_of(model.ask(tokens, length), _LOGITS)
    model.expect(logits, (1, length, None), f"{length} tokens")
    folder.check_detokenizer(tokens["input_ids"])
    return (f"{length} tokens give finite logits {logits.shape}",)


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
