/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of src/storage share: a directory with a pod's folders, and files in it. */
#pragma once

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "storage/storage.h"

struct lab {
    char directory[64];
    char dirs[7][128];
    struct storage_paths paths; /* in dirs */
};

/* Also in the child of a test, where there is no test to fail. */
static inline void lab_must(bool holds, const char *what)
{
    if (holds)
        return;
    perror(what);
    abort();
}

/* A path in the directory; good until the eighth call after this one. */
_printf_(2, 3) static inline char *lab_path(const struct lab *lab, const char *format, ...)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    int n = snprintf(path, sizeof(paths[0]), "%s/", lab->directory);
    va_list ap;

    va_start(ap, format);
    vsnprintf(path + n, sizeof(paths[0]) - (size_t)n, format, ap);
    va_end(ap);
    return path;
}

/* The folders of a pod, empty. */
static inline void lab_make_pod(struct lab *lab)
{
    static const char *const names[] = {"private", "ephemeral", "container-disks", "hotplug", "empty", "sa", "dev"};

    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        int n = snprintf(lab->dirs[i], sizeof(lab->dirs[i]), "%s/%s", lab->directory, names[i]);

        lab_must(n > 0 && (size_t)n < sizeof(lab->dirs[i]), names[i]);
        lab_must(mkdir(lab->dirs[i], 0755) == 0, lab->dirs[i]);
    }
    lab->paths = (struct storage_paths){lab->dirs[0], lab->dirs[1], lab->dirs[2], lab->dirs[3],
                                        lab->dirs[4], lab->dirs[5], lab->dirs[6]};
}

/* A file, and the folders above it. */
static inline void lab_put(const char *path, const void *data, size_t length)
{
    _cleanup_free_ char *parent = strndup(path, (size_t)(strrchr(path, '/') - path));
    int fd = -1;

    lab_must(parent && mkdir_parents(parent, 0755, NULL) == 0, path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    lab_must(fd >= 0 && fd_write_all(fd, data, length) == 0, path);
    close(fd);
}
