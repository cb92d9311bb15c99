/* SPDX-License-Identifier: Apache-2.0 */
/* cloud-init input: the members of a manifest's cloudInitNoCloud or cloudInitConfigDrive volume, and the files of a
 * mounted secret, become the files of a data source: meta data that is JSON, user data that is what was given. The
 * first byte chooses the kind of volume and where the text comes from. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/fd.h"
#include "base/utf8.h"
#include "storage/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONFIG_DRIVE = 1, BASE64 = 2, SECRET = 4, NETWORK = 8 };

static char directory[64];

static void make_directory(void)
{
    if (*directory)
        return;
    snprintf(directory, sizeof(directory), "/tmp/fuzz-cloud-init-%d", (int)getpid());
    if (mkdir(directory, 0700) < 0 && errno != EEXIST)
        abort();
}

static void remove_directory(void)
{
    remove_tree(directory);
}

static void write_file(const char *name, const char *text, size_t length)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, text, length) < 0)
        abort();
    close(fd);
}

/* The text is the user data, and wherever a manifest could have it (which is UTF-8) name, UUID and tag. */
static void collect(unsigned kind, char *text, size_t length)
{
    struct vmi_cloud_init ci = {0};
    struct vmi_volume volume = {.name = "ci"};
    struct storage_volume storage_volume = {.volume = &volume};
    struct volume_plan plan = {.content = kind & CONFIG_DRIVE ? CONTENT_CONFIG_DRIVE : CONTENT_NO_CLOUD};
    char *said = utf8_valid_prefix(text, strlen(text)) == strlen(text) ? text : NULL;
    struct vmi_interface nic = {.name = "default", .tag = said};
    struct vmi vmi = {.name = said ? said : "vm", .namespace_ = "ns"};
    struct storage storage = {.vmi = &vmi, .volumes = &storage_volume, .plans = &plan, .count = 1};
    struct iso_files files = {0};
    struct error *error = NULL;
    struct faults faults = {0};
    int r;

    vmi.spec.domain.firmware.uuid = said;
    vmi.spec.domain.devices.interfaces.items = &nic;
    vmi.spec.domain.devices.interfaces.count = 1;
    if (kind & CONFIG_DRIVE)
        volume.cloud_init_config_drive = &ci;
    else
        volume.cloud_init_no_cloud = &ci;
    if (kind & SECRET) {
        write_file("userdata", text, length);
        plan.source_dir = directory;
    } else if (kind & BASE64) {
        ci.user_data_base64 = text;
    } else {
        ci.user_data = text;
    }
    if (kind & NETWORK)
        ci.network_data = text;
    if (kind & BASE64)
        cloud_init_check(&volume, &faults);
    r = cloud_init_collect(&storage, 0, &files, &error);
    assert((r < 0) == (error != NULL));
    if (r >= 0) {
        json_t *meta = json_loadb(files.items[0].data, files.items[0].length, JSON_REJECT_DUPLICATES, NULL);

        assert(files.count == (kind & NETWORK ? 3 : 2) && json_is_object(meta));
        json_decref(meta);
        if (!(kind & BASE64) || (kind & SECRET))
            assert(files.items[1].length == (kind & SECRET ? length : strlen(text)) &&
                   memcmp(files.items[1].data, text, files.items[1].length) == 0);
    }
    iso_files_done(&files);
    faults_done(&faults);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *text = NULL;

    if (size < 1)
        return 0;
    if (!*directory) {
        make_directory();
        atexit(remove_directory);
    }
    text = malloc(size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    collect(data[0], text, size - 1);
    return 0;
}
