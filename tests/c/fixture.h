/* fixture.h: a made-up file tree in a temporary directory, for code that reads /proc and cgroup files below a root. */
#ifndef PFO_TESTS_FIXTURE_H
#define PFO_TESTS_FIXTURE_H

#include "check.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct fixture {
    char root[64];
} fixture;

static inline fixture
fixture_new(void)
{
    fixture made;
    (void)strcpy(made.root, "/tmp/perfopt-test-XXXXXX");
    REQUIRE(mkdtemp(made.root) != NULL);
    return made;
}

/* Writes text to root/name and makes the directories above it. */
static inline void
fixture_write(const fixture *tree, const char *name, const char *text)
{
    char path[8192];
    REQUIRE(snprintf(path, sizeof path, "%s/%s", tree->root, name) < (int)sizeof path);
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL);
    REQUIRE(fputs(text, file) >= 0);
    REQUIRE(fclose(file) == 0);
}

static inline int
fixture_remove_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)kind;
    (void)place;
    return remove(path);
}

static inline void
fixture_delete(const fixture *tree)
{
    REQUIRE(nftw(tree->root, fixture_remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

#endif
