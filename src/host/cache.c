/* SPDX-License-Identifier: Apache-2.0 */
#include "host/cache.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmlet-config.h"

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strv.h"

static char **cache_directories(void)
{
    _cleanup_(strv_freep) char **list = NULL;
    const char *own = getenv("VMLET_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int r;

    if (own && own[0] == '/') {
        r = strv_append(&list, own);
    } else {
        r = strv_append(&list, VMLET_CACHEDIR);
        /* the XDG base directory specification has a relative path ignored */
        if (r == 0 && xdg && xdg[0] == '/')
            r = strv_printf(&list, "%s/vmlet", xdg);
        else if (r == 0 && home && home[0] == '/')
            r = strv_printf(&list, "%s/.cache/vmlet", home);
    }
    return r < 0 ? NULL : TAKE_PTR(list);
}

/* Only a file of root's or our own that nobody else may write: the directory may be one that others can write. */
static json_t *read_file(const char *path)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    size_t length;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return NULL;
    if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return NULL;
    if (fd_read_all(fd, LIMIT_CACHE_BYTES, &text, &length) < 0)
        return NULL;
    return json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
}

json_t *cache_read(const char *name, bool (*is_valid)(const json_t *content, const void *userdata),
                   const void *userdata)
{
    _cleanup_(strv_freep) char **directories = cache_directories();

    STRV_FOREACH (directory, directories) {
        _cleanup_free_ char *path = NULL;
        json_t *content;

        if (asprintf(&path, "%s/%s", *directory, name) < 0) {
            path = NULL;
            return NULL;
        }
        content = read_file(path);
        if (json_is_object(content) && (!is_valid || is_valid(content, userdata)))
            return content;
        json_decref(content);
    }
    return NULL;
}

int cache_write_to(const char *directory, const char *name, const json_t *content, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *text = NULL;
    int r;

    r = mkdir_parents(directory, 0755, ret_error);
    if (r < 0)
        return r;
    text = json_dumps(content, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return error_oom(ret_error);
    if (asprintf(&path, "%s/%s", directory, name) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    return file_write_atomic(path, text, strlen(text), 0644, ret_error);
}

void cache_write(const char *name, const json_t *content)
{
    _cleanup_(strv_freep) char **directories = cache_directories();

    STRV_FOREACH (directory, directories) {
        _cleanup_error_ struct error *error = NULL;

        if (cache_write_to(*directory, name, content, &error) == 0)
            return;
        log_debug("no cache in %s: %s", *directory, error_message(error));
    }
}
