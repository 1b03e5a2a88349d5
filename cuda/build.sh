#!/usr/bin/env bash
# Builds perfopt/_backends/libperfopt_cuda.so from cuda/*.cu with nvcc; run by `make cuda` and by setup.py.
# Leaves what the compiler made in build/cuda: registers.txt (ptxas -v), *.ptx, *.cubin and, where a disassembler is, *.sass.
# Compiles only what changed. nvcc is $NVCC, or that of $CUDA_HOME, of PATH, or of /usr/local/cuda*. Exit: 0 built, 3 no nvcc, else failed.
# cublasLt.h is $PERFOPT_CUBLAS_INCLUDE's, nvcc's own, or that of the Python package nvidia-cublas ($PYTHON's); without it, no matrix products.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=build/cuda
library=perfopt/_backends/libperfopt_cuda.so

flag() { sed -n "s/^$1 = //p" csrc/flags.mk; }

find_tool() { # name: the first that can be run, or nothing
    local candidate
    for candidate in ${CUDA_HOME:+"$CUDA_HOME/bin/$1"} "$(command -v "$1" || true)" /usr/local/cuda/bin/"$1" /usr/local/cuda-*/bin/"$1"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
}

nvcc=${NVCC:-$(find_tool nvcc)}
if [ -z "$nvcc" ]; then
    echo "make cuda: no nvcc found (looked at NVCC, CUDA_HOME, PATH, /usr/local/cuda*); perfopt works without it, on the CPU" >&2
    exit 3
fi
if [ "${1:-}" = --find ]; then
    echo "$nvcc"
    exit 0
fi
mkdir -p "$out" "$(dirname "$library")"

find_cublaslt() { # the folder of cublasLt.h, or nothing
    local candidate packages
    packages=$(${PYTHON:-python3} -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2> /dev/null || true)
    for candidate in "${PERFOPT_CUBLAS_INCLUDE:-}" "$(dirname "$(dirname "$(readlink -f "$nvcc")")")/include" "$packages"/nvidia/cu*/include "$packages"/nvidia/cublas/include; do
        if [ -n "$candidate" ] && [ -f "$candidate/cublasLt.h" ]; then
            echo "$candidate"
            return
        fi
    done
}

cublaslt=$(find_cublaslt)
matmul_flags=(${cublaslt:+-DPFO_HAVE_CUBLASLT -isystem "$cublaslt"}) # after the toolkit's own headers
echo "${matmul_flags[*]}" > "$out/matmul.flags.new"
cmp -s "$out/matmul.flags.new" "$out/matmul.flags" || mv "$out/matmul.flags.new" "$out/matmul.flags"
rm -f "$out/matmul.flags.new"

compile() { # stem of cuda/<stem>.cu
    local keep=$out/$1.keep
    local more=()
    if [ "$1" = matmul ]; then
        more=("${matmul_flags[@]}")
    fi
    rm -rf "$keep" && mkdir -p "$keep"
    # shellcheck disable=SC2046
    if ! "$nvcc" $(flag PFO_NVCC) $(flag PFO_NVCC_ARCH) "${more[@]}" --keep --keep-dir "$keep" -c "cuda/$1.cu" -o "$out/$1.new.o" 2> "$out/$1.log"; then
        cat "$out/$1.log" >&2
        return 1
    fi
    grep -v -e '^ptxas info' -e 'bytes stack frame' "$out/$1.log" >&2 || true
    cp "$keep"/*.ptx "$keep"/*.cubin "$out"/
    rm -rf "$keep"
    mv "$out/$1.new.o" "$out/$1.o"
}

newest_header=$(ls -t cuda/*.h cuda/*.cuh csrc/backend/*.h csrc/kernels/*.h csrc/base/alloc.h csrc/flags.mk cuda/build.sh | head -n 1)
stems=()
jobs=()
for source in cuda/*.cu; do
    stem=$(basename "$source" .cu)
    stems+=("$stem")
    if [ ! "$out/$stem.o" -nt "$source" ] || [ ! "$out/$stem.o" -nt "$newest_header" ] || { [ "$stem" = matmul ] && [ "$out/matmul.flags" -nt "$out/$stem.o" ]; }; then
        compile "$stem" &
        jobs+=($!)
    fi
done
for job in "${jobs[@]}"; do
    wait "$job"
done
# shellcheck disable=SC2046
${CC:-gcc} $(flag PFO_CSTD) $(flag PFO_OPT) $(flag PFO_WARN) -DNDEBUG -fPIC -Icsrc -c csrc/base/alloc.c -o "$out/alloc.o"

# Written beside its place and renamed: a process that has the old library open keeps it.
# shellcheck disable=SC2046
"$nvcc" $(flag PFO_NVCC_LINK) $(printf "$out/%s.o " "${stems[@]}" alloc) -o "$library.new"
mv "$library.new" "$library"

cat $(printf "$out/%s.log " "${stems[@]}") > "$out/registers.txt"
cuobjdump=$(find_tool cuobjdump)
nvdisasm=$(find_tool nvdisasm)
for cubin in "$out"/*.cubin; do
    if [ -n "$cuobjdump" ]; then
        "$cuobjdump" -sass "$cubin" > "${cubin%.cubin}.sass"
    elif [ -n "$nvdisasm" ]; then
        "$nvdisasm" -c "$cubin" > "${cubin%.cubin}.sass"
    fi
done
echo "built $library ($("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/nvcc \1/p')); ${cublaslt:+cuBLASLt from $cublaslt; }reports in $out"
