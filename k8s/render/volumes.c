/* SPDX-License-Identifier: Apache-2.0 */
/* The VMI's volumes as volumes, mounts and helper containers of the pod (compat §4.1 to §4.3). */
#include <libgen.h>
#include <stdio.h>

#include "k8s/render/private.h"

static json_t *add_volume(struct pod_build *b, const char *name, const char *kind, json_t *source)
{
    json_t *volume = json_pack("{s:s, s:o}", "name", name, kind, source);

    add(b, b->volumes, volume);
    return volume;
}

static void add_empty_dir(struct pod_build *b, const char *name)
{
    add_volume(b, name, "emptyDir", json_object());
}

static void add_claim(struct pod_build *b, const struct vmi_volume *v, const struct vmi_pvc *claim)
{
    json_t *source;

    if (claim->hotpluggable == OPT_TRUE)
        return; /* comes by an attachment pod */
    source = json_pack("{s:s}", "claimName", claim->claim_name);
    if (claim->read_only == OPT_TRUE)
        put(b, source, "readOnly", json_true());
    add_volume(b, v->name, "persistentVolumeClaim", source);
    if (b->options->claim_is_block && b->options->claim_is_block(claim->claim_name, b->options->userdata))
        add(b, b->devices, json_pack("{s:s, s:o}", "name", v->name, "devicePath", json_sprintf("/dev/%s", v->name)));
    else
        add_mount(b, b->mounts, v->name, PRIVATE_DIR "/vmi-disks/%s", v->name);
}

static void add_host_disk(struct pod_build *b, const struct vmi_volume *v)
{
    _cleanup_free_ char *copy = strdup(v->host_disk->path);
    bool create = streq_ptr(v->host_disk->type, "DiskOrCreate");

    if (!copy) {
        b->failed = true;
        return;
    }
    add_volume(b, v->name, "hostPath",
               json_pack("{s:s, s:s}", "path", dirname(copy), "type", create ? "DirectoryOrCreate" : "Directory"));
    add_mount(b, b->mounts, v->name, PRIVATE_DIR "/vmi-disks/%s", v->name);
}

/* An object of the API whose keys become files below PRIVATE_DIR/FOLDER/NAME. */
static void add_files(struct pod_build *b, const char *volume, const char *kind, const char *name_key, const char *name,
                      enum opt_bool optional, const char *folder)
{
    json_t *source = json_pack("{s:s}", name_key, name), *mount;

    if (optional != OPT_UNSET)
        put(b, source, "optional", json_boolean(optional == OPT_TRUE));
    add_volume(b, volume, kind, source);
    mount = add_mount(b, b->mounts, volume, PRIVATE_DIR "/%s/%s", folder, volume);
    put(b, mount, "readOnly", json_true());
}

/* User data and network data may stand in two secrets; the launcher looks for both in one directory. */
static void add_cloud_init(struct pod_build *b, const struct vmi_volume *v, const struct vmi_cloud_init *c)
{
    const struct vmi_local_ref *refs[] = {c->secret_ref, c->network_data_secret_ref};
    json_t *sources, *mount;

    if (!refs[0] && !refs[1])
        return;
    if (refs[0] && refs[1] && streq(refs[0]->name, refs[1]->name))
        refs[1] = NULL;
    if (!refs[0] || !refs[1]) {
        add_files(b, v->name, "secret", "secretName", (refs[0] ? refs[0] : refs[1])->name, OPT_UNSET, "secret");
        return;
    }
    sources = json_array();
    for (size_t i = 0; i < ELEMENTSOF(refs); i++)
        add(b, sources, json_pack("{s:{s:s}}", "secret", "name", refs[i]->name));
    add_volume(b, v->name, "projected", json_pack("{s:o}", "sources", sources));
    mount = add_mount(b, b->mounts, v->name, PRIVATE_DIR "/secret/%s", v->name);
    put(b, mount, "readOnly", json_true());
}

static void add_downward(struct pod_build *b, const struct vmi_volume *v)
{
    json_t *source = json_object(), *mount;

    put_node(b, source, "items", v->downward_api->fields);
    add_volume(b, v->name, "downwardAPI", source);
    mount = add_mount(b, b->mounts, v->name, PRIVATE_DIR "/downwardapi/%s", v->name);
    put(b, mount, "readOnly", json_true());
}

