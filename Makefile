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
C_HEADERS := $(wildcard csrc/*/*.h csrc/bindings/*/*.h)

.PHONY: all setup demo test test-c asan tsan lint format bench spec cuda clean

all: setup

## setup: system packages, virtual environment, build (shared by demo and test)
setup: $(STAMP)/built

$(STAMP)/system: tools/system_packages.sh
	@mkdir -p $(STAMP)
	@bash tools/system_packages.sh $(PYTHON)
	@touch $@

$(STAMP)/venv: $(STAMP)/system pyproject.toml tools/make_venv.sh
	@bash tools/make_venv.sh $(PYTHON) $(VENV)
	@touch $@

$(STAMP)/built: $(STAMP)/venv setup.py csrc/flags.mk $(C_SOURCES) $(C_HEADERS)
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
TSAN_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*thread*.c tests/c/test_pool.c tests/c/test_recorder.c tests/c/test_sampler.c))
PURE_SOURCES := $(wildcard csrc/base/*.c csrc/cache/*.c csrc/profiler/*.c csrc/monitor/*.c csrc/kernels/*.c csrc/backend/*.c)

# $(1) lane, $(2) extra flags
define c_lane
$(BUILD)/c-$(1)/%.o: %.c $(C_HEADERS) tests/c/check.h csrc/flags.mk
	@mkdir -p $$(dir $$@)
	@$(CC) $(PFO_CSTD) -Icsrc -DPFO_TESTING $(PFO_WARN) -Werror -pthread $(2) $$(PFO_FILE_$$(basename $$(notdir $$<))) -c $$< -o $$@

$(BUILD)/c-$(1)/libperfopt.a: $(patsubst %.c,$(BUILD)/c-$(1)/%.o,$(PURE_SOURCES))
	@rm -f $$@ && ar rcs $$@ $$^

$(BUILD)/c-$(1)/test_%: $(BUILD)/c-$(1)/tests/c/test_%.o $(BUILD)/c-$(1)/libperfopt.a
	@$(CC) $(2) -pthread $$^ -o $$@ -ldl -lm
endef
$(eval $(call c_lane,plain,-O2 -g))
$(eval $(call c_lane,asan,-O1 -g -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer))
$(eval $(call c_lane,tsan,-O1 -g -fsanitize=thread))
.PRECIOUS: $(BUILD)/%.o

run_c = @set -e; for t in $(1); do echo "$$t"; $$t; done

test-c: $(C_TESTS:%=$(BUILD)/c-plain/%)
	$(call run_c,$^)
asan: $(C_TESTS:%=$(BUILD)/c-asan/%)
	$(call run_c,$^)
tsan: $(TSAN_TESTS:%=$(BUILD)/c-tsan/%)
	$(call run_c,$^)

clean:
	rm -rf $(BUILD) perfopt/*.so perfopt/_backends *.egg-info
