#!/bin/sh
# Install nginx, which some tests run as the real server, where that needs no password. No service is started or enabled.
# Never fails: without nginx its tests are skipped. HCTEF_NO_INSTALL=1 only looks.
set -u

PATH=$PATH:/usr/local/sbin:/usr/sbin:/opt/homebrew/bin

skip() {
    echo "nginx: $1; the tests that need it will be skipped" >&2
    exit 0
}

command -v nginx >/dev/null 2>&1 && exit 0
[ -z "${HCTEF_NO_INSTALL:-}" ] || skip "not installed, and HCTEF_NO_INSTALL is set"

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    as_root=no
fi

# Debian starts a service as its package is unpacked, unless this policy forbids it (101: forbidden).
# shellcheck disable=SC2016 # expanded by the sh that runs it
apt='
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap "rm -f $policy" EXIT
    trap "exit 1" HUP INT TERM
    printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod 755 "$policy" || exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=60 nginx; }
install || { apt-get update -q && install; } || exit 1
if command -v systemctl >/dev/null 2>&1; then systemctl disable nginx || :; fi
'

# brew refuses root, the others need it; $as_root is two words or none on purpose.
# shellcheck disable=SC2086
if command -v brew >/dev/null 2>&1 && [ "$as_root" != "" ]; then
    set -- brew install nginx
elif [ "$as_root" = no ]; then
    skip "not installed, and neither root nor a sudo without a password is at hand"
elif command -v apt-get >/dev/null 2>&1; then
    set -- $as_root sh -c "$apt"
elif command -v dnf >/dev/null 2>&1; then
    set -- $as_root dnf install -y -q nginx
elif command -v apk >/dev/null 2>&1; then
    set -- $as_root apk add -q nginx
else
    skip "not installed, and no apt-get, dnf, apk or brew is here"
fi

log=$(mktemp) || skip "not installed, and no temporary file can be made"
trap 'rm -f "$log"' EXIT
echo "nginx: not installed, installing it (HCTEF_NO_INSTALL=1 prevents that)" >&2
"$@" >"$log" 2>&1 </dev/null

command -v nginx >/dev/null 2>&1 || skip "the installation failed ($(tail -n 1 "$log"))"
echo "nginx: installed" >&2
