/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/sandbox.h"

#include <sched.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/confine.h"

/* What stays in the permitted set for the launcher, as far as the container was given it. */
static const cap_value_t kept[] = {
    CAP_NET_BIND_SERVICE, /* the DHCP server's port */
    CAP_NET_ADMIN,        /* a pod without a node agent makes its own tap and bridge */
    CAP_NET_RAW,
    CAP_SYS_NICE, /* realtime vCPUs, NUMA policy */
    CAP_IPC_LOCK, /* locked guest memory */
    CAP_KILL,
    CAP_DAC_OVERRIDE,
    CAP_CHOWN,
    CAP_FOWNER, /* a launcher as root beside volumes of uid 107 */
};
/* What the monitor itself keeps in effect: it signals a guest of another uid, and removes sockets of another uid. */
static const cap_value_t effective[] = {CAP_KILL, CAP_DAC_OVERRIDE};

static bool is_kept(cap_value_t value)
{
    for (size_t i = 0; i < ELEMENTSOF(kept); i++)
        if (kept[i] == value)
            return true;
    return false;
}

static int caps_copy_flag(cap_t from, cap_t to, cap_flag_t flag, const cap_value_t *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        cap_flag_value_t present;

        if (cap_get_flag(from, values[i], CAP_PERMITTED, &present) < 0)
            return -errno;
        if (present == CAP_SET && cap_set_flag(to, flag, 1, &values[i], CAP_SET) < 0)
            return -errno;
    }
    return 0;
}

int sandbox_capabilities(bool *ret_bind_service, struct error **ret_error)
{
    const cap_value_t bind_service = CAP_NET_BIND_SERVICE, setpcap = CAP_SETPCAP;
    cap_t present = cap_get_proc(), wanted = cap_init();
    cap_flag_value_t has_setpcap = CAP_CLEAR, has_bind = CAP_CLEAR;
    int r;

    if (!present || !wanted) {
        r = error_errno(ret_error, errno, "cannot read the capabilities");
        goto out;
    }
    cap_get_flag(present, setpcap, CAP_EFFECTIVE, &has_setpcap);
    for (cap_value_t cap = 0; has_setpcap == CAP_SET && cap < cap_max_bits(); cap++)
        if (!is_kept(cap) && cap_get_bound(cap) > 0)
            cap_drop_bound(cap);
    r = caps_copy_flag(present, wanted, CAP_PERMITTED, kept, ELEMENTSOF(kept));
    if (r == 0)
        r = caps_copy_flag(present, wanted, CAP_EFFECTIVE, effective, ELEMENTSOF(effective));
    if (r == 0)
        r = caps_copy_flag(present, wanted, CAP_INHERITABLE, &bind_service, 1);
    if (r == 0 && cap_set_proc(wanted) < 0)
        r = -errno;
    if (r == 0)
        cap_get_flag(wanted, bind_service, CAP_PERMITTED, &has_bind);
    if (r == 0 && has_bind == CAP_SET && cap_set_ambient(bind_service, CAP_SET) < 0)
        r = -errno;
    if (r < 0)
        error_errno(ret_error, r, "cannot set the capabilities");
    else
        *ret_bind_service = has_bind == CAP_SET;
out:
    cap_free(present);
    cap_free(wanted);
    return r;
}

int sandbox_no_new_privs(struct error **ret_error)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(ret_error, errno, "cannot set no_new_privs");
    return 0;
}

/* ---- the filter: what is refused ------------------------------------------------------------------------------- */

static const char *const refused[] = {
    /* beside confine_never and confine_mounts. Other namespaces */
    "setns",
    "sethostname",
    NULL,
};

/* Address families that neither a launcher nor QEMU opens, most of them the way of a past kernel bug. */
static const int refused_families[] = {
    AF_AX25,       AF_IPX,  AF_APPLETALK, AF_NETROM, AF_ATMPVC,  AF_X25,  AF_ROSE,      AF_KEY,   AF_ATMSVC,
    AF_RDS,        AF_IRDA, AF_PPPOX,     AF_LLC,    AF_CAN,     AF_TIPC, AF_BLUETOOTH, AF_RXRPC, AF_PHONET,
    AF_IEEE802154, AF_CAIF, AF_NFC,       AF_KCM,    AF_QIPCRTR, AF_SMC,  AF_XDP,
};

static const unsigned namespace_flags[] = {CLONE_NEWUSER, CLONE_NEWNS,  CLONE_NEWPID,   CLONE_NEWNET,
                                           CLONE_NEWIPC,  CLONE_NEWUTS, CLONE_NEWCGROUP};

static int add_rules(scmp_filter_ctx filter)
{
    int r = confine_add_calls(filter, SCMP_ACT_ERRNO(EPERM), confine_never);

    if (r >= 0) /* the pod's tree is as the container runtime made it */
        r = confine_add_calls(filter, SCMP_ACT_ERRNO(EPERM), confine_mounts);
    if (r >= 0)
        r = confine_add_calls(filter, SCMP_ACT_ERRNO(EPERM), refused);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ELEMENTSOF(refused_families); i++) {
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)refused_families[i], 0));
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < ELEMENTSOF(namespace_flags); i++) {
        scmp_datum_t flag = namespace_flags[i];

        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
        if (r == 0)
            r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                 SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
        if (r < 0)
            return r;
    }
    /* Its flags lie in memory, where no filter sees them. The C library falls back to clone() on ENOSYS. */
    r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (r < 0)
        return r;
    /* faked input on a terminal that others read */
    r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                         SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffUL, 0x5412 /* TIOCSTI, asm-generic/ioctls.h */));
    return r;
}

int sandbox_seccomp(struct error **ret_error)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r;

    if (!filter)
        return error_oom(ret_error);
    /* The guest's every system call passes here: a binary tree in place of a list (a kernel before 5.11 has no cache).
     */
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    r = add_rules(filter);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    if (r < 0)
        return error_errno(ret_error, r, "cannot load the seccomp filter");
    return 0;
}
