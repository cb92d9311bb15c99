/* SPDX-License-Identifier: Apache-2.0 */
#include "host/accel-guest.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#if defined(__x86_64__)

/* In real mode, where a vCPU starts, hence the operand size prefix. */
const unsigned char accel_guest_code[] = {
    0x66, 0x49, /* again: dec ecx */
    0x75, 0xfc, /*        jnz again */
    0xf4,       /*        hlt */
};
const size_t accel_guest_code_size = sizeof(accel_guest_code);
const uint32_t accel_guest_exit_reason = KVM_EXIT_HLT;

int accel_guest_prepare(int vm_fd, int vcpu_fd, uint32_t rounds)
{
    struct kvm_regs regs = {.rip = ACCEL_GUEST_ADDRESS, .rcx = rounds, .rflags = 2};
    struct kvm_sregs sregs;

    (void)vm_fd;
    if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return -errno;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return -errno;
    return 0;
}

int accel_guest_rounds_left(int vcpu_fd, uint64_t *ret)
{
    struct kvm_regs regs;

    if (ioctl(vcpu_fd, KVM_GET_REGS, &regs) < 0)
        return -errno;
    *ret = regs.rcx;
    return 0;
}

#elif defined(__aarch64__)

/* At EL1 with the MMU off. The instruction cache is switched on first: without it every fetch goes to memory, and a
 * slow loop would be taken for an emulated one. The end is a store to where no memory is. */
const unsigned char accel_guest_code[] = {
    0x02, 0x10, 0x38, 0xd5, /*        mrs  x2, sctlr_el1 */
    0x42, 0x00, 0x74, 0xb2, /*        orr  x2, x2, #0x1000 */
    0x02, 0x10, 0x18, 0xd5, /*        msr  sctlr_el1, x2 */
    0xdf, 0x3f, 0x03, 0xd5, /*        isb */
    0x00, 0x04, 0x00, 0xf1, /* again: subs x0, x0, #1 */
    0xe1, 0xff, 0xff, 0x54, /*        b.ne again */
    0x20, 0x00, 0x00, 0xb9, /*        str  w0, [x1] */
};
const size_t accel_guest_code_size = sizeof(accel_guest_code);
const uint32_t accel_guest_exit_reason = KVM_EXIT_MMIO;

#define CORE_REG(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))

static int set_reg(int vcpu_fd, uint64_t id, uint64_t value)
{
    struct kvm_one_reg reg = {.id = id, .addr = (uint64_t)(uintptr_t)&value};

    return ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg) < 0 ? -errno : 0;
}

int accel_guest_prepare(int vm_fd, int vcpu_fd, uint32_t rounds)
{
    struct kvm_vcpu_init init;
    int r;

    /* a second KVM_ARM_VCPU_INIT is a reset, which also forgets the store that is still to be completed */
    memset(&init, 0, sizeof(init));
    if (ioctl(vm_fd, KVM_ARM_PREFERRED_TARGET, &init) < 0 || ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init) < 0)
        return -errno;
    r = set_reg(vcpu_fd, CORE_REG(regs.pc), ACCEL_GUEST_ADDRESS);
    if (r == 0)
        r = set_reg(vcpu_fd, CORE_REG(regs.regs[0]), rounds);
    if (r == 0)
        r = set_reg(vcpu_fd, CORE_REG(regs.regs[1]), ACCEL_GUEST_ADDRESS + 16 * ACCEL_GUEST_SIZE);
    return r;
}

int accel_guest_rounds_left(int vcpu_fd, uint64_t *ret)
{
    uint64_t value;
    struct kvm_one_reg reg = {.id = CORE_REG(regs.regs[0]), .addr = (uint64_t)(uintptr_t)&value};

    if (ioctl(vcpu_fd, KVM_GET_ONE_REG, &reg) < 0)
        return -errno;
    *ret = value;
    return 0;
}

#else
#error "the acceleration probe has no guest for this architecture"
#endif
