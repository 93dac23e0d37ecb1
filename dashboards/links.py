"""What stands in a page's address: the choice of a run, Back, and what a link asks for that cannot be shown."""

from collections.abc import Mapping, Sequence

import streamlit as st

_PAGE, _ARRIVING = "nb_page", "nb_arriving"


def arrive(page: str) -> None:
    """Remember whether this run of the script is the first one on `page`; `arrived` is called at its end."""
    st.session_state[_ARRIVING] = st.session_state.get(_PAGE) != page


def arrived(page: str) -> None:
    """The page is whole: what changes in its address from now on, the visitor's Back did."""
    st.session_state[_PAGE] = page
    st.session_state[_ARRIVING] = False  # what is drawn anew by itself from now on does not arrive again


def tab(title: str) -> None:
    """The name of the browser's tab: of several, one finds this page, and in the history this run."""
    st.set_page_config(page_title=f"{title} · Neural Bridge")


def pick(ids: Sequence[str], key: str, label: str, labels: Mapping[str, str], *, index: int = 0) -> str:
    """One of `ids`, shown by its label. The id, not the label, stands in the URL, and is kept from page to page.

    The first choice needs no words in the URL: written there, it would be a step of the browser's history that Back
    cannot leave. An id that is not there is said and stays in the URL.
    """
    first, asked, before = ids[index], st.query_params.get(key), f"url_{key}"
    arriving = bool(st.session_state.get(_ARRIVING, True))
    if arriving or asked != st.session_state.get(before) or st.session_state.get(key) not in ids:
        kept = st.session_state.get(f"kept_{key}") if arriving and asked is None else None
        st.session_state[key] = next((one for one in (asked, kept) if one in ids), first)
    chosen = st.selectbox(label, ids, format_func=lambda one: labels.get(one, one), key=key) or first
    st.session_state[f"kept_{key}"] = chosen
    if asked is not None and asked not in ids and chosen == first:
        complain(key, asked, labels.get(first, first))
    elif asked != chosen and not (asked is None and chosen == first):
        st.query_params[key] = chosen
    st.session_state[before] = st.query_params.get(key)
    return chosen


def pick_some(
    ids: Sequence[str], key: str, label: str, labels: Mapping[str, str], *, first: Sequence[str], most: int
) -> list[str]:
    """Up to `most` of `ids`, as `pick` takes one: each stands in the URL by a `key` of its own, in their order."""
    asked, before = list(dict.fromkeys(st.query_params.get_all(key))), f"url_{key}"
    arriving = bool(st.session_state.get(_ARRIVING, True))
    known = [one for one in asked if one in ids][:most]
    now = st.session_state.get(key)
    if arriving or asked != st.session_state.get(before) or now is None or not set(now) <= set(ids):
        kept = st.session_state.get(f"kept_{key}") if arriving and not asked else None
        st.session_state[key] = known or [one for one in kept or () if one in ids] or list(first)
    chosen: list[str] = st.multiselect(
        label, ids, format_func=lambda one: labels.get(one, one), key=key, max_selections=most, placeholder="Choose"
    )
    st.session_state[f"kept_{key}"] = chosen
    refused = [one for one in asked if one not in known]
    if refused and chosen == (known or list(first)):
        complain(key, ", ".join(refused), ", ".join(labels.get(one, one) for one in chosen))
    elif chosen != asked and (asked or chosen != list(first)):
        st.query_params[key] = chosen
    st.session_state[before] = list(dict.fromkeys(st.query_params.get_all(key)))
    return chosen


def complain(key: str, asked: str, shown: str) -> None:
    """Say that a link asks for something that is not there, and what is shown instead."""
    what = asked if len(asked) <= 80 else f"{asked[:79]}…"
    st.warning(f"This link asks for {key} = “{what}”, which is not possible here. Shown is: {shown}.", icon="⚠️")


def asked_for() -> dict[str, str]:
    """What the address asks for, before any control takes its part."""
    return {key: ", ".join(st.query_params.get_all(key)) for key in st.query_params}


def refused(asked: Mapping[str, str]) -> dict[str, str]:
    """What the controls did not take of `asked`, and what they show instead; Streamlit takes it out of the address."""
    found = {}
    for key, text in asked.items():
        if key in st.query_params and ", ".join(st.query_params.get_all(key)) == text:
            continue
        if f"kept_{key}" in st.session_state or key not in st.session_state:
            continue  # `pick` says it itself, or nothing on this page is called so
        value = st.session_state[key]
        if text not in _texts(key, value):
            found[key] = _texts(key, value)[-1]
    return found


def shown_as(key: str, text: str) -> None:
    """How the control `key` shows its value, where that is not the value's own text."""
    st.session_state[f"shown_{key}"] = text


def _texts(key: str, value: object) -> list[str]:
    found = [", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
    if isinstance(value, float) and value.is_integer():
        found.append(str(int(value)))
    if (shown := st.session_state.get(f"shown_{key}")) is not None:
        found.append(str(shown))
    return found
