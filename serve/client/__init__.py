"""Python clients of a server with hidden states: `from serve.client import Client, AsyncClient`."""

from serve.client.client import AsyncClient, Client, OnProgress
from serve.client.results import Completions, Health, HiddenStates

__all__ = ["AsyncClient", "Client", "Completions", "Health", "HiddenStates", "OnProgress"]
