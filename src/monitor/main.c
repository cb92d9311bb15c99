/* SPDX-License-Identifier: Apache-2.0 */
/* virt-launcher-monitor: the first process of the compute container (docs/virt-launcher-monitor.1.scd). */
#include <malloc.h>

#include "base/log.h"
#include "monitor/options.h"
#include "monitor/sandbox.h"
#include "monitor/supervise.h"

static int run(const struct monitor_options *options, struct error **ret_error)
{
    bool bind_service = false;
    int r;

    r = sandbox_capabilities(&bind_service, ret_error);
    if (r == 0)
        r = sandbox_no_new_privs(ret_error);
    if (r == 0)
        r = sandbox_seccomp(ret_error);
    if (r < 0)
        return r;
    if (!bind_service)
        log_info("the container lacks CAP_NET_BIND_SERVICE: a guest on a bridge gets no address by DHCP (add it to the "
                 "container's securityContext.capabilities)");
    malloc_trim(0); /* what the filter was compiled in */
    return supervise(options, ret_error);
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    struct monitor_options options = {0};
    int r;

    supervise_block_signals(); /* first of all: from here on no signal is lost */
    log_init("virt-launcher-monitor", LOG_LEVEL_INFO);
    r = monitor_options_parse(argc, (const char *const *)argv, &options, &error);
    if (r == 0 && options.help) {
        monitor_options_usage();
        monitor_options_done(&options);
        return EXIT_OK;
    }
    if (r == 0)
        r = run(&options, &error);
    if (r < 0) {
        log_error_of(error, "the monitor gives up");
        r = EXIT_FAILED;
    }
    monitor_options_done(&options);
    return r;
}