/* ---- images ----------------------------------------------------------------------------------------------------- */

static void add_pull_secret(struct pod_build *b, const char *name)
{
    json_t *known;
    size_t i;

    if (!name)
        return;
    json_array_foreach (b->pull_secrets, i, known)
        if (streq_ptr(json_string_value(json_object_get(known, "name")), name))
            return;
    add(b, b->pull_secrets, json_pack("{s:s}", "name", name));
}

/*
 * Two containers of the user's image: one that ends at once, so that the image is on the node before the VM is started;
 * one that lives as long as the VM, through whose mount namespace the node agent reaches the disk. Both run a program
 * of ours, for the image has none.
 */
static void add_image(struct pod_build *b, const char *name, const char *image, const char *policy, const char *socket)
{
    static const char *const kinds[] = {"-init", ""};

    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        bool init = *kinds[i];
        json_t *args = json_array(), *mounts = json_array(), *container, *security = restricted(b);

        if (init)
            add_text(b, args, "--no-op");
        else {
            add_text(b, args, "--copy-path");
            add_text(b, args, EPHEMERAL_DIR "/container-disk-data/%s/%s", b->uid, socket);
        }
        add_mount(b, mounts, "container-disks", EPHEMERAL_DIR "/container-disk-data/%s", b->uid);
        add_mount(b, mounts, "virt-bin-share-dir", "/usr/bin");
        container = json_pack("{s:o, s:o, s:[s], s:s, s:o, s:o, s:o}", "name", json_sprintf("%s%s", name, kinds[i]),
                              "args", args, "command", "/usr/bin/container-disk", "image", image, "resources",
                              helper_resources(b, "1m", "1M", "10m", "40M", "50M"), "securityContext", security,
                              "volumeMounts", mounts);
        put_text(b, container, "imagePullPolicy", policy);
        add(b, init ? b->init_containers : b->containers, container);
    }
}

/* KubeVirt's rule, which is kubelet's: an image that can change is asked for each time. */
static const char *policy_of(const char *image, const char *policy)
{
    const char *name = strrchr(image, '/'), *tag = strchr(name ? name : image, ':');

    if (policy)
        return policy;
    return !strchr(image, '@') && (!tag || streq(tag, ":latest")) ? "Always" : "IfNotPresent";
}

static void add_container_disk(struct pod_build *b, const struct vmi_volume *v)
{
    const struct vmi_container_disk *disk = v->container_disk;
    char name[300], socket[32];

    snprintf(name, sizeof(name), "volume%s", v->name);
    snprintf(socket, sizeof(socket), "disk_%zu", v->index);
    add_image(b, name, disk->image, policy_of(disk->image, disk->image_pull_policy), socket);
    add_pull_secret(b, disk->image_pull_secret);
}

