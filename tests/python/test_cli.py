"""The ``perfopt`` command: its listing, ``info``, and that nothing heavy is loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner

import perfopt
from perfopt.cli import COMMANDS, main


def test_help_lists_every_command_and_each_has_help() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, (_, text) in COMMANDS.items():
        assert name in result.output
        assert text.rstrip(".")[:30] in result.output
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_version() -> None:
    assert perfopt.__version__ in CliRunner().invoke(main, ["--version"]).output


def test_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(main, ["teleport"])
    assert result.exit_code == 2
    assert "teleport" in result.output


def test_info_names_variant_and_backend_or_the_reason() -> None:
    facts = json.loads(CliRunner().invoke(main, ["info", "--json"], catch_exceptions=False).output)
    assert facts["cpu"]["variant"] in facts["cpu"]["supported"]
    text = CliRunner().invoke(main, ["info"], catch_exceptions=False).output
    assert f"cpu variant   {facts['cpu']['variant']}" in text
    if facts["backend"]["available"]:
        assert facts["backend"]["name"] in text
    else:
        assert facts["backend"]["reason"]
        assert f"none: {facts['backend']['reason']}" in text


def test_info_says_why_a_forced_variant_is_not_usable() -> None:
    code = "from perfopt.cli import main; main(['info'])"
    environment = {"PERFOPT_CPU": "abacus", "PATH": ""}
    import os

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    assert "abacus" in result.stdout
    assert "accepted: scalar, avx2, avx512, neon" in result.stdout


def test_info_loads_no_torch() -> None:
    code = "import sys\nfrom perfopt.cli import main\ntry:\n    main(['info'])\nfinally:\n    print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip().endswith("False")
