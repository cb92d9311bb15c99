/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target once over every file of the directories that are named: the corpus as an ordinary test. */
#include <dirent.h>
#include <stdio.h>

#include "base/fd.h"

#define CORPUS_FILE_LIMIT (16U * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
    _cleanup_free_ char *data = NULL;
    uint8_t *exact;
    size_t size;
    int r = file_read(path, CORPUS_FILE_LIMIT, &data, &size, NULL);

    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return r;
    }
    exact = malloc(size ? size : 1); /* without a NUL behind it, so that a read past the end is seen */
    if (!exact)
        return -ENOMEM;
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned files = 0;

    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        struct dirent *entry;

        if (!dir) {
            perror(argv[i]);
            return EXIT_FAILURE;
        }
        while ((entry = readdir(dir))) {
            _cleanup_free_ char *path = NULL;

            if (entry->d_name[0] == '.')
                continue;
            if (asprintf(&path, "%s/%s", argv[i], entry->d_name) < 0 || run_file(path) < 0)
                return EXIT_FAILURE;
            files++;
        }
        closedir(dir);
    }
    printf("%u files\n", files);
    return files ? EXIT_SUCCESS : EXIT_FAILURE;
}
