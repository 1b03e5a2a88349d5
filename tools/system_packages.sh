#!/usr/bin/env bash
# Installs the Debian packages that building perfopt needs and that are missing. Usage: system_packages.sh PYTHON
# Uses apt-get as root, through sudo otherwise; when it can do neither it names the packages and stops.
set -euo pipefail
python=${1:-python3}
missing=()

command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || missing+=(g++) # for the emulated device of the tests
if ! command -v "$python" >/dev/null; then
    missing+=(python3 python3-venv python3-dev)
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    header=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_paths()["include"], "Python.h"))')
    [ -f "$header" ] || missing+=(python3-dev)
fi
if command -v gcc >/dev/null; then
    echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 || missing+=(libc6-dev)
    echo '#include <xxhash.h>' | gcc -E - >/dev/null 2>&1 || missing+=(libxxhash-dev)
    echo '#include <zstd.h>' | gcc -E - >/dev/null 2>&1 || missing+=(libzstd-dev)
else
    missing+=(libxxhash-dev libzstd-dev)
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
echo "system packages needed: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
        echo "cannot install them without root; please run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
if ! command -v apt-get >/dev/null; then
    echo "no apt-get here; please install the equivalents of: ${missing[*]}" >&2
    exit 1
fi
"${as_root[@]}" apt-get update -qq
# Through env: sudo does not hand variables on.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
