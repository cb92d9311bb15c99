/* SPDX-License-Identifier: Apache-2.0 */
/* The files of the two cloud-init data sources: NoCloud and ConfigDrive (cloud-init's documentation, "Datasources"). */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>

#include "base/base64.h"
#include "storage/private.h"

static const struct vmi_cloud_init *cloud_init_of(const struct vmi_volume *volume)
{
    return volume->cloud_init_no_cloud ? volume->cloud_init_no_cloud : volume->cloud_init_config_drive;
}

static void check_base64(const struct vmi_cloud_init *ci, const char *member, const char *text, struct faults *faults)
{
    _cleanup_free_ char *data = NULL;
    size_t length;

    if (text && base64_decode(text, strlen(text), &data, &length) == -EINVAL)
        faults_add_member(faults, ci->at, member, "is not base64");
}

void cloud_init_check(const struct vmi_volume *volume, struct faults *faults)
{
    const struct vmi_cloud_init *ci = cloud_init_of(volume);

    check_base64(ci, "userDataBase64", ci->user_data_base64, faults);
    check_base64(ci, "networkDataBase64", ci->network_data_base64, faults);
}

/* One of inline text, base64, or a mounted secret. *ret_data stays NULL when the manifest gives none. */
static int load_data(const char *text, const char *base64, const char *directory, const char *const *names,
                     char **ret_data, size_t *ret_length, struct error **ret_error)
{
    if (text) {
        *ret_data = strdup(text);
        *ret_length = strlen(text);
        return *ret_data ? 0 : error_oom(ret_error);
    }
    if (base64) {
        int r = base64_decode(base64, strlen(base64), ret_data, ret_length);

        return r == -ENOMEM ? error_oom(ret_error)
               : r < 0      ? error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "the cloud-init data is not base64")
                            : 0;
    }
    if (directory)
        return files_read_one(directory, names, ret_data, ret_length, ret_error);
    return 0;
}

/* ---- meta data ------------------------------------------------------------------------------------------------- */

/* The name without what stands behind a dot: a Kubernetes name may hold dots, a host name may not. */
static json_t *hostname_of(const struct vmi *vmi)
{
    const char *name = vmi->spec.hostname ? vmi->spec.hostname : vmi->name;

    return json_stringn(name, MIN(vmi->spec.hostname ? strlen(name) : strcspn(name, "."), (size_t)63));
}

static json_t *instance_type_of(const struct vmi *vmi)
{
    const char *type = vmi_annotation(vmi, "kubevirt.io/instancetype-name");

    if (!type)
        type = vmi_annotation(vmi, "kubevirt.io/cluster-instancetype-name");
    return type ? json_string(type) : NULL;
}

/* {"0": "ssh-ed25519 …", …} of the access credentials that go by this data source. */
static int collect_keys(const struct storage *storage, bool config_drive, json_t *meta, const char *member,
                        struct error **ret_error)
{
    const struct vmi_spec *spec = &storage->vmi->spec;
    json_t *keys = json_object();
    int r = 0;

    for (size_t i = 0; i < spec->access_credentials.count && r == 0; i++) {
        const struct vmi_access_credential *c = &spec->access_credentials.items[i];
        _cleanup_(iso_files_done) struct iso_files files = {0};

        if (c->is_password || (config_drive ? !c->config_drive : !c->no_cloud))
            continue;
        r = files_collect(storage->key_dirs[i], &files, ret_error);
        if (r < 0)
            error_wrap(ret_error, r, "SSH keys of the secret %s", c->secret_name);
        for (size_t k = 0; k < files.count && r == 0; k++) {
            size_t length = files.items[k].length;
            const char *data = files.items[k].data;
            char number[24];
            json_t *value;

            while (length > 0 && (data[length - 1] == '\n' || data[length - 1] == '\r'))
                length--;
            snprintf(number, sizeof(number), "%zu", json_object_size(keys));
            value = json_stringn(data, length);
            if (!value)
                r = error_set(ret_error, ERROR_BAD_DATA, EILSEQ, "SSH key %s of the secret %s is not text",
                              files.items[k].path, c->secret_name);
            else
                json_object_set_new(keys, number, value);
        }
    }
    if (r == 0 && json_object_size(keys) > 0)
        json_object_set(meta, member, keys);
    json_decref(keys);
    return r;
}

static void add_device(json_t *devices, const char *type, const char *bus, const char *address, const char *mac,
                       const char *serial, const char *tag)
{
    json_t *device = json_pack("{s:s, s:s, s:[s]}", "type", type, "bus", bus, "tags", tag);

    if (address)
        json_object_set_new(device, "address", json_string(address));
    if (mac)
        json_object_set_new(device, "mac", json_string(mac));
    if (serial)
        json_object_set_new(device, "serial", json_string(serial));
    json_array_append_new(devices, device);
}

