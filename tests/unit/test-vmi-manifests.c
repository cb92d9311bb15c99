/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/golden/manifests: every manifest there loads without a fault; those in bad/ give exactly the lines of NAME.err.
 * An .err without manifest is a failure. VMLET_UPDATE_GOLDEN=1 writes the .err files anew.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include <vmlet/vmi.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/util.h"
#include "json/faults.h"

#include "vmlet-config.h"

static const char *directory;

/* Faults name the version of the program; golden files say VERSION instead. */
static char *without_version(char *text)
{
    char *at;

    while ((at = strstr(text, "vmlet " VMLET_VERSION))) {
        size_t n = strlen(VMLET_VERSION), m = strlen("VERSION");
        char *longer = malloc(strlen(text) + m + 1);

        assert_non_null(longer);
        sprintf(longer, "%.*sVERSION%s", (int)(at - text) + 6, text, at + 6 + n);
        free(text);
        text = longer;
    }
    return text;
}

/* The loader's output for a file; NULL when it loads. */
static char *faults_of(const char *name)
{
    struct faults faults = {0};
    struct vmi *vmi = NULL;
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *text = NULL;
    char path[4096], *got;
    size_t length;
    int r;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    assert_int_equal(file_read(path, SIZE_MAX / 2, &text, &length, NULL), 0);
    r = vmi_load_text(text, length, name, NULL, &vmi, &faults, &error);
    got = faults_format(&faults);
    assert_non_null(got);
    got = without_version(got);
    if (r < 0) {
        assert_int_equal(r, -EINVAL);
        assert_int_equal(error_exit_code(error), EXIT_BAD_INPUT);
        assert_true(faults.count > 0);
    } else {
        assert_int_equal(faults.count, 0);
        free(got);
        got = NULL;
    }
    faults_done(&faults);
    vmi_free(vmi);
    return got;
}

static bool is_manifest(const char *name)
{
    return endswith(name, ".yaml") || endswith(name, ".json");
}

static void check_bad(const char *name)
{
    _cleanup_free_ char *got = faults_of(name), *expected = NULL;
    char path[4096];
    size_t length;

    if (!got)
        fail_msg("%s loads without a fault", name);
    snprintf(path, sizeof(path), "%s/%s.err", directory, name);
    if (getenv("VMLET_UPDATE_GOLDEN"))
        assert_int_equal(file_write_atomic(path, got, strlen(got), 0644, NULL), 0);
    if (file_read(path, SIZE_MAX / 2, &expected, &length, NULL) < 0)
        fail_msg("%s is missing", path);
    assert_string_equal(got, expected);
}

static void for_each(void (*check)(const char *name), unsigned least)
{
    DIR *d = opendir(directory);
    unsigned n = 0;

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[4096];

        if (is_manifest(e->d_name)) {
            check(e->d_name);
            n++;
        } else if (endswith(e->d_name, ".err")) {
            snprintf(path, sizeof(path), "%s/%.*s", directory, (int)strlen(e->d_name) - 4, e->d_name);
            if (access(path, F_OK) < 0)
                fail_msg("%s belongs to no manifest", e->d_name);
        }
    }
    closedir(d);
    assert_true(n >= least);
}

static void check_good(const char *name)
{
    _cleanup_free_ char *got = faults_of(name);

    if (got)
        fail_msg("%s: %s", name, got);
}

static void test_good(void **state)
{
    for_each(check_good, 30);
}

static void test_bad(void **state)
{
    static char path[4096];

    snprintf(path, sizeof(path), "%s/bad", directory);
    directory = path;
    for_each(check_bad, 20);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};

    if (argc != 2)
        return 2;
    directory = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
