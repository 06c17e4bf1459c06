"""Random models of a few thousand weights, saved as transformers saves real ones."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

SIDE = 32  # pixels of a picture
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "cat",
    "dog",
    "boat",
    "runs",
    "jumps",
    "sails",
    "left",
    "right",
    "over",
    "sea",
]
SIZES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
VISION = SIZES | {"image_size": SIDE, "patch_size": 16}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
# Pictures in front of the words of a question.
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def blip(folder: Path) -> Path:
    """A model that describes one picture."""
    words = _tokenizer()
    text = SIZES | SPECIAL | {"encoder_hidden_size": 16, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config=text | {"vocab_size": len(words), "max_position_embeddings": 64},
        vision_config=VISION,
        projection_dim=8,
    )
    _save(transformers.BlipForConditionalGeneration, config, folder)
    images = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.BlipProcessor(images, words).save_pretrained(folder)
    return folder


def encoder_decoder(folder: Path) -> Path:
    """A model whose preprocessor and tokenizer are saved apart, as that of ViT-GPT2."""
    words = _tokenizer()
    decoder = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=len(words), **SPECIAL,
        is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VISION), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    _save(transformers.VisionEncoderDecoderModel, config, folder)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """A model that answers a question about several pictures."""
    words = _tokenizer("<image>")
    text = SIZES | SPECIAL | {"model_type": "llama", "num_key_value_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=VISION | {"model_type": "clip_vision_model"},
        text_config=text | {"vocab_size": len(words), "max_position_embeddings": 256},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    _save(transformers.LlavaForConditionalGeneration, config, folder)
    square = {"height": SIDE, "width": SIDE}
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square),
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    """A model that writes nothing."""
    config = transformers.BertConfig(**SIZES, vocab_size=20)
    _save(transformers.BertModel, config, folder)
    return folder


def _tokenizer(*special: str) -> transformers.PreTrainedTokenizerFast:
    names = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", *special, *WORDS]
    table = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        additional_special_tokens=list(special),
    )


def _save(kind: type, config: transformers.PretrainedConfig, folder: Path) -> None:
    """Save a model whose weights are large enough for pictures to matter."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = kind(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.5)
    network.save_pretrained(folder)
