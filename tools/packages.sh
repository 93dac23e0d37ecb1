#!/bin/sh
# System libraries that Python packages cannot bring: installs what is missing when it may, else says what is affected.
missing=""
need() { # file to look for, Debian package, what does not work without it
    ldconfig -p 2>/dev/null | grep -q "$1" && return
    missing="$missing $2"
    echo "missing: $2 ($3)" >&2
}
need libnuma.so.1 libnuma1 "vLLM on the CPU does not start without it"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >&2
else
    echo "not root, or no apt-get: install$missing yourself" >&2
fi
exit 0
