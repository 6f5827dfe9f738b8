#!/bin/sh
# Print the path of a Python >= 3.12 that can make virtual environments; with an argument X.Y, of exactly that version.
# Tries $PYTHON first. Exit status 1, and why on stderr, if there is none.
set -u

want=${1:-}

# sys.executable, because a pyenv shim means another interpreter in another folder.
check='
import sys
v, want = sys.version_info, sys.argv[1]
if v < (3, 12) or want and "%d.%d" % v[:2] != want:
    sys.exit("is %d.%d.%d" % v[:3])
try:
    import ensurepip, venv
except ImportError as e:
    sys.exit("is %d.%d.%d without the module %s" % (v[:3] + (e.name,)))
print(sys.executable)
'

tried=
try() {
    command -v "$1" >/dev/null 2>&1 || { tried="$tried
  $1: not found"; return 1; }
    # -I: a module named venv in the current folder is not the standard library's.
    if out=$("$1" -I -c "$check" "$want" 2>&1) && [ -x "$out" ]; then
        printf '%s\n' "$out"
        exit 0
    fi
    tried="$tried
  $1: $(printf '%s\n' "$out" | head -n 1)"
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON"
    echo "find_python: PYTHON=$PYTHON does not serve here, looking for another:$tried" >&2
fi
for name in python3 python3.14 python3.13 python3.12 python; do
    try "$name"
done
# Behind a shim that .python-version points elsewhere, or with pyenv not on PATH.
for path in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python; do
    [ -x "$path" ] && try "$path"
done

cat >&2 <<EOF
find_python: no Python ${want:->= 3.12} with the modules venv and ensurepip. Tried:$tried
Install one (python.org, "apt install python3.12 python3.12-venv", "brew install python@3.13", "pyenv install 3.13"),
or name it: make ... PYTHON=/path/to/python
EOF
exit 1
