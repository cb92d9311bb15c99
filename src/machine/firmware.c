/* SPDX-License-Identifier: Apache-2.0 */
/* What runs before the guest's kernel: SeaBIOS, UEFI, a kernel given directly; and the tables that it hands on. */
#include "base/strv.h"
#include "machine/build.h"

/* ---- UEFI images ----------------------------------------------------------------------------------------------- */

/* A pair of images, the first that exists is taken. The name in --ovmf-path's directory, and the distributions'
 * directories (package file lists of Debian's ovmf and qemu-efi-aarch64, Fedora's edk2-ovmf and edk2-aarch64). */
struct uefi_image {
    enum machine_arch arch;
    bool secure;
    const char *code, *vars;
};

static const struct uefi_image uefi_images[] = {
    {MACHINE_ARCH_X86_64, true, "OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"},
    {MACHINE_ARCH_X86_64, true, "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"},
    {MACHINE_ARCH_X86_64, true, "OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"},
    {MACHINE_ARCH_X86_64, true, "OVMF_CODE.ms.fd", "OVMF_VARS.ms.fd"},
    {MACHINE_ARCH_X86_64, false, "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"},
    {MACHINE_ARCH_X86_64, false, "OVMF_CODE.fd", "OVMF_VARS.fd"},
    {MACHINE_ARCH_AARCH64, true, "AAVMF_CODE.ms.fd", "AAVMF_VARS.ms.fd"},
    {MACHINE_ARCH_AARCH64, false, "AAVMF_CODE.no-secboot.fd", "AAVMF_VARS.fd"},
    {MACHINE_ARCH_AARCH64, false, "AAVMF_CODE.fd", "AAVMF_VARS.fd"},
    {MACHINE_ARCH_AARCH64, false, "QEMU_EFI-silent-pflash.raw", "vars-template-pflash.raw"},
};

static const char *const uefi_directories[] = {
    "/usr/share/OVMF", "/usr/share/edk2/ovmf", "/usr/share/AAVMF", "/usr/share/edk2/aarch64", "/usr/share/edk2/x64",
};

static bool exists(const struct build *b, const char *path)
{
    for (const char *const *known = b->facts->known_firmware; known && *known; known++)
        if (streq(*known, path))
            return true;
    return false;
}

static bool image_in(struct build *b, const char *directory, const struct uefi_image *image, const char **ret_code,
                     const char **ret_vars)
{
    const char *code = text(b, "%s/%s", directory, image->code), *vars = text(b, "%s/%s", directory, image->vars);

    if (!exists(b, code) || !exists(b, vars))
        return false;
    *ret_code = code;
    *ret_vars = vars;
    return true;
}

static bool find_uefi(struct build *b, bool secure, const char **ret_code, const char **ret_vars)
{
    for (size_t i = 0; i < ELEMENTSOF(uefi_images); i++) {
        const struct uefi_image *image = &uefi_images[i];

        if (image->arch != b->facts->arch || image->secure != secure)
            continue;
        if (b->facts->firmware_dir && image_in(b, b->facts->firmware_dir, image, ret_code, ret_vars))
            return true;
        for (size_t d = 0; d < ELEMENTSOF(uefi_directories); d++)
            if (image_in(b, uefi_directories[d], image, ret_code, ret_vars))
                return true;
    }
    return false;
}

/* The place that is looked at first: where it would be if it were there. */
static bool assume_uefi(struct build *b, bool secure, const char **ret_code, const char **ret_vars)
{
    const char *directory = b->facts->firmware_dir ? b->facts->firmware_dir : "/usr/share/OVMF";

    if (!b->facts->firmware_dir && !b->x86)
        directory = "/usr/share/AAVMF";
    for (size_t i = 0; i < ELEMENTSOF(uefi_images); i++)
        if (uefi_images[i].arch == b->facts->arch && uefi_images[i].secure == secure) {
            *ret_code = text(b, "%s/%s", directory, uefi_images[i].code);
            *ret_vars = text(b, "%s/%s", directory, uefi_images[i].vars);
            return true;
        }
    return false;
}

