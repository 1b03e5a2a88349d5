/* fake_nvml.c: a driver library whose answers a test sets through fake_nvml. */
#include <stddef.h>

struct fake_nvml {
    int start, count, handle, read; /* what each call returns */
    unsigned devices;
    unsigned long long total;
    int starts; /* calls of nvmlInit_v2() */
    int ends;   /* calls of nvmlShutdown() */
    int lost;   /* number, from 1, of the device of which `handle` and `read` are; 0: of all */
};

typedef struct memory {
    unsigned long long total, free, used;
} memory;

extern struct fake_nvml fake_nvml;
struct fake_nvml fake_nvml = { .devices = 2, .total = 1000 };

int nvmlInit_v2(void);
int nvmlShutdown(void);
const char *nvmlErrorString(int error);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetMemoryInfo(void *device, memory *figures);

int
nvmlInit_v2(void)
{
    fake_nvml.starts++;
    return fake_nvml.start;
}

int
nvmlShutdown(void)
{
    fake_nvml.ends++;
    return 0;
}

const char *
nvmlErrorString(int error)
{
    return error == 15 ? "GPU is lost" : NULL;
}

int
nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = fake_nvml.devices;
    return fake_nvml.count;
}

int
nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = (char *)NULL + index + 1;
    return fake_nvml.lost == 0 || fake_nvml.lost == (int)index + 1 ? fake_nvml.handle : 0;
}

int
nvmlDeviceGetMemoryInfo(void *device, memory *figures)
{
    const unsigned long long of = (unsigned long long)((char *)device - (char *)NULL);
    *figures =
        (memory){ fake_nvml.total * of, fake_nvml.total * of / 4, fake_nvml.total * of - fake_nvml.total * of / 4 };
    return fake_nvml.lost == 0 || fake_nvml.lost == (int)of ? fake_nvml.read : 0;
}
