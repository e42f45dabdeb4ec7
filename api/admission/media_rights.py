"""How many images, clips and videos a model takes, from where, and their tokens, by what its workers registered.

A model that takes none of a kind is :mod:`api.admission.abilities`' matter.
"""

from __future__ import annotations

from api.admission.media import Brought
from api.http.errors import invalid
from broker.acceptance import BYTES_PER_TOKEN
from broker.models import Model

IMAGE_TOKENS = 1024
"""Tokens of an image, for the estimate of a request: a usual one. Models take from 64 to some thousands."""

_INSTEAD = "send the media as a data: URL (base64)"


def check_taken(model: Model, brought: Brought) -> None:
    """Refuse what the model's pool does not take.

    Raises:
        ApiError: 400 ``too_many_images``: the model takes fewer. 400 ``invalid_image_url``: its workers fetch nothing from
            the host.
    """
    able = model.capabilities
    limits = {"image": able.images, "audio": able.audios, "video": able.videos}
    for kind, count in brought.counts.items():
        most, param = limits[kind], brought.first[kind]
        if most is not None and count > most:
            message = f"{param}: the model {model.name!r} takes at most {most} of this kind in a request, not {count}"
            raise invalid(message, param, "too_many_images")
    allowed = able.media_domains
    for param, host in brought.hosts:
        if allowed is not None and "*" not in allowed and host not in allowed:
            why = "it is not in --allowed-media-domains" if allowed else "no --allowed-media-domains are set"
            message = f"{param}: this server fetches no media from {host[:128]}: {why}; {_INSTEAD}"
            raise invalid(message, param, "invalid_image_url")


def tokens_of(model: Model, brought: Brought) -> int | None:
    """Return the most tokens that the images of a request take; None: unknown, or it brings other media."""
    images = brought.counts.get("image", 0)
    if len(brought.counts) > bool(images) or (images and model.capabilities.image_tokens is None):
        return None
    return images * (model.capabilities.image_tokens or 0)


def usual_tokens(model: Model, brought: Brought, size: int) -> int | None:
    """Estimate the prompt's tokens of a request that brings media. Its base64 is no text.

    Args:
        size: the body's bytes.

    Returns:
        None: it brings none.
    """
    if not brought.counts:
        return None
    each = min(model.capabilities.image_tokens or IMAGE_TOKENS, IMAGE_TOKENS)
    return (size - brought.characters) // BYTES_PER_TOKEN + sum(brought.counts.values()) * each
