# One command each. `make demo` and `make test` set up what is missing first; see CONTRIBUTING.md for the lanes.
SHELL := /bin/bash
.DELETE_ON_ERROR:
include csrc/flags.mk
comma := ,

PYTHON ?= python3
CC ?= gcc
VENV := .venv
BIN := $(VENV)/bin
BUILD := build
STAMP := $(BUILD)/stamps

C_SOURCES := $(wildcard csrc/*/*.c csrc/bindings/*/*.c)
C_HEADERS := $(wildcard csrc/*/*.h csrc/bindings/*/*.h cuda/*.h)

.PHONY: all setup demo test test-c test-neon asan tsan tsan-python mutants valgrind lint format bench bench-gpu spec wheel cuda clean

all: setup

## setup: system packages, virtual environment, build (shared by demo and test)
setup: $(STAMP)/built

$(STAMP)/system: tools/system_packages.sh
	@mkdir -p $(STAMP)
	@bash tools/system_packages.sh $(PYTHON)
	@touch $@

# In the environment, not in build/: who removes the one has not got the other.
$(VENV)/.stamp: $(STAMP)/system pyproject.toml tools/make_venv.sh
	@bash tools/make_venv.sh $(PYTHON) $(VENV)
	@touch $@

$(STAMP)/built: $(VENV)/.stamp setup.py csrc/flags.mk $(C_SOURCES) $(C_HEADERS)
	@echo "building the extension modules"
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

## demo: the main job on real data
demo: $(STAMP)/built
	@$(BIN)/perfopt demo

## test: the whole suite
test: $(STAMP)/built
	@$(BIN)/python -m pytest

## test-c, asan, tsan: the pure-C parts as C programs, plain and under the sanitizers
C_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
TSAN_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*thread*.c tests/c/test_pool.c tests/c/test_disk_payload.c tests/c/test_cast.c tests/c/test_execute.c tests/c/test_scale.c tests/c/test_walk.c tests/c/test_loader.c tests/c/test_recorder.c tests/c/test_calltree.c tests/c/test_spans.c tests/c/test_capture_live.c tests/c/test_sampler.c))
FORMATTED = $(C_SOURCES) $(C_HEADERS) $(wildcard tests/c/*.[ch] tests/emulator/*.[ch] tests/emulator/*.cpp tests/crash/*.c cuda/*.cu cuda/*.cuh cuda/dev/*.cu benchmarks/c/*.c)
PURE_SOURCES := $(wildcard csrc/base/*.c csrc/cache/*.c csrc/profiler/*.c csrc/monitor/*.c csrc/kernels/*.c csrc/backend/*.c)

# Backends that the loader must take or refuse, made from one file.
FAKES := $(foreach kind,good version size nosymbol nodriver nodevice,fake_$(kind).so)

# Tests of a device, which are run on the double and, where there is a C++ compiler, on the emulated one.
# AddressSanitizer clears a whole stack at each switch of fibers: minutes for these.
SLOW_FIBERS := test_device_table test_device_roles test_device_fingerprint
DEVICE_TESTS := $(SLOW_FIBERS) test_execute_device
HAVE_CXX := $(if $(CXX),$(shell command -v $(firstword $(CXX))))
# The kernels of cuda/ themselves, compiled for the host over an emulated device (tests/emulator/cuda_runtime.h).
EMULATED := $(basename $(notdir $(wildcard cuda/*.cu)))
EMULATOR_HEADERS := $(C_HEADERS) $(wildcard cuda/*.cuh tests/emulator/*.h) csrc/flags.mk
EMULATOR_FLAGS := $(PFO_EMULATOR)

NEON := aarch64-linux-gnu

# $(1) lane, $(2) extra flags, $(3) compiler, $(4) libraries, $(5) flags of single files that it does not know
define c_lane
$(BUILD)/c-$(1)/%.o: %.c $(C_HEADERS) tests/c/check.h csrc/flags.mk
	@mkdir -p $$(dir $$@)
	@$(3) $(PFO_CSTD) -Icsrc -DPFO_TESTING $(PFO_WARN) -Werror -pthread $(2) $$(filter-out $(5),$$(PFO_FILE_$$(basename $$(notdir $$<)))) -c $$< -o $$@

$(BUILD)/c-$(1)/libperfopt.a: $(patsubst %.c,$(BUILD)/c-$(1)/%.o,$(PURE_SOURCES))
	@rm -f $$@ && ar rcs $$@ $$^

$(BUILD)/c-$(1)/test_%: $(BUILD)/c-$(1)/tests/c/test_%.o $(BUILD)/c-$(1)/libperfopt.a
	@$(3) $(2) -pthread $$(filter %.o %.a,$$^) -o $$@ $(4) -ldl -lm

$(BUILD)/c-$(1)/fake_%.so: tests/c/fake_backend.c $(C_HEADERS) csrc/flags.mk
	@mkdir -p $$(dir $$@)
	@$(3) $(PFO_CSTD) -Icsrc -DFAKE_$$* $(PFO_WARN) -Werror $(2) -ffp-contract=off -fPIC -shared $$< -o $$@ -lm

$(BUILD)/c-$(1)/fake_nvml.so: tests/c/fake_nvml.c csrc/flags.mk
	@mkdir -p $$(dir $$@)
	@$(3) $(PFO_CSTD) $(PFO_WARN) -Werror $(2) -fPIC -shared $$< -o $$@
$(BUILD)/c-$(1)/test_nvml: $(BUILD)/c-$(1)/fake_nvml.so

$(BUILD)/c-$(1)/emulated_%.o: cuda/%.cu tests/emulator/kernels.cpp $(EMULATOR_HEADERS)
	@mkdir -p $$(dir $$@)
	@$$(CXX) $(EMULATOR_FLAGS) $(2) -DEMULATED_$$* -c tests/emulator/kernels.cpp -o $$@
$(BUILD)/c-$(1)/emulator.o: tests/emulator/emulator.cpp $(EMULATOR_HEADERS)
	@mkdir -p $$(dir $$@)
	@$$(CXX) $(EMULATOR_FLAGS) $(2) -c $$< -o $$@
$(BUILD)/c-$(1)/emulated_alloc.o: csrc/base/alloc.c $(C_HEADERS) csrc/flags.mk
	@mkdir -p $$(dir $$@)
	@$(3) $(PFO_CSTD) -Icsrc -DPFO_TESTING $(PFO_WARN) -Werror $(2) -fPIC -fvisibility=hidden -c $$< -o $$@
$(BUILD)/c-$(1)/emulated.so: $(EMULATED:%=$(BUILD)/c-$(1)/emulated_%.o) $(BUILD)/c-$(1)/emulated_alloc.o $(BUILD)/c-$(1)/emulator.o
	@$$(CXX) $(2) -shared $$^ -o $$@ -lm

$(BUILD)/c-$(1)/test_cuda: $(BUILD)/c-$(1)/tests/emulator/test_cuda.o $(BUILD)/c-$(1)/libperfopt.a
	@$(3) $(2) -pthread $$(filter %.o %.a,$$^) -o $$@ $(4) -ldl -lm
.PHONY: test-emulated-$(1)
ifneq ($(HAVE_CXX),)
test-emulated-$(1): $(BUILD)/c-$(1)/emulated.so $(patsubst %,$(BUILD)/c-$(1)/%,$(filter-out $(if $(filter asan,$(1)),$(SLOW_FIBERS)),$(DEVICE_TESTS)) test_cuda)
	$$(call run_c,$$(filter-out %.so,$$^),emulated.so)
else
test-emulated-$(1):
	@echo "skipped: the CUDA sources are not run on an emulated device, for want of a C++ compiler ($(CXX); Debian package g++)"
endif

$(BUILD)/c-$(1)/test_loader $(BUILD)/c-$(1)/test_device_table $(BUILD)/c-$(1)/test_execute_device $(BUILD)/c-$(1)/test_device_fingerprint $(BUILD)/c-$(1)/test_device_roles: $(FAKES:%=$(BUILD)/c-$(1)/%)
endef
$(eval $(call c_lane,plain,-O2 -g,$(CC),$(PFO_LIBS)))
$(eval $(call c_lane,asan,-O1 -g -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer,$(CC),$(PFO_LIBS)))
$(eval $(call c_lane,tsan,-O1 -g -fsanitize=thread,$(CC),$(PFO_LIBS)))
# Debian has no zstd for a foreign processor beside ours; the tests of this lane need none.
$(eval $(call c_lane,neon,-O2 -g,$(NEON)-gcc,,-m%))
# Only these: a bare .SECONDARY would make every missing file, the environment's stamp too, one that needs no remaking.
.SECONDARY: $(foreach lane,plain asan tsan neon,$(patsubst %.c,$(BUILD)/c-$(lane)/%.o,$(wildcard tests/c/test_*.c)))

# Over-large requests are part of the tests: the sanitizers' allocators shall refuse them as malloc does.
# As many at a time as there are processors; what one prints stays together.
run_c = @export ASAN_OPTIONS=allocator_may_return_null=1 TSAN_OPTIONS=allocator_may_return_null=1; printf '%s\n' $(1) | \
	xargs -P "$$(nproc)" -I{} sh -c 'said=$$({} $(2) 2>&1); rc=$$?; printf "%s\n" "{} $(2)" "$$said"; exit $$rc'

test-c: $(C_TESTS:%=$(BUILD)/c-plain/%) test-emulated-plain
	$(call run_c,$(filter $(BUILD)/%,$^))
asan: $(C_TESTS:%=$(BUILD)/c-asan/%) test-emulated-asan
	$(call run_c,$(filter $(BUILD)/%,$^))
tsan: $(TSAN_TESTS:%=$(BUILD)/c-tsan/%)
	$(call run_c,$^)

## tsan-python: the extension modules under ThreadSanitizer, as threads of Python use them. CPython itself is not instrumented, but its
## locks are seen, so that what the GIL keeps apart is no race. Memory figures are not those of malloc here: such tests are left out.
TSAN_PYTHON := $(foreach name,single_flight flights profiler capture performance_cache recording cache cache_disk cache_reentrancy \
	disk_store,../../../tests/python/test_$(name).py)
tsan-python: $(STAMP)/built
	@PERFOPT_SANITIZE=thread PERFOPT_CUDA=off $(BIN)/python setup.py -q build --build-base $(BUILD)/tsan-python/base \
		--build-lib $(BUILD)/tsan-python/lib
	@cd $(BUILD)/tsan-python/lib && LD_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" \
		TSAN_OPTIONS="suppressions=$(CURDIR)/tools/tsan.supp report_thread_leaks=0 die_after_fork=0 exitcode=66" \
		$(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider -k "not memory_of" $(TSAN_PYTHON)

## test-neon: pure C compiled for AArch64, and the kernels' tests run there by an emulator (which cannot fork from threads: no test_pool)
NEON_TESTS := $(filter $(patsubst csrc/kernels/%.c,test_%,$(wildcard csrc/kernels/*.c)) test_kernels test_convert_elements test_alloc test_cpu,\
	$(filter-out test_execute_device,$(C_TESTS)))
NEON_MISSING := $(strip $(if $(shell command -v $(NEON)-gcc),,gcc-$(NEON)) \
	$(if $(wildcard /usr/$(NEON)/include/stdio.h),,libc6-dev-arm64-cross) \
	$(if $(shell command -v qemu-aarch64),,qemu-user))
ifeq ($(NEON_MISSING),)
test-neon: $(NEON_TESTS:%=$(BUILD)/c-neon/%)
	@set -e; for t in $^; do echo "$$t"; qemu-aarch64 -L /usr/$(NEON) $$t; done
else
test-neon:
	@echo "skipped: AArch64 is not tested here, for want of the Debian packages $(NEON_MISSING)"
endif

## mutants: break the optimizer step on purpose, one way at a time; the tests must notice each (MUTANTS="ignored beta": only those)
mutants: $(STAMP)/built
	@$(BIN)/python tools/mutation_gate.py $(MUTANTS)

## valgrind: the cache's C tests under memcheck, which sees reads of memory that nobody wrote; minutes, so no part of .ci/run
CACHE_TESTS := $(filter $(patsubst csrc/cache/%.c,test_%,$(wildcard csrc/cache/*.c)),$(C_TESTS))
valgrind: $(CACHE_TESTS:%=$(BUILD)/c-plain/%)
	@command -v valgrind >/dev/null || { echo "valgrind is missing; please run: apt-get install valgrind" >&2; exit 1; }
	@set -e; for t in $^; do echo "$$t"; PERFOPT_CPU=scalar valgrind -q --error-exitcode=9 --leak-check=full \
		--errors-for-leak-kinds=definite,possible $$t; done

# What the proofs in tests/crash run: the disk tier as a program, and the library that makes its system calls fail.
$(BUILD)/crash/disk_driver: tests/crash/disk_driver.c $(BUILD)/c-plain/libperfopt.a
	@mkdir -p $(@D)
	@$(CC) $(PFO_CSTD) -Icsrc $(PFO_WARN) -Werror -O2 -g -pthread $^ -o $@ $(PFO_LIBS) -ldl -lm

$(BUILD)/crash/fail_shim.so: tests/crash/fail_shim.c
	@mkdir -p $(@D)
	@$(CC) $(PFO_CSTD) -Wall -Wextra -Wshadow -Werror -O1 -g -fPIC -shared -pthread $< -o $@ -ldl

# What tests/python/test_exports.py runs: the exporters as a program.
$(BUILD)/export/export_driver: tests/c/export_driver.c tests/c/export_fixture.h $(BUILD)/c-plain/libperfopt.a
	@mkdir -p $(@D)
	@$(CC) $(PFO_CSTD) -Icsrc $(PFO_WARN) -Werror -O2 -g -pthread $(filter %.c %.a,$^) -o $@ $(PFO_LIBS) -ldl -lm

## lint: formatting, types and style; changes nothing
lint: $(STAMP)/built
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest perfopt._core perfopt._train --ignore-missing-stub \
		--mypy-config-file pyproject.toml
	@$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

## format: what lint asks for, done
format: $(STAMP)/built
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .
	@$(BIN)/clang-format -i $(FORMATTED)

## bench: side by side with peers; rows go to benchmarks/results and docs/performance.md. BENCH=file narrows it
BENCH ?= benchmarks
bench: $(STAMP)/bench
	@$(BIN)/python -m pytest $(BENCH) -q -p no:cacheprovider --benchmark-columns=rounds
	@$(BIN)/python tools/performance_page.py
	@cat benchmarks/results/table.md

## bench-gpu: the CUDA path against torch on this machine's GPU; without one it says so
bench-gpu: $(STAMP)/built
	@$(BIN)/python benchmarks/gpu/bench_gpu.py || [ $$? -eq 3 ]

$(STAMP)/bench: $(STAMP)/built
	@$(BIN)/python -m pip --disable-pip-version-check -q install --no-build-isolation --editable ".[torch,bench]"
	@touch $@

## spec: which promised rows the last passing test run has shown
spec: $(STAMP)/built
	@$(BIN)/python tools/spec_report.py --missing

## wheel: a wheel in dist/
wheel: $(STAMP)/built
	@$(BIN)/python -m pip --disable-pip-version-check -q wheel --no-build-isolation --no-deps -w dist .

## cuda: the CUDA backend, with what the compiler says about it in build/cuda (needs nvcc)
cuda:
	@bash cuda/build.sh

clean:
	rm -rf $(BUILD) perfopt/*.so perfopt/_backends *.egg-info
