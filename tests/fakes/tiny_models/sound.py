"""Tiny models that hear or speak."""

from __future__ import annotations

import io
from pathlib import Path

from tests.fakes.tiny_models.parts import SENTENCES, bytes_tokenizer, save_model, with_card, write_json

VOCODER = "vocoder"
"""The folder of a text2speech repository that holds its vocoder."""

_MELS = 80
_TIMESTAMPS = 1501
_LANGUAGES = ("<|en|>", "<|de|>")
_WHISPER_SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *_LANGUAGES,
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
    *(f"<|{number * 0.02:.2f}|>" for number in range(_TIMESTAMPS)),
)


def tiny_whisper(path: Path, *, seed: int = 0) -> Path:
    """A listener: Whisper with two languages and time stamps."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

    tokens = bytes_tokenizer(*_WHISPER_SPECIAL)
    number = tokens.token_to_id
    end = number("<|endoftext|>")
    marks = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": number("<|startoftranscript|>"),
        "begin_suppress_tokens": [number("Ġ"), end],
        "suppress_tokens": [number("<|startoflm|>"), number("<|startofprev|>"), number("<|nospeech|>")],
    }
    config = WhisperConfig(
        vocab_size=tokens.get_vocab_size(),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_mel_bins=_MELS,
        max_source_positions=1500,
        max_target_positions=448,
        **marks,
    )
    generation = GenerationConfig(
        **marks,
        is_multilingual=True,
        lang_to_id={language: number(language) for language in _LANGUAGES},
        task_to_id={"transcribe": number("<|transcribe|>"), "translate": number("<|translate|>")},
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        max_initial_timestamp_index=50,
        max_length=448,
        return_timestamps=False,
    )

    def make() -> WhisperForConditionalGeneration:
        model = WhisperForConditionalGeneration(config)
        model.generation_config = generation
        return model

    save_model(path, seed, make)
    tokenizer = WhisperTokenizer(
        vocab=tokens.get_vocab(),
        merges=[],
        additional_special_tokens=list(_WHISPER_SPECIAL[1:10]),
        model_max_length=448,
    )
    tokenizer.save_pretrained(path)
    write_json(
        path / "preprocessor_config.json",
        {
            "chunk_length": 30,
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": _MELS,
            "hop_length": 160,
            "n_fft": 400,
            "n_samples": 480000,
            "nb_max_frames": 3000,
            "padding_side": "right",
            "padding_value": 0.0,
            "processor_class": "WhisperProcessor",
            "return_attention_mask": False,
            "sampling_rate": 16000,
        },
    )
    return with_card(path, "automatic-speech-recognition")


def tiny_speecht5(path: Path, *, seed: int = 0) -> Path:
    """A speaker: SpeechT5 with a tokenizer of characters, and its vocoder in the folder `vocoder`."""
    from transformers import SpeechT5Config, SpeechT5ForTextToSpeech

    path.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_characters(path / "spm_char.model")
    config = SpeechT5Config(
        vocab_size=vocabulary,
        hidden_size=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=_MELS,
        reduction_factor=2,
        speaker_embedding_dim=512,
        speech_decoder_prenet_units=32,
        speech_decoder_postnet_layers=2,
        speech_decoder_postnet_units=32,
        max_text_positions=600,
        max_speech_positions=1876,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    save_model(path, seed, lambda: SpeechT5ForTextToSpeech(config))
    write_json(
        path / "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": 600,
            "normalize": False,
            "pad_token": "<pad>",
            "processor_class": "SpeechT5Processor",
            "sp_model_kwargs": {},
            "tokenizer_class": "SpeechT5Tokenizer",
            "unk_token": "<unk>",
        },
    )
    write_json(
        path / "preprocessor_config.json",
        {
            "do_normalize": False,
            "feature_extractor_type": "SpeechT5FeatureExtractor",
            "feature_size": 1,
            "fmax": 7600,
            "fmin": 80,
            "frame_signal_scale": 1.0,
            "hop_length": 16,
            "mel_floor": 1e-10,
            "num_mel_bins": _MELS,
            "padding_side": "right",
            "padding_value": 0.0,
            "processor_class": "SpeechT5Processor",
            "reduction_factor": 2,
            "return_attention_mask": True,
            "sampling_rate": 16000,
            "win_function": "hann_window",
            "win_length": 64,
        },
    )
    tiny_hifigan(path / VOCODER, seed=seed)
    return with_card(path, "text-to-speech")


def tiny_hifigan(path: Path, *, seed: int = 0) -> Path:
    """A vocoder: HiFi-GAN, which makes sound of spectrograms."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=_MELS,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
    )
    save_model(path, seed, lambda: SpeechT5HifiGan(config))
    return with_card(path, "text-to-speech")


def _write_characters(file: Path) -> int:
    """A sentencepiece model with one piece for each character; tells how many there are."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="char",
        vocab_size=60,
        hard_vocab_limit=False,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    file.write_bytes(model.getvalue())
    return int(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size())