static int add_candidates(char ***list, enum machine_arch arch, const char *directory)
{
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTSOF(uefi_images); i++) {
        if (uefi_images[i].arch != arch)
            continue;
        r = strv_printf(list, "%s/%s", directory, uefi_images[i].code);
        if (r >= 0)
            r = strv_printf(list, "%s/%s", directory, uefi_images[i].vars);
    }
    return r;
}

int machine_list_firmware(enum machine_arch arch, const char *firmware_dir, char ***ret)
{
    _cleanup_(strv_freep) char **list = NULL;
    int r = firmware_dir ? add_candidates(&list, arch, firmware_dir) : 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTSOF(uefi_directories); i++)
        r = add_candidates(&list, arch, uefi_directories[i]);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(list);
    return 0;
}

static void flash(struct build *b, const char *name, const char *path, bool read_only)
{
    json_t *file = option_json(b, SECTION_BACKEND, "-blockdev"), *node;
    const char *file_name = text(b, "%s-file", name);

    set_string(b, file, "driver", "file");
    set_string(b, file, "node-name", file_name);
    set_string(b, file, "filename", path);
    set_bool(b, file, "read-only", read_only);
    node = option_json(b, SECTION_BACKEND, "-blockdev");
    set_string(b, node, "driver", "raw");
    set_string(b, node, "node-name", name);
    set_bool(b, node, "read-only", read_only);
    set_string(b, node, "file", file_name);
}

static void uefi_missing(struct build *b, const struct node *at, bool secure)
{
    host_fault(b, at, "UEFI%s needs firmware images that this host does not have (install Debian's %s, or Fedora's %s)",
               secure ? " with secure boot" : "", b->x86 ? "ovmf" : "qemu-efi-aarch64",
               b->x86 ? "edk2-ovmf" : "edk2-aarch64");
}

/* System management mode is what keeps a guest's kernel from writing the variables behind the firmware's back. */
static void secure_boot(struct build *b, const struct node *at)
{
    const struct vmi_feature *smm = b->domain->features.smm;

    if (!b->x86)
        return;
    if (smm && !vmi_feature_on(smm)) {
        manifest_fault(b, smm->at,
                       "secure boot needs system management mode (enable features.smm, or set "
                       "bootloader.efi.secureBoot to false)");
        return;
    }
    if (!smm) {
        machine_set(b, "smm", "on");
        item(b, MACHINE_GROUP_MACHINE, at, NULL, "system management mode", "secure boot needs it");
    }
    option(b, SECTION_MACHINE, "-global", "driver=cfi.pflash01,property=secure,value=on");
    option(b, SECTION_MACHINE, "-global", "ICH9-LPC.disable_s3=1"); /* OVMF has no S3 with SMM in older builds */
}

static void build_uefi(struct build *b, const struct node *at, bool secure, const char *why)
{
    const char *code = NULL, *vars = NULL;

    if (!find_uefi(b, secure, &code, &vars)) {
        uefi_missing(b, at, secure);
        if (!b->facts->assume || !assume_uefi(b, secure, &code, &vars))
            return;
    }
    b->machine->nvram_template = vars;
    b->machine->nvram = private_path(b, text(b, "%s_VARS.fd", b->vmi->name));
    b->machine->firmware = code;
    flash(b, "firmware", code, true);
    flash(b, "nvram", b->machine->nvram, false);
    machine_set(b, "pflash0", "firmware");
    machine_set(b, "pflash1", "nvram");
    if (secure)
        secure_boot(b, at);
    item(b, MACHINE_GROUP_MACHINE, at, NULL, text(b, "UEFI firmware %s%s", code, secure ? ", secure boot" : ""), why);
}

/* ---- kernel boot ----------------------------------------------------------------------------------------------- */

#define KERNEL_BOOT_DIR "/var/run/kubevirt/container-disks/kernel-boot"

/* Where the container disk helper puts a file of the kernel boot container: its base name, in one directory. */
static const char *kernel_boot_path(struct build *b, const char *path)
{
    const char *slash;

    if (!path || !*path)
        return NULL;
    slash = strrchr(path, '/');
    return text(b, KERNEL_BOOT_DIR "/%s", slash ? slash + 1 : path);
}

