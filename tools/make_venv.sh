#!/usr/bin/env bash
# Makes the virtual environment with the build needs, CPU torch and perfopt itself (editable). Usage: make_venv.sh PYTHON VENV
set -euo pipefail
python=$1
venv=$2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check -q)
echo "installing build needs"
"${pip[@]}" install "setuptools>=77" wheel "numpy>=1.25"
# torch first and by exact version: a later resolve that is satisfied by it then fetches nothing larger.
echo "installing torch 2.13.0"
"${pip[@]}" install torch==2.13.0
echo "installing perfopt"
"${pip[@]}" install --no-build-isolation --editable ".[torch,dev]"
