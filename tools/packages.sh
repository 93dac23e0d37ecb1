#!/bin/sh
# Debian packages that Python cannot bring: installs what is missing when it may, else says what is affected.
# packages.sh setup | stack | test | containers
missing=""
lacks() { # Debian package, what does not work without it
    missing="$missing $1"
    echo "missing: $1 ($2)" >&2
}
library() { ldconfig -p 2>/dev/null | grep -q "$1" || lacks "$2" "$3"; }
program() { command -v "$1" >/dev/null 2>&1 || lacks "$2" "$3"; }

library libnuma.so.1 libnuma1 "vLLM on the CPU does not start without it"
case "${1:-setup}" in
stack | test)
    program prometheus prometheus "no alerts without it: make stack refuses, its tests are skipped"
    program prometheus-alertmanager prometheus-alertmanager "alerts reach nobody without it: make stack refuses, its tests are skipped"
    ;;
esac
[ "${1:-setup}" = test ] && program chromium chromium "tests of pages in a browser are skipped"
[ "${1:-setup}" = test ] && program haproxy haproxy "nbridge gateway refuses, its tests are skipped"
[ "${1:-setup}" = test ] && program nginx nginx-light "tests of the gateway's nginx configuration are skipped"
[ "${1:-setup}" = test ] && program lua5.3 lua5.3 "the gateway's Lua is not held against its Python"
[ "${1:-setup}" = test ] && program kubectl kubernetes-client "the Kubernetes manifests are not rendered, their tests are skipped"
[ "${1:-setup}" = test ] && program node nodejs "the test with the guide's own TypeScript client is skipped"

case "${1:-setup}" in
containers)
    program podman "podman buildah runc netavark aardvark-dns iptables" "no image is built and no container runs"
    ;;
esac

[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
    # Debian starts services of its own on the same ports; only those that came just now are stopped.
    for service in prometheus prometheus-alertmanager haproxy nginx; do
        case "$missing" in *" $service"*) systemctl disable --now "$service" >/dev/null 2>&1 ;; esac
    done
else
    echo "not root, or no apt-get: install$missing yourself" >&2
fi
exit 0
