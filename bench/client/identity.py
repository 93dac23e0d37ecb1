"""What a server says it is: by its own version pages, its list of models, its headers and the names of its metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from bench.client.pages import Page
from bench.client.verdict import plain

_OWNERS = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llamacpp": "llama.cpp",
    "library": "Ollama",
    "me": "llama-cpp-python",
    "lmdeploy": "LMDeploy",
    "nvidia": "NVIDIA NIM",
}
# Where a server gives its version; asked of one that has said what it is, or of all of them in turn.
_VERSIONS = (
    ("llama.cpp", "/props", "build_info"),
    ("SGLang", "/server_info", "version"),
    ("Ollama", "/api/version", "version"),
    ("TGI", "/info", "version"),
    ("vLLM", "/version", "version"),
)
_METRICS = {"vllm:": "vLLM", "sglang:": "SGLang", "llamacpp:": "llama.cpp", "tgi_": "TGI", "trtllm_": "TensorRT-LLM"}


def identify(
    page: Callable[[str], Page | None],
    headers: Mapping[str, str],
    about: Mapping[str, Any],
    metrics: Page | None,
    host: str,
) -> str | None:
    """The server's name, with its version where it says one; None for a server that says nothing.

    `page` gets a path (None unless it answers 200), `headers` are its answers', `about` the model's entry.
    A proxy that says so comes before what stands behind it.
    """
    if found := _proxy(headers, page, host):
        return found
    text = metrics.text[:200_000] if metrics else ""
    counted = next((name for prefix, name in _METRICS.items() if re.search(rf"^{prefix}", text, re.MULTILINE)), None)
    kind = counted or _OWNERS.get(str(about.get("owned_by", "")).lower())
    if kind is None and headers.get("server", "").lower().startswith("llama.cpp"):
        kind = "llama.cpp"
    for name, path, key in _VERSIONS:
        if kind in (None, name) and (version := _at(page(path), key)):
            return _named(name, version)
    if kind is None and "/load_model" in (_at(page("/openapi.json"), "paths") or ""):
        return "transformers serve"
    return kind


def _proxy(headers: Mapping[str, str], page: Callable[[str], Page | None], host: str) -> str | None:
    if version := headers.get("x-litellm-version") or _at(page("/health/readiness"), "litellm_version"):
        return _named("LiteLLM", version)
    if host.endswith(".openai.azure.com") or "apim-request-id" in headers:
        return "Azure OpenAI"
    return "OpenAI" if "openai-version" in headers or host == "api.openai.com" else None


def _at(page: Page | None, key: str) -> Any:
    document = page.document() if page else None
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, (str, dict)) else None


def _named(name: str, version: Any) -> str:
    return plain(f"{name} {version}")[:60] if isinstance(version, str) and version else name
