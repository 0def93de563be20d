"""The service in OpenAPI's words, from what may be sent to it."""

import math
from collections.abc import Sequence
from typing import Any

from ani_jax.deploy import wire

ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
REFUSALS = {
    400: "The body is no message, or its dtype, shape, range or length is not the declared one.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not come in time.",
    409: "The message belongs to an artefact that is not served here.",
    413: "The body is too long.",
    415: "The content type is another.",
    429: "Too many requests from this address; Retry-After says how many seconds to wait.",
    500: "The provider's network failed.",
    503: "Too many rows wait for their batch; try again with the same message.",
    504: "No answer in time; try again with the same message.",
}


def describe(specs: Sequence[wire.Spec], token: bool = False) -> dict[str, Any]:
    """The description of a service.

    Args:
        specs: of what is served.
        token: whether requests need a bearer token.

    Returns:
        A document of OpenAPI 3.1, as plain data.

    Example:
        >>> found = describe([wire.Spec("a", (2,), "int8", -1, 1)])
        >>> found["paths"]["/v1/infer"]["post"]["requestBody"]["content"]["application/msgpack"]["schema"]["title"]
        'z of a'
    """
    schemas = [message(spec) for spec in specs]
    request = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    refusals = {str(status): answer(text, ERROR) for status, text in REFUSALS.items() if token or status != 401}
    logits = {**message(wire.Spec("", (1,), "float32")), "title": "logits"}
    logits["properties"] = {
        **logits["properties"],
        "artefact": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
    }
    largest = max(spec.largest for spec in specs)
    infer = {
        "operationId": "infer",
        "summary": "The provider's answer to what a device sends.",
        "description": f"A msgpack map of at most {largest} bytes; equal messages get equal answers, so they may be sent again.",
        "requestBody": {"required": True, "content": {wire.MEDIA: {"schema": request}}},
        "responses": {"200": answer("Logits, a row for each of z.", logits, wire.MEDIA), **refusals},
    }
    watched = {name: refusals[name] for name in ("401", "429") if name in refusals}
    plain = {"type": "object"}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "ani_jax", "version": "1", "description": wire.__doc__},
        "paths": {
            wire.PATH: {"post": infer},
            "/healthz": look("health", "Whether it works.", plain, {"503": refusals["503"]}),
            "/metrics": look("metrics", "Counters for Prometheus.", {"type": "string"}, watched, "text/plain"),
            "/openapi.json": look("description", "This document.", plain, watched),
        },
    }
    if token:
        described["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        described["security"] = [{"token": []}]
        described["paths"]["/healthz"]["get"]["security"] = []
    return described


def message(spec: wire.Spec) -> dict[str, Any]:
    """The schema of the messages of one spec."""
    ends = (spec.low, spec.high)
    told = f", from {spec.low:g} to {spec.high:g}" if all(map(math.isfinite, ends)) else ", all finite"
    sizes = [{"type": "integer", "minimum": 1, "maximum": spec.rows}, *({"const": n} for n in spec.shape)]
    return {
        "title": f"z of {spec.artefact}",
        "type": "object",
        "properties": {
            "artefact": {"const": spec.artefact},
            "dtype": {"const": spec.dtype},
            "shape": {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
            "data": {
                "type": "string",
                "format": "binary",
                "description": f"{spec.bytes} bytes a row of {spec.dtype}, little-endian{told}; the last index is the fastest.",
            },
        },
        "required": list(wire.FIELDS),
        "additionalProperties": False,
    }


def answer(text: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    """One response of an operation."""
    return {"description": text, "content": {media: {"schema": schema}}}


def look(name: str, text: str, schema: dict[str, Any], others: dict[str, Any], media: str = "application/json") -> Any:
    """A path that is only read."""
    return {"get": {"operationId": name, "summary": text, "responses": {"200": answer(text, schema, media), **others}}}
