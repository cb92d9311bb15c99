/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a QEMU binary can do: asked once per binary from a throw-away process without a machine (never from the one that
 * runs a guest), and kept in the cache under the binary's build id.
 */
#pragma once

#include "base/error.h"
#include "machine/machine.h"

#define QEMU_VERSION_OLDEST 7002000U /* as struct qemu_caps has it: 7.2.0 */

/*
 * The capabilities of `binary` (a path, or a name in PATH), or with NULL of the first of qemu-system-<arch>, and where
 * the architecture is this host's, qemu-kvm and /usr/libexec/qemu-kvm. From the cache in well under a millisecond, else
 * by running the binary, which blocks (at most TIMEOUT_QEMU_PROBE_USEC).
 *
 * -ENOENT ERROR_QEMU_NOT_FOUND: there is none. -EPROTONOSUPPORT ERROR_QEMU_TOO_OLD: before 7.2.
 * -ENOEXEC ERROR_QEMU_START: it ended or broke QMP, with its stderr. -ETIMEDOUT: it did not answer.
 * -EINVAL ERROR_BAD_ARGUMENT: it emulates another architecture.
 */
int qemu_caps_load(const char *binary, enum machine_arch arch, struct qemu_caps **ret, struct error **ret_error);
void qemu_caps_free(struct qemu_caps *caps);
DEFINE_CLEANUP(struct qemu_caps *, qemu_caps_free)

/* Probes, whatever the cache says, and writes to `directory`: when a container image is built. */
int qemu_caps_write_cache(const char *binary, enum machine_arch arch, const char *directory, struct error **ret_error);

/* The path of the binary that qemu_caps_load() takes; freed by the caller. */
int qemu_find_binary(const char *binary, enum machine_arch arch, char **ret_path, struct error **ret_error);
/* "x86_64", "aarch64": QEMU's name of a target. */
const char *machine_arch_qemu_name(enum machine_arch arch);
/* The architecture that this program was compiled for. */
enum machine_arch machine_arch_native(void);
/* The path of a program: as it is if it has a slash and can be executed, else from PATH. NULL if there is none (or no
 * memory). Freed by the caller. */
char *find_program(const char *name);

/* ELF: the build id as lower-case hex, at most 40 bytes of it, or -ENODATA (no ELF file of this host's kind, or no
 * build id). Reads headers and notes only. */
#define BUILD_ID_HEX_SIZE 81
int elf_read_build_id(int fd, char ret_hex[BUILD_ID_HEX_SIZE]);

/* In caps-probe.c: runs the binary and asks. *ret is what the cache keeps: {"version", "target", "devices", …}. */
int qemu_caps_probe(const char *binary, json_t **ret, struct error **ret_error);
/* The same with an accelerator: {"models": names that a guest may have here, "features": what the best CPU has,
 * "machines", "vendor"}. Nothing of it is kept. */
int qemu_cpus_probe(const char *binary, bool kvm, json_t **ret, struct error **ret_error);