static void build_kernel(struct build *b)
{
    const struct vmi_kernel_boot *boot = b->domain->firmware.kernel_boot;
    const struct vmi_kernel_boot_container *container = boot ? boot->container : NULL;
    const struct machine_facts *facts = b->facts;
    const char *kernel = facts->kernel ? facts->kernel : container ? kernel_boot_path(b, container->kernel_path) : NULL;
    const char *initrd = facts->initrd ? facts->initrd : container ? kernel_boot_path(b, container->initrd_path) : NULL;
    const char *append = facts->append ? facts->append : boot ? boot->kernel_args : NULL;
    const struct node *at = boot ? boot->at : NULL;

    if (!kernel) {
        if (append && *append)
            manifest_fault(b, at, "kernelArgs without a kernel (kernelBoot.container.kernelPath)");
        return;
    }
    option(b, SECTION_MACHINE, "-kernel", text(b, "%s", kernel));
    if (initrd)
        option(b, SECTION_MACHINE, "-initrd", text(b, "%s", initrd));
    if (append && *append && text_is_clean(b, at, "the kernel's command line", append))
        option(b, SECTION_MACHINE, "-append", text(b, "%s", append));
    item(b, MACHINE_GROUP_MACHINE, at, NULL,
         text(b, "kernel %s%s%s", kernel, initrd ? ", initrd " : "", initrd ? initrd : ""),
         facts->kernel ? "given on the command line or by the launcher" : "kernelBoot in the manifest");
    if (append && *append)
        item(b, MACHINE_GROUP_MACHINE, at, NULL, text(b, "kernel command line: %s", append),
             "kernelArgs in the manifest, or given by the caller");
}

static bool boots_kernel(const struct build *b)
{
    const struct vmi_kernel_boot *boot = b->domain->firmware.kernel_boot;

    return b->facts->kernel ||
           (boot && boot->container && boot->container->kernel_path && *boot->container->kernel_path);
}

/* ---- the rest -------------------------------------------------------------------------------------------------- */

static void acpi_table(struct build *b, const struct node *at, const char *signature, const char *volume,
                       const char *file)
{
    const char *path;

    if (!volume)
        return;
    path = volume_path(b, volume);
    path = path ? text(b, "%s/%s", path, file) : text(b, "/var/run/kubevirt-private/secret/%s/%s", volume, file);
    option(b, SECTION_MACHINE, "-acpitable", text(b, "sig=%s,file=%s", signature, comma(b, path)));
    item(b, MACHINE_GROUP_MACHINE, at, NULL, text(b, "ACPI table %s from %s", signature, path),
         "firmware.acpi in the manifest: a secret volume");
}

static void build_bios(struct build *b, const struct vmi_bootloader *loader)
{
    b->machine->firmware = "SeaBIOS";
    if (loader && loader->bios && loader->bios->use_serial == OPT_TRUE) {
        machine_set(b, "graphics", "off"); /* how QEMU tells SeaBIOS to use the serial port (sercon) */
        item(b, MACHINE_GROUP_MACHINE, loader->bios->at, NULL, "BIOS (SeaBIOS), on the serial console",
             "bios.useSerial in the manifest");
    } else {
        item(b, MACHINE_GROUP_MACHINE, loader && loader->bios ? loader->bios->at : NULL, NULL, "BIOS (SeaBIOS)",
             loader && loader->bios ? "in the manifest" : "the default of a PC without bootloader.efi");
    }
}