static void add_kernel_boot(struct pod_build *b)
{
    const struct vmi_kernel_boot *boot = b->vmi->spec.domain.firmware.kernel_boot;
    const struct vmi_kernel_boot_container *c = boot ? boot->container : NULL;

    if (!c)
        return;
    add_image(b, "kernel-boot-volume", c->image, policy_of(c->image, c->image_pull_policy), "kernel-boot");
    add_pull_secret(b, c->image_pull_secret);
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

static void build_volume(struct pod_build *b, const struct vmi_volume *v)
{
    switch (v->kind) {
    case VMI_VOLUME_PVC:
        add_claim(b, v, v->persistent_volume_claim);
        break;
    case VMI_VOLUME_DATA_VOLUME:
        add_claim(b, v, v->data_volume);
        break;
    case VMI_VOLUME_EPHEMERAL:
        add_claim(b, v, v->ephemeral->persistent_volume_claim);
        break;
    case VMI_VOLUME_MEMORY_DUMP:
        add_claim(b, v, v->memory_dump);
        break;
    case VMI_VOLUME_HOST_DISK:
        add_host_disk(b, v);
        break;
    case VMI_VOLUME_CONTAINER_DISK:
        add_container_disk(b, v);
        break;
    case VMI_VOLUME_CLOUD_INIT_NO_CLOUD:
        add_cloud_init(b, v, v->cloud_init_no_cloud);
        break;
    case VMI_VOLUME_CLOUD_INIT_CONFIG_DRIVE:
        add_cloud_init(b, v, v->cloud_init_config_drive);
        break;
    case VMI_VOLUME_SYSPREP:
        if (v->sysprep->config_map)
            add_files(b, v->name, "configMap", "name", v->sysprep->config_map->name, OPT_UNSET, "sysprep");
        else if (v->sysprep->secret)
            add_files(b, v->name, "secret", "secretName", v->sysprep->secret->name, OPT_UNSET, "sysprep");
        break;
    case VMI_VOLUME_CONFIG_MAP:
        add_files(b, v->name, "configMap", "name", v->config_map->name, v->config_map->optional, "config-map");
        break;
    case VMI_VOLUME_SECRET:
        add_files(b, v->name, "secret", "secretName", v->secret->name, v->secret->optional, "secret");
        break;
    case VMI_VOLUME_DOWNWARD_API:
        add_downward(b, v);
        break;
    case VMI_VOLUME_UNSET:
    case VMI_VOLUME_EMPTY_DISK:
    case VMI_VOLUME_SERVICE_ACCOUNT: /* the pod's own: spec.serviceAccountName */
    case VMI_VOLUME_DOWNWARD_METRICS:
    case VMI_VOLUME_CONTAINER_PATH:
        break;
    }
}

static void add_credentials(struct pod_build *b)
{
    for (size_t i = 0; i < b->vmi->spec.access_credentials.count; i++) {
        const char *secret = b->vmi->spec.access_credentials.items[i].secret_name;
        char name[300];
        bool known = false;

        for (size_t k = 0; k < i; k++)
            known = known || streq_ptr(b->vmi->spec.access_credentials.items[k].secret_name, secret);
        if (!secret || known)
            continue;
        snprintf(name, sizeof(name), "%s-access-cred", secret);
        add_files(b, name, "secret", "secretName", secret, OPT_UNSET, "secret");
    }
}

static void add_helper_binary(struct pod_build *b)
{
    json_t *mounts, *container;

    if (json_array_size(b->containers) == 0)
        return; /* no image */
    mounts = json_array();
    add_mount(b, mounts, "virt-bin-share-dir", "/init/usr/bin");
    container =
        json_pack("{s:s, s:[s,s,s], s:s, s:o, s:o, s:o}", "name", "container-disk-binary", "command", "/usr/bin/cp",
                  "/usr/bin/container-disk", "/init/usr/bin/container-disk", "image", b->options->launcher_image,
                  "resources", helper_resources(b, "10m", "1M", "100m", "40M", NULL), "securityContext", restricted(b),
                  "volumeMounts", mounts);
    put_text(b, container, "imagePullPolicy", b->options->pull_policy);
    if (json_array_insert_new(b->init_containers, 0, container) < 0)
        b->failed = true;
}

void build_volumes(struct pod_build *b)
{
    static const struct {
        const char *volume, *path;
        bool from_host;
    } fixed[] = {
        {"private", PRIVATE_DIR, false},
        {"public", SHARE_DIR, false},
        {"ephemeral-disks", EPHEMERAL_DIR, false},
        {"container-disks", SHARE_DIR "/container-disks", true},
        {"libvirt-runtime", "/var/run/libvirt", false}, /* empty disks are there (compat §4.1) */
        {"sockets", SHARE_DIR "/sockets", false},
        {"hotplug-disks", SHARE_DIR "/hotplug-disks", true},
    };

    for (size_t i = 0; i < ELEMENTSOF(fixed); i++) {
        json_t *mount = add_mount(b, b->mounts, fixed[i].volume, "%s", fixed[i].path);

        add_empty_dir(b, fixed[i].volume);
        if (fixed[i].from_host)
            put(b, mount, "mountPropagation", json_string("HostToContainer"));
    }
    add_empty_dir(b, "virt-bin-share-dir");
    if (b->vmi->spec.domain.memory.hugepages) {
        add_volume(b, "hugepages", "emptyDir", json_pack("{s:s}", "medium", "HugePages"));
        add_mount(b, b->mounts, "hugepages", "/dev/hugepages");
    }
    for (size_t i = 0; i < b->vmi->spec.volumes.count; i++)
        build_volume(b, &b->vmi->spec.volumes.items[i]);
    add_kernel_boot(b);
    add_credentials(b);
    add_helper_binary(b);
}
