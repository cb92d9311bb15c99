/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/firmware-log.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

#define PREFIX     "[SeaBios]: "
#define LINE_BYTES 512U /* a longer one is cut into lines */

struct firmware_log {
    int fd;
    sd_event_source *source;
    uint64_t taken;
    char line[LINE_BYTES + 1];
    size_t length;
};

static void end_line(struct firmware_log *log)
{
    log->line[log->length] = '\0';
    if (log->length > 0)
        log_info(PREFIX "%s", log->line);
    log->length = 0;
}

/* The bytes are the guest's: what a terminal would obey does not get there. */
static void add(struct firmware_log *log, char c)
{
    if (c == '\n' || log->length == LINE_BYTES)
        end_line(log);
    if (c != '\n' && c != '\r')
        log->line[log->length++] = c >= ' ' && c <= '~' ? c : c == '\t' ? ' ' : '?';
}

static bool pass_on(struct firmware_log *log)
{
    char data[4096];
    ssize_t n = read(log->fd, data, sizeof(data));

    if (n <= 0)
        return n < 0 && errno == EINTR;
    for (ssize_t i = 0; i < n && log->taken < LIMIT_FIRMWARE_LOG_BYTES; i++) {
        add(log, data[i]);
        if (++log->taken < LIMIT_FIRMWARE_LOG_BYTES)
            continue;
        end_line(log);
        log_warning("the firmware has written %u bytes to its log: the rest is dropped", LIMIT_FIRMWARE_LOG_BYTES);
    }
    return true;
}

static int on_output(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    pass_on(userdata);
    return 0;
}

void firmware_log_drain(struct firmware_log *log)
{
    while (pass_on(log))
        ;
    end_line(log);
}

int firmware_log_new(sd_event *event, const char *path, struct firmware_log **ret, struct error **ret_error)
{
    _cleanup_(firmware_log_freep) struct firmware_log *log = calloc(1, sizeof(*log));
    int r;

    if (!log)
        return error_oom(ret_error);
    /* for both directions, as the console's: QEMU must not be the only one to hold it open when a launcher goes */
    log->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (log->fd < 0)
        return error_errno(ret_error, errno, "cannot open %s", path);
    r = sd_event_add_io(event, &log->source, log->fd, EPOLLIN, on_output, log);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch %s", path);
    *ret = TAKE_PTR(log);
    return 0;
}

void firmware_log_free(struct firmware_log *log)
{
    if (!log)
        return;
    sd_event_source_disable_unref(log->source);
    fd_close(log->fd);
    free(log);
}
