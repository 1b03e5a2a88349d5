#!/usr/bin/env bash
# Breaks the kernels on purpose, one way at a time, and shows that the Python tests notice each. Usage: mutate_kernels.sh [PYTHON [MUTANT]]
# Works on a copy below build/mutants; the control (no change) must pass, every mutant must fail. Exit status 0 when all do.
set -euo pipefail
python=$(command -v "${1:-python3}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") # not resolved: a virtual environment is its link
only=${2:-}
export PERFOPT_CUDA=off # the mutants are about the CPU kernels
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$root/build/mutants/tree
log=$root/build/mutants/log
rm -rf "$root/build/mutants"
mkdir -p "$copy" "$log"
cp -a "$root"/{csrc,perfopt,tests,setup.py,pyproject.toml} "$copy"
rm -f "$copy"/perfopt/*.so
survivors=0

# change FILE OLD NEW: replaces the one place where OLD stands; anything but one place is an error, so mutants cannot rot.
change() {
    "$python" - "$copy/csrc/$1" "$2" "$3" <<'PY'
import pathlib, sys
path, old, new = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
text = path.read_text()
if text.count(old) != 1:
    sys.exit(f"{path.name}: {text.count(old)} places with {old!r}, wanted 1")
path.write_text(text.replace(old, new))
PY
}

# judge NAME EXPECTED: builds, runs the tests up to the first failure, compares, puts the sources back.
judge() {
    local name=$1 expected=$2 outcome=killed first
    (cd "$copy" && "$python" setup.py -q build_ext --inplace) >"$log/$name.build" 2>&1 || { echo "$name does not build"; exit 2; }
    if (cd "$copy" && PYTHONPATH=$copy "$python" -m pytest -q -x -p no:cacheprovider tests/python/test_kernels.py \
        tests/torch/test_adamw.py) >"$log/$name.tests" 2>&1; then
        outcome=passes
    fi
    first=$(grep -m1 '^FAILED\|^ERROR' "$log/$name.tests" | sed 's/ - .*//; s/^FAILED //' || true)
    if [ "$outcome" = "$expected" ]; then
        printf '%-28s %s  %s\n' "$name" "$outcome" "$first"
    else
        printf '%-28s %s, wanted %s (see %s)\n' "$name" "$outcome" "$expected" "$log/$name.tests"
        survivors=$((survivors + 1))
    fi
    rm -rf "$copy/csrc"
    cp -a "$root/csrc" "$copy"
    find "$copy/csrc" -name '*.[ch]' -exec touch {} +
}

mutant() {
    local name=$1
    shift
    [ -z "$only" ] || [ "$only" = "$name" ] || return 0
    change "$@"
    judge "$name" killed
}

[ -n "$only" ] || judge control passes
mutant step-does-nothing kernels/execute.c 'run_over_chunks(request->threads, pfo_walk_update, &walk);' ''
mutant weight-decay-ignored kernels/adamw_math.h '(float)(1.0 - options->lr * options->weight_decay)' '1.0f'
mutant clipping-ignored kernels/float_math.h 'return factor > 1.0 ? 1.0 : factor;' 'return factor > 1e300 ? factor : 1.0;'
mutant step-count-stale kernels/execute.c '*entry->step += 1.0f;' '(void)entry;'
mutant bias-correction-of-last-step kernels/execute.c '(double)(*entry->step + 1.0f)' '(double)(*entry->step < 1.0f ? 1.0f : *entry->step)'
mutant wrong-beta kernels/adamw_math.h 'scalars.beta2 = (float)options->beta2;' 'scalars.beta2 = (float)options->beta1;'
mutant tail-skipped kernels/plan.c 'return count / PFO_CHUNK_ELEMENTS + (count % PFO_CHUNK_ELEMENTS != 0);' 'return count / PFO_CHUNK_ELEMENTS + (count < PFO_CHUNK_ELEMENTS && count > 0);'
mutant vector-tail-skipped kernels/kernels_update.h 'if (first_ < (count)) {' 'if (first_ + 7 < (count)) {'
mutant eps-ignored kernels/adamw_math.h '(float)options->eps' '0.0f'
mutant maximize-ignored kernels/float_math.h 'maximize ? -multiplier : multiplier' 'multiplier'
mutant nonfinite-not-seen kernels/execute.c 'result->nonfinite = nonfinite != 0;' 'result->nonfinite = nonfinite > 1;'
mutant skipped-step-counted kernels/execute.c 'if (!result->skipped) {' 'if (result->skipped) { count_step(plan); } else {'
mutant first-groups-options kernels/execute.c '&groups[entry->group]' '&groups[0]'
mutant gradient-of-first-step bindings/train/plan_step.c 'slot->entry, 1, grad.data, grad.dtype, &err)' 'slot->entry, 1, self->plan->entries[slot->entry].data[PFO_ROLE_GRAD] != NULL ? self->plan->entries[slot->entry].data[PFO_ROLE_GRAD] : grad.data, grad.dtype, &err)'
if [ "$survivors" -ne 0 ]; then
    echo "$survivors not as wanted"
    exit 1
fi
echo "every mutant tried was killed"
