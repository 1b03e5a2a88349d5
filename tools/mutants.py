"""The table of the mutation gate: what is broken, and which tests must notice.

A mutant is a list of replacements, each of a text that stands exactly once in its file. Pure-C mutants name test programs of
``tests/c`` (the first is tried first), Python ones pytest arguments. A mutant that changes the arithmetic in the reference and
in the vector kernels alike ("everywhere") shows that the tests hold it against something of their own, not one variant
against the other. ``level`` names the instruction set without which a mutant changes nothing that runs.
"""

# ruff: noqa: E501 (a table: one mutant a line)
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One way to break the code."""

    name: str
    edits: tuple[tuple[str, str, str], ...]  # path, old text, new text
    tests: tuple[str, ...]
    level: str | None = None


def in_c(name: str, *edits: str, tests: str, level: str | None = None) -> Mutant:
    """``edits``: file below csrc/kernels, old, new, and again."""
    triples = [(f"csrc/kernels/{edits[i]}", edits[i + 1], edits[i + 2]) for i in range(0, len(edits), 3)]
    return Mutant(name, tuple(triples), tuple(tests.split()), level)


def in_python(name: str, path: str, old: str, new: str, tests: str) -> Mutant:
    return Mutant(name, ((path, old, new),), tuple(tests.split()))


KERNELS = "test_kernels"
STEP = "test_execute test_walk"
WALK = "test_walk"
CONVERT = "test_convert"

# What every operation has in common.
COMMON = [
    in_c("clip ignored", "float_math.h", "return factor > 1.0 ? 1.0 : factor;", "return factor > 1e300 ? factor : 1.0;", tests=KERNELS),
    in_c("clip enlarges", "float_math.h", "return factor > 1.0 ? 1.0 : factor;", "return factor;", tests=KERNELS),
    in_c("clip without epsilon", "float_math.h", "(norm + 1e-6)", "norm", tests=KERNELS),
    in_c("clip factor not multiplied", "float_math.h", "unscale * clip_factor", "unscale", tests=KERNELS),
    in_c("unscale ignored", "float_math.h", "unscale * clip_factor", "clip_factor", tests=KERNELS),
    in_c("maximize ignored", "float_math.h", "maximize ? -multiplier : multiplier", "multiplier", tests=KERNELS),
    in_c("lerp to the wrong side", "float_math.h", "lerp.from_end ? -(1.0f - rounded)", "lerp.from_end ? (1.0f - rounded)", tests=KERNELS),
    in_c("lerp from the wrong end", "float_math.h", "lerp.from_end = rounded >= 0.5f", "lerp.from_end = rounded < 0.5f", tests=KERNELS),
    in_c("maximum drops NaN", "float_math.h", "(a) > (b) || (a) != (a) ? (a)", "(a) > (b) ? (a)", tests=KERNELS),
    in_c(
        "maximum drops NaN everywhere",
        "float_math.h", "(a) > (b) || (a) != (a) ? (a)", "(a) > (b) ? (a)",
        "simd_avx2.h", "return _mm256_blendv_ps(larger, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));", "return larger;",
        "simd_avx512.h", "return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), larger, a);", "return larger;",
        tests=KERNELS,
    ),
]  # fmt: skip

ADAMW = [
    in_c("adamw: decay ignored", "adamw_math.h", "(float)(1.0 - options->lr * options->weight_decay)", "1.0f", tests=KERNELS),
    in_c("adamw: decay without lr", "adamw_math.h", "options->lr * options->weight_decay", "options->weight_decay", tests=KERNELS),
    in_c("adam: decay ignored", "adamw_math.h", "(float)options->weight_decay : 0.0f", "0.0f : 0.0f", tests=KERNELS),
    in_c("adam: decay twice", "adamw_math.h", "options->coupled ? 1.0f : (float)", "(float)", tests=KERNELS),
    in_c("adamw: wrong beta1", "adamw_math.h", "pfo_lerp_prepare(1.0 - options->beta1)", "pfo_lerp_prepare(1.0 - options->beta2)", tests=KERNELS),
    in_c("adamw: wrong beta2", "adamw_math.h", "scalars.beta2 = (float)options->beta2", "scalars.beta2 = (float)options->beta1", tests=KERNELS),
    in_c("adamw: wrong 1 - beta2", "adamw_math.h", "(float)(1.0 - options->beta2)", "(float)(1.0 - options->beta1)", tests=KERNELS),
    in_c("adamw: stale step in bias 1", "adamw_math.h", "pow(options->beta1, step)", "pow(options->beta1, step - 0.5)", tests=KERNELS),
    in_c("adamw: stale step in bias 2", "adamw_math.h", "pow(options->beta2, step)", "pow(options->beta2, step + 1.0)", tests=KERNELS),
    in_c("adamw: no bias correction", "adamw_math.h", "-(options->lr / bias1)", "-options->lr", tests=KERNELS),
    in_c("adamw: eps ignored", "adamw_math.h", "(float)options->eps", "0.0f", tests=KERNELS),
    in_c("amsgrad: maximum not kept", "adamw_math.h", "*max_exp_avg_sq = second;", "", tests=KERNELS),
    in_c(
        "amsgrad: maximum not kept everywhere",
        "adamw_math.h", "*max_exp_avg_sq = second;", "",
        "kernels_update.h", "vf_store(max_exp_avg_sq, second, n);", "",
        tests=KERNELS,
    ),
    in_c("amsgrad: not kept", "operation.c", "k < 2 || options->adamw.amsgrad", "k < 2", tests=f"{KERNELS} test_plan"),
    in_c(
        "adamw: decay after the update everywhere",
        "adamw_math.h", "*param = PFO_ADD(p, PFO_DIV(PFO_MUL(s->neg_step_size, m), denominator));",
        "*param = PFO_MUL(PFO_ADD(*param, PFO_DIV(PFO_MUL(s->neg_step_size, m), denominator)), s->decay);",
        "kernels_update.h", "vf_store(param, vf_add(p, vf_div(vf_mul(s->neg_step_size, m), denominator)), n);",
        "vf_store(param, vf_mul(vf_add(p_before, vf_div(vf_mul(s->neg_step_size, m), denominator)), s->decay), n);",
        tests=KERNELS,
    ),
    in_c(
        "adamw: moment not kept everywhere",
        "adamw_math.h", "*exp_avg = m;", "",
        "kernels_update.h", "vf_store(exp_avg, m, n);", "",
        tests=KERNELS,
    ),
    in_c("adamw: short vectors of the other end", "kernels_update.h", "wide.lerp.from_end = from_end;", "wide.lerp.from_end = 0;", tests=KERNELS, level="avx2"),
]  # fmt: skip

OTHERS = [
    in_c("sgd: decay ignored", "sgd_math.h", "(float)options->weight_decay", "0.0f", tests=KERNELS),
    in_c("sgd: momentum ignored", "sgd_math.h", "scalars.momentum = (float)options->momentum", "scalars.momentum = 0.0f", tests=KERNELS),
    in_c("sgd: dampening ignored", "sgd_math.h", "(float)(1.0 - options->dampening)", "1.0f", tests=KERNELS),
    in_c("sgd: first step like the others", "sgd_math.h", "scalars.first = first", "scalars.first = 0", tests=KERNELS),
    in_c("sgd: every step a first one", "sgd_math.h", "scalars.first = first", "scalars.first = 1", tests=KERNELS),
    in_c("sgd: nesterov ignored", "sgd_math.h", "scalars.nesterov = options->nesterov", "scalars.nesterov = 0", tests=KERNELS),
    in_c("sgd: half the lr", "sgd_math.h", "(float)-options->lr", "(float)-(options->lr / 2)", tests=KERNELS),
    in_c("sgd: no buffer kept", "operation.c", "options->sgd.momentum != 0.0", "0", tests=f"{KERNELS} test_plan"),
    in_c("lion: decay ignored", "lion_math.h", "(float)(1.0 - options->lr * options->weight_decay)", "1.0f", tests=KERNELS),
    in_c("lion: wrong beta1", "lion_math.h", "(float)options->beta1", "(float)options->beta2", tests=KERNELS),
    in_c("lion: wrong 1 - beta1", "lion_math.h", "(float)(1.0 - options->beta1)", "1.0f", tests=KERNELS),
    in_c("lion: wrong beta2", "lion_math.h", "(float)options->beta2", "(float)options->beta1", tests=KERNELS),
    in_c("lion: half the lr", "lion_math.h", "(float)-options->lr", "(float)-(options->lr / 2)", tests=KERNELS),
    in_c(
        "lion: steps where the sign is 0 everywhere",
        "float_math.h", "(float)((a) > 0.0f) - (float)((a) < 0.0f)", "((a) < 0.0f ? -1.0f : 1.0f)",
        "simd_avx2.h", "_mm256_and_ps(_mm256_cmp_ps(a, zero, _CMP_GT_OQ), one)", "_mm256_and_ps(_mm256_cmp_ps(a, zero, _CMP_NLT_UQ), one)",
        "simd_avx512.h", "_mm512_cmp_ps_mask(a, zero, _CMP_GT_OQ)", "_mm512_cmp_ps_mask(a, zero, _CMP_NLT_UQ)",
        tests=KERNELS,
    ),
    in_c("adagrad: lr decay ignored", "adagrad_math.h", "(step - 1.0) * options->lr_decay", "0.0", tests=KERNELS),
    in_c("adagrad: stale step", "adagrad_math.h", "(step - 1.0)", "(step - 2.0)", tests=KERNELS),
    in_c("adagrad: decay ignored", "adagrad_math.h", "(float)options->weight_decay", "0.0f", tests=KERNELS),
    in_c("adagrad: eps ignored", "adagrad_math.h", "(float)options->eps", "0.0f", tests=KERNELS),
    in_c(
        "adagrad: sum not kept everywhere",
        "adagrad_math.h", "*sum = total;", "",
        "kernels_update.h", "vf_store(sum, total, n);", "",
        tests=KERNELS,
    ),
    in_c("rmsprop: wrong alpha", "rmsprop_math.h", "scalars.alpha = (float)options->alpha", "scalars.alpha = 0.99f", tests=KERNELS),
    in_c("rmsprop: wrong 1 - alpha", "rmsprop_math.h", "(float)(1.0 - options->alpha)", "1.0f", tests=KERNELS),
    in_c("rmsprop: wrong average", "rmsprop_math.h", "pfo_lerp_prepare(1.0 - options->alpha)", "pfo_lerp_prepare(options->alpha)", tests=KERNELS),
    in_c("rmsprop: decay ignored", "rmsprop_math.h", "(float)options->weight_decay", "0.0f", tests=KERNELS),
    in_c("rmsprop: eps ignored", "rmsprop_math.h", "(float)options->eps", "0.0f", tests=KERNELS),
    in_c("rmsprop: momentum ignored", "rmsprop_math.h", "(float)options->momentum", "0.0f", tests=KERNELS),
    in_c(
        "rmsprop: not centered everywhere",
        "rmsprop_math.h", "PFO_SUB(square, PFO_MUL(average, average))", "square",
        "kernels_update.h", "vf_sub(square, vf_mul(average, average))", "square",
        tests=KERNELS,
    ),
    in_c("rmsprop: average not kept", "operation.c", "options->rmsprop.momentum > 0.0 : options->rmsprop.centered", "options->rmsprop.momentum > 0.0 : 0", tests=f"{KERNELS} test_plan"),
]  # fmt: skip

VECTORS = [
    in_c("vector tail skipped", "kernels_update.h", "if (first_ < (count)) {", "if (first_ + VF_LANES - 1 < (count)) {", tests=KERNELS, level="avx2"),
    in_c("avx2: tail one short", "simd_avx2.h", "_mm256_set1_epi32((int)n)", "_mm256_set1_epi32((int)n - 1)", tests=KERNELS, level="avx2"),
    in_c("avx2: tail one long", "simd_avx2.h", "_mm256_set1_epi32((int)n)", "_mm256_set1_epi32((int)n + 1)", tests=KERNELS, level="avx2"),
    in_c("avx512: tail one short", "simd_avx512.h", "(1u << n) - 1u", "((1u << n) - 1u) >> 1", tests=KERNELS, level="avx512"),
    in_c("avx512: tail one long", "simd_avx512.h", "(1u << n) - 1u", "(2u << n) - 1u", tests=KERNELS, level="avx512"),
    in_c("norm: tail skipped in avx2", "kernels_avx2.c", "if (i < count) {", "if (i + 31 < count) {", tests=KERNELS, level="avx2"),
    in_c("norm: tail skipped in avx512", "kernels_avx512.c", "if (i < count) {", "if (i + 31 < count) {", tests=KERNELS, level="avx512"),
    in_c("norm: nonfinite unseen by avx2", "kernels_avx2.c", "_mm256_movemask_epi8(exponent_full) != 0", "0", tests=KERNELS, level="avx2"),
    in_c("norm: nonfinite unseen by avx512", "kernels_avx512.c", "lanes->nonfinite |= nonfinite != 0;", "", tests=KERNELS, level="avx512"),
    in_c("norm: nonfinite unseen by scalar", "kernels_scalar.c", "lanes->nonfinite |= is_nonfinite(grad[i]);", "", tests=KERNELS),
    in_c("norm: infinity is finite", "kernels_scalar.c", "(bits & 0x7f800000u) == 0x7f800000u", "(bits & 0x7fffffffu) > 0x7f800000u", tests=KERNELS),
    in_c("norm: fold forgets lanes", "dispatch.c", "width = PFO_NORM_LANES / 2", "width = PFO_NORM_LANES / 4", tests=f"{KERNELS} {STEP}"),
    in_c("norm: fold overwrites", "dispatch.c", "lanes->lane[j] += ", "lanes->lane[j] = ", tests=f"{KERNELS} {STEP}"),
]  # fmt: skip

STEPS = [
    in_c("no-op step", "execute.c", "run_over_chunks(request->threads, pfo_walk_update, &walk);", "", tests=STEP),
    in_c("tail skipped", "plan.c", "(count % PFO_CHUNK_ELEMENTS != 0)", "(count < PFO_CHUNK_ELEMENTS && count > 0)", tests=f"test_plan {STEP}"),
    in_c("step not counted", "execute.c", "*entry->step += 1.0f;", "", tests=STEP),
    in_c("step counted twice", "execute.c", "*entry->step += 1.0f;", "*entry->step += 2.0f;", tests=STEP),
    in_c("stale step count", "execute.c", "(double)(*entry->step + 1.0f)", "(double)(*entry->step < 1.0f ? 1.0f : *entry->step)", tests=STEP),
    in_c("one step count for all", "execute.c", "|| step != last_step ", "", tests=STEP),
    in_c("the run's step ignored", "execute.c", ": request->step;", ": 1.0;", tests=STEP),
    in_c("first group's options", "execute.c", "&groups[entry->group]", "&groups[0]", tests=STEP),
    in_c("one group for all", "execute.c", "entry->group != last->group || ", "", tests=STEP),
    in_c("a first step for neighbours", "execute.c", " || entry->first != last->first", "", tests=STEP),
    in_c("first step again and again", "execute.c", "entry->first = 0;", "", tests=STEP),
    in_c("clip not passed on", "execute.c", "request, result->clip_factor);", "request, 1.0);", tests=STEP),
    in_c("clip factor not found", "execute.c", "result->clip_factor = pfo_clip_factor(result->norm, request->max_grad_norm);", "", tests=STEP),
    in_c("unscale not passed on", "execute.c", "request->unscale, clip_factor", "1.0, clip_factor", tests=STEP),
    in_c("norm not unscaled", "execute.c", "sqrt(sum) * fabs(unscale)", "sqrt(sum)", tests=STEP),
    in_c("norm of one chunk", "execute.c", "sum += plan->partials[chunk].sum_of_squares;", "sum = plan->partials[chunk].sum_of_squares;", tests=STEP),
    in_c("nonfinite forgotten", "execute.c", "nonfinite |= plan->partials[chunk].nonfinite;", "nonfinite = plan->partials[chunk].nonfinite;", tests=STEP),
    in_c("found_inf ignored", "execute.c", "if (request->found_inf) {", "if (0) {", tests=STEP),
    in_c("found_inf is one", "execute.c", "if (request->found_inf) {", "if (request->found_inf == 1) {", tests=STEP),
    in_c("nonfinite not skipped", "execute.c", "result->nonfinite && request->skip_nonfinite", "0", tests=STEP),
    in_c("nonfinite always skipped", "execute.c", "result->nonfinite && request->skip_nonfinite", "result->nonfinite", tests=STEP),
    in_c("check only with clipping", "execute.c", "request->max_grad_norm >= 0.0 || request->skip_nonfinite", "request->max_grad_norm >= 0.0", tests=STEP),
    in_c("skipped step counted", "execute.c", "if (!result->skipped) {", "if (result->skipped) { count_step(plan); } else {", tests=STEP),
    in_c("zero_grads ignored", "walk.c", "if (walk->zero_grads) {", "if (0) {", tests=WALK),
    in_c("zero_grads ignored when direct", "walk.c", " && !walk->zero_grads;", ";", tests=WALK),
    in_c("zero_grads ignored when skipped", "execute.c", "if (request->zero_grads && !walk.zero_grads) {", "if (0) {", tests=WALK),
    in_c("shared gradients zeroed early", "execute.c", "request->zero_grads && pfo_plan_grads_are_apart(plan)", "request->zero_grads", tests=WALK),
    in_c("gradients zeroed unasked", "execute.c", "request->zero_grads && pfo_plan_grads_are_apart(plan)", "1", tests=WALK),
    in_c("missing gradient in the norm", "walk.c", "whole.entry->has_grad ? norm_of_span(walk, &whole)", "1 ? norm_of_span(walk, &whole)", tests=STEP),
    in_c("EMA wrong way round", "execute.c", "pfo_lerp_prepare(1.0 - request->ema_decay)", "pfo_lerp_prepare(request->ema_decay)", tests=WALK),
    in_c("EMA ignored", "walk.c", "if (entry->data[PFO_ROLE_EMA] != NULL) {", "if (0) {", tests=WALK),
    in_c("EMA of the unrounded weight", "walk.c", "if (at->entry->dtype[PFO_ROLE_WEIGHT] != PFO_DTYPE_FLOAT32) {", "if (0) {", tests=WALK),
    in_c("copy ignored", "walk.c", "if (entry->data[PFO_ROLE_COPY] != NULL) {", "if (0) {", tests=WALK),
    in_c("state not written back", "walk.c", "role != PFO_ROLE_GRAD && data[role]", "role == PFO_ROLE_WEIGHT && data[role]", tests=WALK),
    in_c("second tile is the first", "walk.c", "whole->first + offset", "whole->first", tests=WALK),
    in_c("scales of the first tile", "walk.c", "scales + at->first / PFO_SCALE_BLOCK", "scales", tests=WALK),
    in_c("float mode not set", "float_environment.h", "_mm_setcsr(PFO_DEFAULT_MXCSR);", "", tests="test_execute", level="avx2"),
    in_c("float mode not put back", "float_environment.h", "_mm_setcsr(before);", "", tests="test_execute", level="avx2"),
]  # fmt: skip

ROUNDING = [
    in_c("random bits of the seed ignored", "walk.c", ".seed = request->seed,", "", tests=WALK),
    in_c("random bits of the step ignored", "rounding_math.h", "rounding_step << PFO_STREAM_TENSOR_BITS | ", "", tests=WALK),
    in_c("random bits of the tensor ignored", "rounding_math.h", " | (uint64_t)tensor)", ")", tests=WALK),
    in_c("random bits of the role ignored", "rounding_math.h", " | (uint64_t)role;", ";", tests=WALK),
    in_c("step number not passed on", "walk.c", "pfo_rounding_stream(request->rounding_step,", "pfo_rounding_stream(0,", tests=WALK),
    in_c("random bits of the tile's start", "walk.c", ".first = (uint64_t)at->first,", "", tests=WALK),
    in_c("stochastic rounding not asked for", "rounding_math.h", "(asked || ", "(", tests=WALK),
    in_c("8-bit moments to nearest", "rounding_math.h", "return dtype == PFO_DTYPE_BLOCK8 || ", "return ", tests=WALK),
    in_c("8-bit squares to nearest", "rounding_math.h", "return dtype == PFO_DTYPE_BLOCK8 || dtype == PFO_DTYPE_UBLOCK8", "return dtype == PFO_DTYPE_BLOCK8", tests=WALK),
    in_c("8-bit states draw for themselves", "rounding_math.h", "? role & ~1 : role", "? role : role", tests=WALK),
    in_c("8-bit states round alike", "rounding_math.h", "&& (role & 1) != 0", "&& 0", tests=WALK),
    in_c("third 8-bit state by the draw of the first", "walk.c", "images->drawn_role != draw_role", "images->drawn_role < 0", tests=WALK),
    in_c("draw of the tile before", "walk.c", "    images->drawn_role = -1;\n", "", tests=WALK),
    in_c("bytes not exchanged", "philox_math.h", "(random >> 8 | random << 8) & 0xffffu", "random", tests=CONVERT),
    in_c("copies rounded at random", "rounding_math.h", "!is_copy && ", "", tests=WALK),
    in_c("stochastic without randomness", "convert_base.h", "random << 15 >> (31 - dropped)", "(1u << dropped) >> 1", tests=CONVERT),
    in_c("philox: six rounds", "philox_math.h", "PFO_PHILOX_ROUNDS = 7", "PFO_PHILOX_ROUNDS = 6", tests=CONVERT),
    in_c("philox: key stands still", "philox_math.h", "key_0 += PFO_PHILOX_WEYL_0;", "", tests=CONVERT),
    in_c("philox: upper halves unused", "philox_math.h", ">> (half % 2 * 16) ", "", tests=CONVERT),
    in_c(
        "philox: upper halves unused everywhere",
        "philox_math.h", ">> (half % 2 * 16) ", "",
        "convert_avx2.c", "vector / 2 % 2 ? _mm256_srli_epi32(pair, 16) : ", "",
        "convert_avx512.c", "vector % 2 ? _mm512_srli_epi32(pair, 16) : ", "",
        "convert_scalar.c", ">> (half % 2 * 16) ", "",
        "blocks_avx2.c", "second ? 0x0302u : 0x0100u", "0x0100u",
        "blocks_avx512.c", "second ? 0x0302u : 0x0100u", "0x0100u",
        tests=CONVERT,
    ),
]  # fmt: skip

CONVERSIONS = [
    in_c("ties up", "convert_base.h", "((1u << dropped) >> 1) - 1u + (value >> dropped & 1u)", "(1u << dropped) >> 1", tests=CONVERT),
    in_c("rounding cuts", "convert_base.h", "((1u << dropped) >> 1) - 1u + (value >> dropped & 1u)", "0u", tests=CONVERT),
    in_c("bfloat16: cut", "convert_math.h", "(bits + pfo_round_addend(bits, 16, stochastic, random)) >> 16", "bits >> 16", tests=CONVERT),
    in_c("bfloat16: NaN carries over", "convert_math.h", "if ((bits & ~PFO_FLOAT_SIGN) > PFO_FLOAT_INFINITY) {", "if (0) {", tests=CONVERT),
    in_c("float16: NaN becomes infinity", "convert_math.h", "if (magnitude > PFO_FLOAT_INFINITY) {", "if (0) {", tests=CONVERT),
    in_c("float16: NaN without payload", "convert_math.h", "format.mantissa == 10 ? (magnitude & 0x007fffffu) >> 13 : 0", "0", tests=CONVERT),
    in_c("float16: exponent off", "convert_math.h", "{ 10, 113, 0x8000", "{ 10, 112, 0x8000", tests=CONVERT),
    in_c("float8_e4m3: largest lost", "convert_math.h", "0x80, 0x7e, 0x7f", "0x80, 0x7d, 0x7f", tests=CONVERT),
    in_c("float8_e5m2: overflow is NaN", "convert_math.h", "0x80, 0x7b, 0x7c", "0x80, 0x7b, 0x7f", tests=CONVERT),
    in_c("float8: no saturation", "convert_math.h", "(saturate ? format.max_code : format.overflow_code)", "format.overflow_code", tests=CONVERT),
    in_c("small floats: denormals are 0", "convert_math.h", "significand = beyond > 31 ? 0 : significand >> beyond;", "significand = 0;", tests=CONVERT),
    in_c("small floats: sign lost", "convert_math.h", "const uint32_t sign = bits >> 31 ? format.sign : 0;", "const uint32_t sign = 0;", tests=CONVERT),
    in_c("small floats: read without sign", "convert_math.h", "(code & format.sign) != 0 ? PFO_FLOAT_SIGN : 0", "0", tests=CONVERT),
    in_c("block8: sign lost", "quantize_math.h", "(uint8_t)(sign | ", "(uint8_t)(", tests=CONVERT),
    in_c("blocks: offset off by an octave", "quantize_math.h", "(127u + PFO_BLOCK_TOP_OCTAVE - octaves)", "(126u + PFO_BLOCK_TOP_OCTAVE - octaves)", tests=CONVERT),
    in_c("blocks: width not kept", "quantize_math.h", " | (width - PFO_BLOCK_MIN_WIDTH));", ");", tests=CONVERT),
    in_c("ublock8: small becomes 0", "quantize_math.h", "magnitude == 0 ? 1 : magnitude", "magnitude", tests=CONVERT),
    in_c("blocks: draw of the first group", "convert_scalar.c", "i / PFO_PHILOX_ELEMENTS * (PFO_PHILOX_ELEMENTS / 2)", "0", tests=CONVERT),
    in_c("blocks: words in the wrong lanes", "convert_scalar.c", "words[i / 2 + k * PFO_PHILOX_LANES + lane]", "words[i / 2 + k * PFO_PHILOX_LANES + (lane ^ 1)]", tests=CONVERT),
    in_c("ublock8: zeros positive, avx2", "blocks_avx2.c", "smallest > 0 && largest < PFO_FLOAT_INFINITY", "largest < PFO_FLOAT_INFINITY", tests=CONVERT, level="avx2"),
    in_c("ublock8: zeros positive, avx512", "blocks_avx512.c", "smallest > 0 && largest < PFO_FLOAT_INFINITY", "largest < PFO_FLOAT_INFINITY", tests=CONVERT, level="avx512"),
    in_c("blocks: bytes not exchanged, avx2", "blocks_avx2.c", "exchanged ? (at & 0xffu) << 8 | at >> 8 : at", "at", tests=CONVERT, level="avx2"),
    in_c("blocks: words of the first batch, avx2", "blocks_body.h", "rounding->words + begin / 2", "rounding->words", tests=CONVERT, level="avx2"),
    in_c("blocks: words of the batch's first block, avx2", "blocks_body.h", "words != NULL ? words + begin / 2 : NULL", "words", tests=CONVERT, level="avx2"),
    in_c("blocks: each batch by the first draw, avx2", "blocks_body.h", "moved.first = rounding->first + (uint64_t)begin;", "", tests=CONVERT, level="avx2"),
    in_c("block8: more small elements than the rule's, avx2", "blocks_avx2.c", "few * 16 <= count", "few * 15 <= count", tests=CONVERT, level="avx2"),
    in_c("ublock8: smallest off by one, avx2", "blocks_avx2.c", "smallest += smallest != UINT32_MAX;", "", tests=CONVERT, level="avx2"),
    in_c("blocks: short block overruns, avx2", "blocks_avx2.c", "memcpy(to + i, codes, (size_t)(count - i));", "memcpy(to + i, codes, GROUP);", tests=CONVERT, level="avx2"),
    in_c("blocks: any first element, avx2", "blocks_body.h", "rounding->first % PFO_PHILOX_ELEMENTS != 0", "0", tests=CONVERT, level="avx2"),
    in_c("blocks: bytes not exchanged, avx512", "blocks_avx512.c", "exchanged ? (at & 0xffu) << 8 | at >> 8 : at", "at", tests=CONVERT, level="avx512"),
    in_c("blocks: words of the first batch, avx512", "blocks_body.h", "rounding->words + begin / 2", "rounding->words", tests=CONVERT, level="avx512"),
    in_c("blocks: words of the batch's first block, avx512", "blocks_body.h", "words != NULL ? words + begin / 2 : NULL", "words", tests=CONVERT, level="avx512"),
    in_c("blocks: each batch by the first draw, avx512", "blocks_body.h", "moved.first = rounding->first + (uint64_t)begin;", "", tests=CONVERT, level="avx512"),
    in_c("block8: more small elements than the rule's, avx512", "blocks_avx512.c", "few * 16 <= count", "few * 15 <= count", tests=CONVERT, level="avx512"),
    in_c("ublock8: smallest off by one, avx512", "blocks_avx512.c", "smallest += smallest != UINT32_MAX;", "", tests=CONVERT, level="avx512"),
    in_c("blocks: short block overruns, avx512", "blocks_avx512.c", "((__mmask64)1 << (count - i)) - 1", "~(__mmask64)0", tests=CONVERT, level="avx512"),
    in_c("blocks: any first element, avx512", "blocks_body.h", "rounding->first % PFO_PHILOX_ELEMENTS != 0", "0", tests=CONVERT, level="avx512"),
    in_c("blocks: NaN hidden", "quantize_math.h", "if (largest_bits >= PFO_FLOAT_INFINITY) {", "if (0) {", tests=CONVERT),
    in_c("blocks: codes wrap", "quantize_math.h", "return magnitude > code.max_code ? code.max_code : magnitude;", "return magnitude;", tests=CONVERT),
    in_c("blocks: no floor of scales", "quantize_math.h", "if (largest <= 16.0f * floor) {", "if (0) {", tests=CONVERT),
    in_c("blocks: one scale for all", "convert_scalar.c", "scales[begin / PFO_SCALE_BLOCK] = scale;", "scales[0] = scale;", tests=CONVERT),
    in_c("blocks: magnitude of the sign bit", "convert_scalar.c", "return pfo_float_bits(value) & ~PFO_FLOAT_SIGN;", "return pfo_float_bits(value);", tests=CONVERT),
]  # fmt: skip

# What the vectors do by another way than the reference; against it, and between pages that may not be touched.
ELEMENTS = "test_convert_elements"
ELEMENT_VECTORS = [
    in_c("vectors: overflow not capped", "convert_elements.h", "vu_min(magnitude, largest)", "magnitude", tests=ELEMENTS),
    in_c("vectors: denormals round as normal numbers", "convert_elements.h", "vu_max(vu_and(capped, vu_set(PFO_FLOAT_INFINITY)), vu_set(format.first_normal << 23))", "vu_and(capped, vu_set(PFO_FLOAT_INFINITY))", tests=ELEMENTS),
    in_c("vectors: NaN rounds", "convert_elements.h", "vu_if_greater(magnitude, vu_set(PFO_FLOAT_INFINITY), quiet, rounded)", "rounded", tests=ELEMENTS),
    in_c("vectors: float16 NaN without payload", "convert_elements.h", "if (format.mantissa == 10) {", "if (0) {", tests=ELEMENTS),
    in_c("vectors: saturation ignored", "convert_elements.h", "rounding->saturate && pfo_dtype_bytes(dtype) == 1", "0", tests=ELEMENTS),
    in_c("vectors: a part from the span's start", "convert_elements.h", "memcpy(to, codes + (size_t)skip * size,", "memcpy(to, codes,", tests=ELEMENTS),
    in_c("vectors: a part to the span's start", "convert_elements.h", "memcpy(values + skip, from,", "memcpy(values, from,", tests=ELEMENTS),
    in_c("vectors: rest forgotten", "convert_elements.h", "if (i < count) {\n        store_part(", "if (i > count) {\n        store_part(", tests=ELEMENTS),
    in_c("vectors: half a cache line past the cache", "convert_elements.h", "how.past = how.past && (uintptr_t)(to + (size_t)head * size) % STREAM_LINE == 0;", "", tests=ELEMENTS),
    in_c("casts in the caller's rounding mode", "cast.c", "const unsigned environment = pfo_enter_default_floats();\n    for (int64_t i = begin * PFO_CHUNK_ELEMENTS; i < last; i += step)", "const unsigned environment = 0x5f80;\n    for (int64_t i = begin * PFO_CHUNK_ELEMENTS; i < last; i += step)", tests="test_cast"),
]  # fmt: skip

IN_PLACE = [
    in_c("scale: tail not looked at", "scale_body.h", "= body_check_run(data + whole, count - whole);", "= 0;", tests="test_scale"),
    in_c("scale: tail not scaled", "scale_body.h", "= body_scale_run(data + whole, count - whole, factor);", "= 0;", tests="test_scale"),
    in_c("scale: nothing multiplied", "scale_body.h", "data[i] = data[i] * factor;", "", tests="test_scale"),
    in_c("clamp: no upper bound", "scale_body.h", "raised > high ? high : raised", "raised", tests="test_scale"),
]  # fmt: skip

C_MUTANTS = [*COMMON, *ADAMW, *OTHERS, *VECTORS, *STEPS, *ROUNDING, *CONVERSIONS, *ELEMENT_VECTORS, *IN_PLACE]

ADAMW_TESTS = "tests/torch/test_adamw.py::"
PLAN_TESTS = "tests/torch/test_optimizer_plan.py::"

SCALER_TESTS = "tests/torch/test_amp_scaler.py::"
STEP_C = "csrc/bindings/train/plan_step.c"

PYTHON_MUTANTS = [
    in_python("bindings: gradient of the first step", STEP_C, "pfo_plan_set_grad(self->plan, slot->entry, 1, grad.data,", "pfo_plan_set_grad(self->plan, slot->entry, 1, self->plan->entries[slot->entry].data[PFO_ROLE_GRAD] != NULL ? self->plan->entries[slot->entry].data[PFO_ROLE_GRAD] : grad.data,", ADAMW_TESTS + "test_several_steps_follow_torch"),
    in_python("bindings: found_inf is one", STEP_C, "request->found_inf = found != 0.0;", "request->found_inf = found == 1.0;", PLAN_TESTS + "test_found_inf_of_any_size_skips_the_step"),
    in_python("bindings: loss scale ignored", STEP_C, "request->unscale = 1.0 / scale;", "request->unscale = 1.0;", PLAN_TESTS + "test_gradients_are_divided_by_their_scale_first"),
    in_python("python: clip not passed on", "perfopt/optim/_base.py", "            self.max_grad_norm,\n            looks,", "            None,\n            looks,", ADAMW_TESTS + "test_several_steps_follow_torch"),
    in_python("python: skipped steps not counted", "perfopt/optim/_base.py", "scaling.add_overflow(1.0)\n            self._skipped_steps += 1", "scaling.add_overflow(1.0)", ADAMW_TESTS + "test_a_nonfinite_step_changes_nothing_and_is_counted"),
    in_python("python: state of a skipped step stays", "perfopt/optim/_base.py", "self._forget_state(created)\n        else:", "pass\n        else:", ADAMW_TESTS + "test_a_nonfinite_step_changes_nothing_and_is_counted"),
    in_python("python: versions stand still", "perfopt/optim/_base.py", "torch.autograd.graph.increment_version(self._plan.written())", "pass", ADAMW_TESTS + "test_version_counters_move_so_that_autograd_notices"),
    in_python("amp: found_inf is one", "perfopt/optim/_loss_scale.py", "if float(found) != 0:", "if float(found) == 1:", SCALER_TESTS + "test_anything_but_zero_in_found_inf_skips"),
    in_python("amp: an overflow is one", "perfopt/amp/scaler.py", "self._advance_on_host(scale, growth, any(float(tensor) != 0", "self._advance_on_host(scale, growth, any(float(tensor) == 1", SCALER_TESTS + "test_an_overflow_counted_more_than_once_is_one"),
    in_python("amp: the scale never grows", "perfopt/amp/scale_rule.py", "if grown != self.growth_interval:", "if grown:", SCALER_TESTS + "test_states_follow_torch_step_by_step"),
    in_python("amp: the scale never backs off", "perfopt/amp/scale_rule.py", "return max(float32(scale * self.backoff_factor), min(scale, self.min_scale)),", "return scale,", SCALER_TESTS + "test_states_follow_torch_step_by_step"),
    in_python("amp: no floor", "perfopt/amp/scale_rule.py", "max(float32(scale * self.backoff_factor), min(scale, self.min_scale))", "float32(scale * self.backoff_factor)", SCALER_TESTS + "test_the_floor_holds_and_then_tells"),
]  # fmt: skip
