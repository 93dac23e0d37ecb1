"""vLLM's endpoint plugin `nbridge`: hidden states over HTTP, in any vLLM that has this package installed.

Opt in with `VLLM_PLUGINS=nbridge`; the states themselves come from `--worker-cls serve.worker.Worker`. Adds
`POST /v1/hidden_states`, lets `POST /v1/completions` answer with states, and gives `GET /health` a body.
"""

import asyncio
import contextlib
import functools
import importlib
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve import answer, contract
from serve.completions import wrap_completions
from serve.extraction import Extractor, Model
from serve.limits import Limits
from serve.middleware import ErrorShape
from serve.protocol import ApiError
from serve.request import parse
from serve.telemetry import IN_FLIGHT, RequestRecord, set_up_logging

_log = logging.getLogger("vllm.nbridge.plugin")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