void build_firmware(struct build *b)
{
    const struct vmi_firmware *firmware = &b->domain->firmware;
    const struct vmi_bootloader *loader = firmware->bootloader;
    const struct vmi_efi *efi = loader ? loader->efi : NULL;

    if (efi)
        build_uefi(b, efi->at, b->x86 ? efi->secure_boot != OPT_FALSE : efi->secure_boot == OPT_TRUE,
                   efi->persistent == OPT_TRUE ? "bootloader.efi in the manifest; its variables are kept"
                                               : "bootloader.efi in the manifest");
    else if (b->x86)
        build_bios(b, loader);
    else if (!boots_kernel(b))
        build_uefi(b, NULL, false, "an arm64 machine has no other firmware");
    else
        item(b, MACHINE_GROUP_MACHINE, NULL, NULL, "no firmware", "the kernel is entered directly");
    build_kernel(b);
    if (firmware->acpi) {
        acpi_table(b, firmware->acpi->at, "SLIC", firmware->acpi->slic_name_ref, "slic.bin");
        acpi_table(b, firmware->acpi->at, "MSDM", firmware->acpi->msdm_name_ref, "msdm.bin");
    }
    if (b->facts->ignition_path) {
        option(b, SECTION_MACHINE, "-fw_cfg",
               text(b, "name=opt/com.coreos/config,file=%s", comma(b, b->facts->ignition_path)));
        item(b, MACHINE_GROUP_MACHINE, NULL, NULL, "Ignition configuration for the guest",
             "annotation kubevirt.io/ignitiondata");
    }
}

static void smbios_field(struct build *b, struct strbuf *out, const struct node *at, const char *key, const char *value)
{
    if (value && *value && text_is_clean(b, at, key, value))
        strbuf_printf(out, ",%s=%s", key, comma(b, value));
}

static void smbios_option(struct build *b, struct strbuf *out)
{
    option(b, SECTION_MACHINE, "-smbios", text(b, "%s", strbuf_text(out)));
    if (out->failed)
        b->failure = BUILD_NO_MEMORY;
    strbuf_done(out);
}

void build_smbios(struct build *b)
{
    static const struct machine_smbios kubevirt = {.manufacturer = "KubeVirt", .product = "None", .family = "KubeVirt"};
    const struct machine_smbios *system = b->facts->smbios ? b->facts->smbios : &kubevirt;
    const struct vmi_firmware *firmware = &b->domain->firmware;
    const struct vmi_chassis *chassis = b->domain->chassis;
    struct strbuf out = {0};

    if (!firmware->uuid || strlen(firmware->uuid) != 36 || !text_is_plain(firmware->uuid, "-")) {
        manifest_fault(b, firmware->at, "firmware.uuid \"%s\" is no UUID", firmware->uuid ? firmware->uuid : "");
        return;
    }
    b->machine->uuid = text(b, "%s", firmware->uuid);
    option(b, SECTION_MACHINE, "-uuid", b->machine->uuid);
    strbuf_add_string(&out, "type=1");
    smbios_field(b, &out, NULL, "manufacturer", system->manufacturer);
    smbios_field(b, &out, NULL, "product", system->product);
    smbios_field(b, &out, NULL, "version", system->version);
    smbios_field(b, &out, firmware->at, "serial", firmware->serial);
    strbuf_printf(&out, ",uuid=%s", firmware->uuid);
    smbios_field(b, &out, NULL, "sku", system->sku);
    smbios_field(b, &out, NULL, "family", system->family);
    smbios_option(b, &out);
    item(b, MACHINE_GROUP_MACHINE, firmware->at, NULL, text(b, "UUID %s", firmware->uuid),
         "firmware.uuid, or derived from the VM's name: stable over restarts");
    item(b, MACHINE_GROUP_MACHINE, firmware->at, NULL,
         text(b, "SMBIOS system %s/%s", system->manufacturer ? system->manufacturer : "-",
              system->product ? system->product : "-"),
         b->facts->smbios ? "the cluster's configuration" : "KubeVirt's values: guests look for them");
    if (!chassis)
        return;
    strbuf_add_string(&out, "type=3");
    smbios_field(b, &out, chassis->at, "manufacturer", chassis->manufacturer);
    smbios_field(b, &out, chassis->at, "version", chassis->version);
    smbios_field(b, &out, chassis->at, "serial", chassis->serial);
    smbios_field(b, &out, chassis->at, "asset", chassis->asset);
    smbios_field(b, &out, chassis->at, "sku", chassis->sku);
    smbios_option(b, &out);
    item(b, MACHINE_GROUP_MACHINE, chassis->at, NULL, "SMBIOS chassis", "chassis in the manifest");
}
