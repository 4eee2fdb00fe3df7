"""Tiny models that see or paint pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.fakes.tiny_models.parts import (
    byte_level_tokenizer,
    bytes_tokenizer,
    save_generating_tokenizer,
    save_model,
    seeded,
    with_card,
    write_json,
)

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_HALF = [0.5, 0.5, 0.5]
_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_STD = [0.229, 0.224, 0.225]
_LABELS = {number: f"thing {number}" for number in range(10)}
# Clients send a message as plain text or as a list of parts; real templates take both.
_CHAT_WITH_PICTURES = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_llava(path: Path, *, seed: int = 0) -> Path:
    """A model that sees and writes: LLaVA of a Llama and a CLIP vision tower, pictures of 56 by 56, in bfloat16."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = byte_level_tokenizer("<image>")
    patch, side = 14, 56
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.token_to_id("<s>"),
            eos_token_id=tokenizer.token_to_id("</s>"),
            pad_token_id=tokenizer.token_to_id("<pad>"),
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=side,
            patch_size=patch,
            projection_dim=32,
        ),
        image_token_index=tokenizer.token_to_id("<image>"),
        image_seq_length=(side // patch) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    save_model(path, seed, lambda: LlavaForConditionalGeneration(config), "bfloat16")
    template = _CHAT_WITH_PICTURES.replace("IMAGE", "<image>")
    save_generating_tokenizer(path, tokenizer, chat_template=template, extra_special_tokens={"image_token": "<image>"})
    write_json(
        path / "preprocessor_config.json",
        _crops("CLIPImageProcessor", side, _CLIP_MEAN, _CLIP_STD) | {"processor_class": "LlavaProcessor"},
    )
    write_json(
        path / "processor_config.json",
        {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": patch,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "default",
        },
    )
    return with_card(path, "image-text-to-text")


def tiny_qwen2_vl(path: Path, *, seed: int = 0) -> Path:
    """A model that sees and writes: Qwen2-VL in bfloat16. Runs in transformers 4.57 and in 5."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    marks = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = byte_level_tokenizer(*marks)
    number = tokenizer.token_to_id
    ends = {
        "bos_token_id": number("<s>"),
        "eos_token_id": number("</s>"),
        "pad_token_id": number("<pad>"),
    }
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            # Pairs of a head's 16 dimensions, for time, height and width: together 8.
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]},
            **ends,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        vision_token_id=number("<|vision_pad|>"),
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        tie_word_embeddings=False,
        **ends,
    )
    save_model(path, seed, lambda: Qwen2VLForConditionalGeneration(config), "bfloat16")
    template = _CHAT_WITH_PICTURES.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    save_generating_tokenizer(path, tokenizer, chat_template=template)
    write_json(
        path / "preprocessor_config.json",
        {
            "image_mean": _CLIP_MEAN,
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_std": _CLIP_STD,
            "max_pixels": 28 * 28 * 16,
            "merge_size": 2,
            "min_pixels": 28 * 28 * 4,
            "patch_size": 14,
            "processor_class": "Qwen2VLProcessor",
            "temporal_patch_size": 2,
        },
    )
    return with_card(path, "image-text-to-text")


def tiny_vit(path: Path, *, seed: int = 0) -> Path:
    """A classifier of pictures: ViT, 64 by 64, ten labels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        id2label=_LABELS,
        label2id={label: number for number, label in _LABELS.items()},
    )
    save_model(path, seed, lambda: ViTForImageClassification(config))
    write_json(path / "preprocessor_config.json", _whole("ViTImageProcessor", 64, _HALF, _HALF))
    return with_card(path, "image-classification")


def tiny_resnet(path: Path, *, seed: int = 0) -> Path:
    """A classifier of pictures that is made of convolutions: ResNet, ten labels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        id2label=_LABELS,
        label2id={label: number for number, label in _LABELS.items()},
    )
    save_model(path, seed, lambda: ResNetForImageClassification(config))
    settings = {
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": _IMAGENET_MEAN,
        "image_processor_type": "ConvNextImageProcessor",
        "image_std": _IMAGENET_STD,
        "resample": 3,
        "size": {"shortest_edge": 64},
    }
    write_json(path / "preprocessor_config.json", settings)
    return with_card(path, "image-classification")


def tiny_yolos(path: Path, *, seed: int = 0) -> Path:
    """A detector of things in pictures: YOLOS, 64 by 96, ten labels, ten boxes."""
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=10,
        id2label=_LABELS,
        label2id={label: number for number, label in _LABELS.items()},
    )
    save_model(path, seed, lambda: YolosForObjectDetection(config))
    write_json(path / "preprocessor_config.json", _fitted("YolosImageProcessor", 64, 96))
    return with_card(path, "object-detection")


def tiny_detr(path: Path, *, seed: int = 0) -> Path:
    """A detector of things in pictures: DETR over a ResNet, ten labels, ten boxes."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=10,
        id2label=_LABELS,
        label2id={label: number for number, label in _LABELS.items()},
    )
    save_model(path, seed, lambda: DetrForObjectDetection(config))
    write_json(path / "preprocessor_config.json", _fitted("DetrImageProcessor", 64, 96))
    return with_card(path, "object-detection")


def tiny_stable_diffusion(path: Path, *, seed: int = 0) -> Path:
    """A painter: Stable Diffusion, 64 by 64 from latents of 32 by 32, in folders as diffusers keeps it."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokens = bytes_tokenizer("<|startoftext|>", "<|endoftext|>", suffix="</w>")
    start, end = tokens.token_to_id("<|startoftext|>"), tokens.token_to_id("<|endoftext|>")
    tokenizer = CLIPTokenizer(vocab=tokens.get_vocab(), merges=[], model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=tokens.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    pipeline = StableDiffusionPipeline(
        text_encoder=seeded(seed, lambda: CLIPTextModel(text)),
        tokenizer=tokenizer,
        unet=seeded(
            seed,
            lambda: UNet2DConditionModel(
                sample_size=32,
                block_out_channels=(32, 64),
                layers_per_block=1,
                cross_attention_dim=32,
                attention_head_dim=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            ),
        ),
        vae=seeded(
            seed,
            lambda: AutoencoderKL(
                block_out_channels=(32, 64),
                down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
                up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
                latent_channels=4,
                sample_size=64,
            ),
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path)
    return with_card(path, "text-to-image", library="diffusers")


def _whole(kind: str, side: int, mean: list[float], std: list[float]) -> Mapping[str, object]:
    """Pictures that are pressed into a square."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": mean,
        "image_processor_type": kind,
        "image_std": std,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }


def _crops(kind: str, side: int, mean: list[float], std: list[float]) -> Mapping[str, object]:
    """Pictures of which the middle is taken."""
    return {
        **_whole(kind, side, mean, std),
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "resample": 3,
        "size": {"shortest_edge": side},
    }


def _fitted(kind: str, shortest: int, longest: int) -> Mapping[str, object]:
    """Pictures that keep their proportions."""
    return {
        **_whole(kind, shortest, _IMAGENET_MEAN, _IMAGENET_STD),
        "do_pad": True,
        "format": "coco_detection",
        "size": {"shortest_edge": shortest, "longest_edge": longest},
    }
