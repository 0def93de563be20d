"""Serves the provider's half of exported runs: z in, logits out.

    python -m experiments.serve --artefact=DIR --port=8000
    python -m experiments.serve --artefact=DIR --token_file=FILE --tls_cert=FILE --tls_key=FILE --host=0.0.0.0
    python -m experiments.serve --artefact=DIR,UNDEFENDED --demo

/openapi.json describes what may be sent, /metrics counts, /healthz says whether it works. With --demo a page at / shows what
leaves the device, and what becomes of it, for every artefact side by side. SIGTERM ends it once what was begun is answered.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from ani_jax.deploy import artefact, wire
from experiments import flags


def main(_: list[str]) -> None:
    """Serves what the flags name."""
    values = flags.FLAGS
    if not values.artefact:
        raise ValueError("artefact=: name an exported folder")
    try:
        from ani_jax.deploy import service
    except ImportError as error:
        raise ValueError(
            f"artefact={values.artefact[0]}: {error.name} is missing; pip install 'ani-jax[serve]'"
        ) from None
    if not 1 <= values.rows <= 1024:
        raise ValueError(f"rows={values.rows}: must be from 1 to 1024")
    limits = service.Limits(**flags.given([field.name for field in dataclasses.fields(service.Limits)]))
    token = None if values.token_file is None else flags.token(values.token_file)
    flags.cache()
    found = [artefact.load(folder) for folder in values.artefact]
    models = [service.Model(wire.Spec.of(one.card, values.rows), functools.partial(logits, one)) for one in found]
    sides, pages = [], []
    if values.demo:
        from ani_jax.deploy import demo

        if token is not None:
            raise ValueError(f"token_file={values.token_file}: does not go with --demo, whose page anybody may see")
        for folder, one, model in zip(values.artefact, found, tuple(models)):
            side = demo.Side(Path(folder), dataclasses.asdict(one.card), model.spec, "attacker" in one.programs)
            sides.append(side)
            if side.attacker:
                models.append(service.Model(side.asked, functools.partial(pixels, one)))
        pages = demo.routes(sides)
    app = service.application(models, limits, token, pages)
    server, listener = service.listening(
        app, values.host, values.port, tls_cert=values.tls_cert, tls_key=values.tls_key
    )
    host, port = listener.getsockname()[:2]
    print(
        f"serving {', '.join(map(str, values.artefact))} at http{'s' * bool(values.tls_cert)}://{host}:{port}",
        flush=True,
    )
    server.run([listener])


def logits(one: artefact.Artefact, z: np.ndarray) -> np.ndarray:
    """What the provider answers."""
    return np.asarray(one.server(z))


def pixels(one: artefact.Artefact, z: np.ndarray) -> np.ndarray:
    """What an exported attacker makes of z, who sees what the provider sees: a row of pixels for each."""
    return np.asarray(one.attacker(z)).reshape(len(z), -1)


if __name__ == "__main__":
    flags.define(
        "cache_dir",
        artefact=(list, None, "Exported folders, separated by commas."),
        host=(str, "127.0.0.1", "Address to listen on."),
        port=(int, 8000, "Port to listen on; 0 for any."),
        rows=(int, 64, "Images of a message, and of a batch, at most."),
        wait=(float, None, "Seconds that a batch waits for more (default 0.005)."),
        timeout=(float, None, "Seconds for a body, and again for an answer (default 10)."),
        rate=(float, None, "Requests a second from one address, 0 for any number (default 1000)."),
        waiting=(int, None, "Rows that may wait for a batch (default 1024)."),
        token_file=(str, None, "File of the token that requests must bear."),
        tls_cert=(str, None, "Certificates, for https."),
        tls_key=(str, None, "Their private key."),
        demo=(bool, False, "Whether to serve the page that shows it."),
    )
    flags.run(main)
