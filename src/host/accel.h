/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is KVM here, and does it run guests at hardware speed? Some hosts offer a /dev/kvm that emulates every instruction:
 * all its calls succeed, and a guest takes minutes to boot where QEMU's own translator (TCG) takes seconds. Only
 * running something tells.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

enum accel_wish {
    ACCEL_AUTO,
    ACCEL_KVM,
    ACCEL_TCG,
};

/* Why KVM counts as it does. The names are stable: in `vmlet probe --json`, the status and the cache. */
#define ACCEL_REASONS(X)                                                                                               \
    X(USABLE, "usable")                                                                                                \
    X(NOT_PROBED, "notProbed")          /* emulation was asked for, or the guest is of another architecture */         \
    X(NO_DEVICE, "noDevice")            /* no /dev/kvm */                                                              \
    X(NO_PERMISSION, "noPermission")    /* it may not be opened */                                                     \
    X(OPEN_FAILED, "openFailed")        /* opening it failed otherwise: no driver behind the node */                   \
    X(BAD_API, "badApi")                /* not KVM, or not its stable API (version 12) */                              \
    X(CREATE_VM_FAILED, "createFailed") /* KVM_CREATE_VM or KVM_CREATE_VCPU failed: disabled in firmware, in use… */ \
    X(RUN_FAILED, "runFailed")          /* the tiny guest did not do what it should */                                 \
    X(EMULATED, "emulated")             /* it ran, at an emulator's speed */

enum accel_reason {
#define X(symbol, name) ACCEL_REASON_##symbol,
    ACCEL_REASONS(X)
#undef X
        ACCEL_REASON_COUNT,
};

struct accel_result {
    enum machine_accel accel; /* what to use */
    bool kvm_usable;
    enum accel_reason reason;
    char text[256];   /* one sentence, for people: "KVM runs at hardware speed (1180 million loop rounds per second)" */
    char remedy[256]; /* "" if there is none */
    int kvm_api_version;        /* -1: not asked */
    uint64_t rounds_per_second; /* 0: not measured */
    bool from_cache;
};

/*
 * What separates the two. Hardware does one round of `dec; jnz` per clock cycle or two: 500 million a second on the
 * slowest 1 GHz core. An emulating KVM was measured at 2.4 million; interpreters do not reach 50. The line is set where
 * both sides have a factor of ten, and the best of several runs counts, because a busy host only makes a run slower.
 */
#define ACCEL_ROUNDS_PER_SECOND_HARDWARE 50000000U

/* Probes KVM (for guests of this host's own architecture). Never fails: what fails is the reason. At most
 * TIMEOUT_ACCEL_PROBE_USEC; a few milliseconds as a rule, and none when the cache has it for this boot. */
void accel_probe_kvm(struct accel_result *ret);

/* As accel_probe_kvm(), of another device and without the cache: for tests. */
void accel_probe_device(const char *device, struct accel_result *ret);

/* For `--accel`: -EOPNOTSUPP, ERROR_NO_KVM with the reason, if KVM is forced and not usable. */
int accel_choose(enum accel_wish wish, enum machine_arch arch, struct accel_result *ret, struct error **ret_error);

/* 0 or -EINVAL. */
int accel_wish_from_string(const char *text, enum accel_wish *ret);
const char *accel_reason_name(enum accel_reason reason);
const char *machine_accel_name(enum machine_accel accel); /* "kvm", "tcg" */
/* {"usable", "reason", "message", "remedy", "apiVersion", "roundsPerSecond", "accel"}: a new reference. */
json_t *accel_to_json(const struct accel_result *result);
