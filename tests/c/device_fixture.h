/* device_fixture.h: opens the backend of a test program: the double fake_good.so that lies beside it, or what its argument names there:
 * emulated.so is cuda/<name>.cu itself on an emulated device (tests/emulator). */
#ifndef PFO_TESTS_DEVICE_FIXTURE_H
#define PFO_TESTS_DEVICE_FIXTURE_H

#include "check.h"

#include "backend/loader.h"

#include <libgen.h>
#include <limits.h>
#include <unistd.h>

static inline const pfo_backend *
open_device(int argc, char **argv)
{
    char self[PATH_MAX / 2];
    char path[PATH_MAX];
    char reason[PFO_BACKEND_REASON];
    const pfo_backend *backend = NULL;
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    REQUIRE(length > 0);
    self[length] = '\0';
    (void)snprintf(path, sizeof path, "%s/%s", dirname(self), argc > 1 ? argv[1] : "fake_good.so");
    REQUIRE(pfo_backend_open(path, &backend, reason, sizeof reason));
    return backend;
}

#endif
