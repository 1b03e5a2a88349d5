# One truth for compiler flags: read by the Makefile (include) and by setup.py (parsed line by line).
# Plain "NAME = value" lines only.

PFO_CSTD = -std=c11 -D_GNU_SOURCE
PFO_OPT = -O3 -fvisibility=hidden -fno-semantic-interposition -pthread
PFO_WARN = -Wall -Wextra -Wshadow -Wconversion -Wdouble-promotion -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual -Wvla -Wundef -Wformat=2
# Bindings include Python's and NumPy's headers, whose macros are not clean under -Wconversion and -Wcast-qual.
PFO_WARN_BINDINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wno-cast-function-type -Wno-missing-field-initializers

# Libraries that pure C uses (the disk cache compresses with zstd); read by the C lanes and by setup.py.
PFO_LIBS = -lzstd

# Flags of single files (by stem): instruction sets go to the file that is only entered after cpuid said yes.
# Contraction is off wherever arithmetic is specified bit by bit (every variant must round as the scalar reference does).
PFO_FILE_kernels_scalar = -ffp-contract=off
PFO_FILE_operation = -ffp-contract=off
PFO_FILE_kernels_avx2 = -mavx2 -mfma -mf16c -ffp-contract=off
PFO_FILE_kernels_avx512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -ffp-contract=off
PFO_FILE_cast = -ffp-contract=off
PFO_FILE_kernels_neon = -ffp-contract=off
PFO_FILE_convert_scalar = -ffp-contract=off
PFO_FILE_convert_avx2 = -mavx2 -mfma -mf16c -ffp-contract=off
PFO_FILE_convert_avx512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -ffp-contract=off
PFO_FILE_convert_neon = -ffp-contract=off
PFO_FILE_blocks_avx2 = -mavx2 -ffp-contract=off
PFO_FILE_blocks_avx512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -ffp-contract=off
PFO_FILE_scale_scalar = -ffp-contract=off
PFO_FILE_scale_avx2 = -mavx2 -ffp-contract=off
PFO_FILE_scale_avx512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -ffp-contract=off -mprefer-vector-width=512
PFO_FILE_xxh_avx2 = -mavx2
PFO_FILE_xxh_avx512 = -mavx512f -mavx2

# CUDA backend (cuda/build.sh reads these). No contraction and no fast math: arithmetic rounds as on the CPU.
PFO_NVCC = -std=c++17 -O3 -fmad=false -lineinfo -Xptxas -v -Icsrc -Icuda -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-Wall,-Wextra
PFO_NVCC_ARCH = -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90,code=compute_90
PFO_NVCC_LINK = -shared -cudart static -Xlinker --exclude-libs,ALL,--as-needed,-z,defs

# The same sources for the host, over the emulated device of tests/emulator (Makefile). Shared memory is static there, and the backend's
# structs hold types of their own file.
PFO_EMULATOR = -std=c++17 -O2 -g -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-variable -Wno-subobject-linkage -ffp-contract=off -fPIC -fvisibility=hidden -Itests/emulator -Icsrc -Icuda
