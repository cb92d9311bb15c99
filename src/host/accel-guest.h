/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tiny guest of the acceleration probe: one vCPU, one page, a counting loop. Per architecture, since that is all
 * that differs. Used in a forked child: async-signal-safe calls only.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ACCEL_GUEST_ADDRESS 0x1000U
#define ACCEL_GUEST_SIZE    4096U

/* The code, position independent, to stand at ACCEL_GUEST_ADDRESS. */
extern const unsigned char accel_guest_code[];
extern const size_t accel_guest_code_size;

/* Sets the vCPU to the code's start, with `rounds` to count; 0 or a negative errno. */
int accel_guest_prepare(int vm_fd, int vcpu_fd, uint32_t rounds);
/* The KVM_EXIT_… with which the guest says that it has counted to the end. */
extern const uint32_t accel_guest_exit_reason;
/* The rounds that are left in the vCPU's counter, to see that it did count; 0 or a negative errno. */
int accel_guest_rounds_left(int vcpu_fd, uint64_t *ret);
