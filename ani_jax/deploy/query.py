"""A device's side of the wire: a provider as a function of z, with retries that send the very same bytes again."""

import contextlib
import math
import random
import ssl
import time
from collections.abc import Callable

import httpx
import numpy as np

from ani_jax.deploy import wire

AGAIN = {408, 429, 502, 503, 504}
"""What is worth another try: too fast, too busy, not there for a moment."""
PATIENCE = 30.0
"""Seconds that a provider may ask a device to wait between two tries."""


class Unanswered(RuntimeError):
    """A provider did not answer; one line says why, and after how many tries."""


class Provider:
    """Somebody's service as ``provider(z) -> logits``.

    It is given z and nothing else, so no try can draw noise again: whoever sees two tries has seen the same bytes twice. Calls
    from several threads share its connections.

    Args:
        url: of the service, like "https://example.org:8443".
        spec: what z has to be; z that is not is never sent.
        token: that the service asks for, if it does.
        ca_file: file of the certificates to trust instead of the system's.
        timeout: seconds for each try.
        tries: in all; between them twice as long a pause as the time before, 0.1 s at first, each shortened by chance, or as long
            as the service asks for.
        sleep: what waits.

    Raises:
        ValueError: the address is none, the file holds no certificates.

    Example:
        >>> provider = Provider("http://127.0.0.1:9", wire.Spec("a", (2,), "float32"), tries=2, sleep=lambda seconds: None)
        >>> provider(np.zeros((1, 2), np.float32))
        Traceback (most recent call last):
        ani_jax.deploy.query.Unanswered: http://127.0.0.1:9: no answer in 2 tries (...)
    """

    def __init__(
        self,
        url: str,
        spec: wire.Spec,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        timeout: float = 10.0,
        tries: int = 5,
        sleep: Callable[[float], object] = time.sleep,
    ):
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"url={url}: is no address ({error})") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"url={url}: must begin with http:// or https:// and a host")
        try:
            trusted = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"ca_file={ca_file}: holds no certificates ({error.strerror or error})") from None
        self.url, self.spec, self.tries, self.sleep = url.rstrip("/"), spec, tries, sleep
        headers = {"content-type": wire.MEDIA, **({"authorization": f"Bearer {token}"} if token else {})}
        pool = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=4.0)
        self.http = httpx.Client(headers=headers, timeout=timeout, limits=pool, verify=trusted)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The logits of z, ``spec.rows`` rows in a message at most.

        Args:
            z: (b, ...), as the spec says.

        Returns:
            (b, classes) of float32.

        Raises:
            Refused: z is not what the spec says; nothing was sent.
            Unanswered: the provider did not answer, or with something else than logits.
        """
        parts = [z[begin : begin + self.spec.rows] for begin in range(0, max(len(z), 1), self.spec.rows)]
        for part in parts:
            self.spec.check(part)
        return np.concatenate([self.answer(part) for part in parts])

    def answer(self, z: np.ndarray) -> np.ndarray:
        """The logits of one message, which is made once and sent until it is answered."""
        message, reason = wire.encode(self.spec.artefact, z), ""
        for at in range(self.tries):
            pause = 0.1 * 2**at * random.uniform(0.5, 1)
            try:
                status, body, asked = self.post(message)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
            else:
                if status == 200:
                    return self.logits(body, len(z))
                # Whatever it is, it is somebody else's text: a line of it is enough.
                reason = f"{status}: {' '.join(body.decode(errors='replace').split())[:200]}"
                if status not in AGAIN:
                    raise Unanswered(f"{self.url}: refused ({reason})")
                pause = max(pause, asked)
            if at + 1 < self.tries:
                self.sleep(min(pause, PATIENCE))
        raise Unanswered(f"{self.url}: no answer in {self.tries} tries ({reason})")

    def post(self, message: bytes) -> tuple[int, bytes, float]:
        """One try: status, body, and the seconds that the provider asks to wait."""
        most = self.spec.largest + self.spec.rows * 2**18
        with self.http.stream("POST", self.url + wire.PATH, content=message) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > most:
                    raise httpx.DecodingError(f"the answer has more than {most} bytes")
            asked = 0.0
            with contextlib.suppress(ValueError):
                asked = float(response.headers.get("retry-after", 0))
            return response.status_code, bytes(body), asked if math.isfinite(asked) else 0.0

    def logits(self, body: bytes, rows: int) -> np.ndarray:
        """What a provider answered, once it is logits of these rows."""
        try:
            name, logits = wire.decode(body)
        except wire.Refused as error:
            raise Unanswered(f"{self.url}: did not answer with logits ({error})") from None
        if name != self.spec.artefact or logits.dtype != np.float32 or logits.ndim != 2 or len(logits) != rows:
            raise Unanswered(
                f"{self.url}: did not answer with {rows} rows of logits, but {logits.dtype} of {logits.shape}"
            )
        if not np.isfinite(logits).all():
            raise Unanswered(f"{self.url}: answered with logits that are not finite")
        return logits

    def close(self) -> None:
        """Closes its connections."""
        self.http.close()
