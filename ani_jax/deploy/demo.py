"""A page that shows what leaves a device, what is answered, and what an attacker makes of it; clients run in the browser."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ani_jax.deploy import wire
from ani_jax.records import AttackResult, Evidence, from_json

FOLDER = Path(__file__).parent / "page"
RUNTIME = FOLDER / "node_modules" / "onnxruntime-web" / "dist"
CLIENT, EVIDENCE = "client.onnx", "evidence.json"
"""What is looked for in an exported folder: the client for browsers, and the audit of it with its gallery."""
PAGES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/split.js": "split.js"}
PARTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


@dataclasses.dataclass(frozen=True)
class Side:
    """One client of those that the page shows side by side.

    Attributes:
        folder: of its export.
        card: what is on its card, as plain data.
        spec: of what it sends.
        attacker: whether its attacker can be asked, as ``asked`` says: rows of z in, rows of pixels out.
    """

    folder: Path
    card: dict[str, Any]
    spec: wire.Spec
    attacker: bool = False

    @property
    def asked(self) -> wire.Spec:
        """Of what its attacker is asked: the same, under a name of its own."""
        return dataclasses.replace(self.spec, artefact=f"{self.spec.artefact}-attacker")


def strongest(evidence: Evidence) -> AttackResult | None:
    """The attack whose reconstructions were the best of those that an audit shows, None where it shows none.

    Example:
        >>> strongest(Evidence("none", "digits", 0, "preview", {}, {}, {}, ()))
    """
    shown = (
        evidence.strongest(words, lambda one: one.gallery is not None and one.status == "ok")
        for words in evidence.targets
    )
    # One target alone is what a client was given.
    return next((one for one in shown if one is not None), None)


def gallery(folder: Path) -> dict[str, Any]:
    """The pictures that an audit shows and what its strongest attack made of them, or why there are none.

    Args:
        folder: of an export.

    Returns:
        "originals" and "reconstructions" (shape, base64 of 8-bit pixels), and "note", which says whose; or "missing".
    """
    try:
        evidence = from_json(Evidence, (folder / EVIDENCE).read_text())
    except (OSError, ValueError):
        return {
            "missing": f"This export holds no {EVIDENCE}: what attackers make of its client is in the report of its run."
        }
    result = strongest(evidence)
    if result is None or result.gallery is None or evidence.gallery is None:
        return {"missing": "The audit of this client kept no reconstructions."}
    metric = evidence.words(result.target).metric(evidence.words(result.target).strength)
    value, weak = result.scores[metric.name].value, ", which is no evidence" if evidence.level == "preview" else ""
    attack = result.attack if result.queries == 1 else f"{result.attack} on {result.queries} releases"
    return {
        "originals": dataclasses.asdict(evidence.gallery),
        "reconstructions": dataclasses.asdict(result.gallery),
        "note": f"From the audit's {evidence.level} level{weak}: {attack}, {metric.label} {value:.3g} on all test images.",
    }


def routes(sides: Sequence[Side]) -> list[Route]:
    """The page's own routes, beside those of the service that it asks.

    Args:
        sides: what it shows, in this order.

    Raises:
        ValueError: the browser's runtime is not installed, a folder holds no client for browsers, or sides do not take the same
            images.
    """
    absent = [name for name in PARTS if not (RUNTIME / name).is_file()]
    if absent:
        raise ValueError(f"demo=True: {absent[0]} is missing; npm ci --ignore-scripts --prefix {FOLDER}")
    shapes = {tuple(side.card["image_shape"]) for side in sides}
    if len(shapes) > 1:
        raise ValueError(
            f"demo=True: images of shapes {', '.join(map(str, sorted(shapes)))}; must be the same for all artefacts"
        )
    for side in sides:
        if not (side.folder / CLIENT).is_file():
            raise ValueError(f"demo=True: {side.folder} holds no {CLIENT}; export it with ani-jax[onnx] installed")
    files = {path: FOLDER / name for path, name in PAGES.items()}
    files |= {f"/runtime/{name}": RUNTIME / name for name in PARTS}
    files |= {f"/client/{side.spec.artefact}.onnx": side.folder / CLIENT for side in sides}
    document = {"sides": [told(side) for side in sides]}

    def page(path: Path) -> Any:
        async def answer(request: Request) -> Response:
            return FileResponse(path, headers=HEADERS, media_type=TYPES.get(path.suffix, "application/octet-stream"))

        return answer

    async def about(request: Request) -> Response:
        return JSONResponse(document, headers=HEADERS)

    return [Route("/page.json", about), *(Route(path, page(file)) for path, file in files.items())]


def told(side: Side) -> dict[str, Any]:
    """What the page's script has to know of one client."""
    card = side.card
    names = ("defence", "classes", "image_shape", "feature_shape", "low", "high", "levels", "bits", "noise", "accuracy")
    return {
        **{name: card[name] for name in names},
        "artefact": side.spec.artefact,
        "shape": side.spec.shape,
        "dtype": side.spec.dtype,
        "bytes": side.spec.bytes,
        "attacker": side.asked.artefact if side.attacker else None,
        "attack": card["attacker"],
        "gallery": gallery(side.folder),
    }