/* The devices that carry a tag, so that the guest finds them by it. */
static void collect_devices(const struct vmi *vmi, json_t *meta)
{
    const struct vmi_devices *d = &vmi->spec.domain.devices;
    json_t *devices = json_array();

    for (size_t i = 0; i < d->interfaces.count; i++)
        if (d->interfaces.items[i].tag)
            add_device(devices, "nic", "pci", d->interfaces.items[i].pci_address, d->interfaces.items[i].mac_address,
                       NULL, d->interfaces.items[i].tag);
    for (size_t i = 0; i < d->disks.count; i++) {
        const struct vmi_disk *disk = &d->disks.items[i];
        enum vmi_bus bus = disk->target ? disk->target->bus : VMI_BUS_VIRTIO;

        if (disk->tag)
            add_device(devices, "disk",
                       bus == VMI_BUS_SATA   ? "sata"
                       : bus == VMI_BUS_SCSI ? "scsi"
                       : bus == VMI_BUS_USB  ? "usb"
                                             : "pci",
                       disk->target ? disk->target->pci_address : NULL, NULL, disk->serial, disk->tag);
    }
    for (size_t i = 0; i < d->host_devices.count; i++)
        if (d->host_devices.items[i].tag)
            add_device(devices, "hostdev", "pci", NULL, NULL, NULL, d->host_devices.items[i].tag);
    if (json_array_size(devices) > 0)
        json_object_set(meta, "devices", devices);
    json_decref(devices);
}

static int meta_data(const struct storage *storage, bool config_drive, json_t **ret, struct error **ret_error)
{
    const struct vmi *vmi = storage->vmi;
    json_t *meta = json_object(), *type = instance_type_of(vmi);
    const char *uuid = vmi->spec.domain.firmware.uuid;
    json_t *id = json_sprintf("%s.%s", vmi->name, vmi->namespace_);
    int r;

    if (type)
        json_object_set_new(meta, config_drive ? "instance_type" : "instance-type", type);
    if (config_drive) {
        json_object_set(meta, "instance_id", id);
        json_object_set_new(meta, "hostname", hostname_of(vmi));
        if (uuid)
            json_object_set_new(meta, "uuid", json_string(uuid));
        collect_devices(vmi, meta);
    } else {
        json_object_set_new(meta, "instance-id", uuid ? json_string(uuid) : json_incref(id));
        json_object_set_new(meta, "local-hostname", hostname_of(vmi));
    }
    json_decref(id);
    r = collect_keys(storage, config_drive, meta, config_drive ? "public_keys" : "public-keys", ret_error);
    if (r < 0) {
        json_decref(meta);
        return r;
    }
    *ret = meta;
    return 0;
}

/* ---- the files ------------------------------------------------------------------------------------------------- */

int cloud_init_collect(const struct storage *storage, size_t index, struct iso_files *files, struct error **ret_error)
{
    static const char *const user_names[] = {"userdata", "userData", NULL};
    static const char *const network_names[] = {"networkdata", "networkData", NULL};
    static const char *const file_names[2][3] = {
        {"meta-data", "user-data", "network-config"},
        {"openstack/latest/meta_data.json", "openstack/latest/user_data", "openstack/latest/network_data.json"},
    };
    const struct volume_plan *plan = &storage->plans[index];
    const struct vmi_cloud_init *ci = cloud_init_of(storage->volumes[index].volume);
    bool config_drive = plan->content == CONTENT_CONFIG_DRIVE;
    const char *const *names = file_names[config_drive];
    _cleanup_free_ char *user = NULL, *network = NULL;
    size_t user_length = 0, network_length = 0;
    json_t *meta = NULL;
    char *text;
    int r;

    r = load_data(ci->user_data, ci->user_data_base64, plan->source_dir, user_names, &user, &user_length, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "user data");
    r = load_data(ci->network_data, ci->network_data_base64, plan->network_source_dir, network_names, &network,
                  &network_length, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "network data");
    r = meta_data(storage, config_drive, &meta, ret_error);
    if (r < 0)
        return r;
    text = json_dumps(meta, JSON_COMPACT);
    json_decref(meta);
    if (!text || iso_files_add(files, names[0], text, strlen(text)) < 0)
        return error_oom(ret_error);
    if (!user)
        user = strdup(""); /* a data source without user-data is not accepted by all of cloud-init's versions */
    if (iso_files_add(files, names[1], TAKE_PTR(user), user_length) < 0)
        return error_oom(ret_error);
    if (network && iso_files_add(files, names[2], TAKE_PTR(network), network_length) < 0)
        return error_oom(ret_error);
    return 0;
}
