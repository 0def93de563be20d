"""Asks a served provider: the device's half runs here, and what is sent is z alone.

    python -m experiments.query --artefact=DIR --url=http://127.0.0.1:8000 --image=PHOTO.png
    python -m experiments.query --artefact=DIR --url=http://127.0.0.1:8000 --queries=2000 --clients=16

The second asks about images of the artefact's own data set, several at a time, and says how many were answered rightly and how
fast. A try that fails is repeated with the very same bytes; noise is drawn once for each query.
"""

import concurrent.futures
import math
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ani_jax.data import catalog
from ani_jax.deploy import artefact, wire
from experiments import flags


def main(_: list[str]) -> None:
    """Asks what the flags name."""
    values = flags.FLAGS
    for name in ("artefact", "url"):
        if getattr(values, name) is None:
            raise ValueError(
                f"{name}=: name {'an exported folder' if name == 'artefact' else 'the address of a service'}"
            )
    for name in ("queries", "clients", "tries"):
        if getattr(values, name) < 1:
            raise ValueError(f"{name}={getattr(values, name)}: must be 1 or more")
    try:
        from ani_jax.deploy import query
    except ImportError as error:
        raise ValueError(f"artefact={values.artefact}: {error.name} is missing; pip install 'ani-jax[serve]'") from None
    flags.cache()
    found = artefact.load(values.artefact, **flags.given(["secret"]))
    card, token = found.card, None if values.token_file is None else flags.token(values.token_file)
    provider = query.Provider(
        values.url, wire.Spec.of(card), token=token, ca_file=values.ca_file, timeout=values.timeout, tries=values.tries
    )
    if values.image:
        images, labels = np.stack([picture(path, card.image_shape) for path in values.image]), None
    else:
        task = {"primary": values.primary, "data_dir": values.data_dir, "manual_dir": values.manual_dir}
        test = catalog.load(values.dataset or card.dataset, 0, card.image_shape[0], **task).test
        at = np.arange(values.queries) % len(test.image)
        images, labels = np.asarray(test.image)[at], np.asarray(test.label)[at]
    if images.shape[1:] != tuple(card.image_shape):
        raise ValueError(
            f"dataset={values.dataset}: images of {images.shape[1:]}; the artefact takes {card.image_shape}"
        )

    def ask(image: np.ndarray) -> tuple[np.ndarray, float, float]:
        begun = time.perf_counter()
        z = found.send(image[None])
        sent = time.perf_counter()
        return provider(z)[0], sent - begun, time.perf_counter() - sent

    # What compiles is no query's time; nothing of this is sent.
    found.send(images[:1])
    begun, pool = time.perf_counter(), concurrent.futures.ThreadPoolExecutor(values.clients)
    try:
        answers, device, wire_ = zip(*pool.map(ask, images))
    except (query.Unanswered, wire.Refused) as error:
        flags.fail(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    seconds, logits = time.perf_counter() - begun, np.stack(answers)
    if labels is None:
        for path, row in zip(values.image, logits):
            shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            print(f"{path}: {card.classes[row.argmax()]} ({shares.max():.1%})")
    else:
        print(f"accuracy {np.mean(logits.argmax(1) == labels):.1%} over {len(labels):,} queries, none failed")
        print(f"{len(labels) / seconds:,.0f} queries/s from {values.clients} at a time")
    print(f"device p50/p95 {told(device)} ms, provider p50/p95 {told(wire_)} ms")
    print(f"{provider.spec.bytes:,} bytes of z a query, of {math.prod(card.image_shape):,} of the raw image")


def picture(path: str, shape: Sequence[int]) -> np.ndarray:
    """A picture file as an image of that shape."""
    height, width, channels = shape
    try:
        with Image.open(path) as file:
            found = file.convert("RGB" if channels == 3 else "L").resize((width, height))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Whatever the formats' readers raise.
        raise ValueError(f"image={path}: is no picture ({getattr(error, 'strerror', None) or error})") from None
    return np.asarray(found, np.float32).reshape(height, width, channels) / 255


def told(seconds: Sequence[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    return "/".join(f"{1000 * value:.1f}" for value in np.percentile(seconds, (50, 95)))


if __name__ == "__main__":
    flags.define(
        "dataset",
        "primary",
        "data_dir",
        "manual_dir",
        "cache_dir",
        artefact=(str, None, "The exported folder."),
        url=(str, None, "Where its provider's half is served."),
        image=(list, None, "Picture files to ask about, separated by commas."),
        queries=(int, 100, "How many images of the data set to ask about instead."),
        clients=(int, 1, "How many at a time."),
        tries=(int, 5, "Of every query, with the same bytes."),
        timeout=(float, 10.0, "Seconds for each of them."),
        token_file=(str, None, "File of the token that the service asks for."),
        ca_file=(str, None, "Certificates to trust instead of the system's."),
        secret=(str, None, "File of this device's secret, where noise is memoised (made where there is none)."),
    )
    flags.run(main)
