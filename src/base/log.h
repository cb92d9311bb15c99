/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines on stderr: readable text on a terminal, one JSON object a line elsewhere or by VMLET_LOG_FORMAT=json|text.
 * JSON keys are those of KubeVirt's logs: component, level, msg, timestamp, and pos, reason and code on errors.
 * Library code logs at LOG_DEBUG only; programs may log at any level.
 */
#pragma once

#include "base/error.h"
#include "base/util.h"

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* component: the program's name. Level from VMLET_LOG_LEVEL=error|warning|info|debug, else `level`. */
void log_init(const char *component, enum log_level level);
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
bool log_is_json(void);

void log_message(enum log_level level, const char *file, int line, const struct error *error, const char *format, ...)
    _printf_(5, 6) _cold_;

#define log_debug(...)                                                                                                 \
    do {                                                                                                               \
        if (log_get_level() >= LOG_LEVEL_DEBUG)                                                                        \
            log_message(LOG_LEVEL_DEBUG, __FILE__, __LINE__, NULL, __VA_ARGS__);                                       \
    } while (0)
#define log_info(...)    log_message(LOG_LEVEL_INFO, __FILE__, __LINE__, NULL, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __FILE__, __LINE__, NULL, __VA_ARGS__)
#define log_error(...)   log_message(LOG_LEVEL_ERROR, __FILE__, __LINE__, NULL, __VA_ARGS__)
/* With the error's message behind ": ", its code and its remedy. */
#define log_error_of(e, ...)   log_message(LOG_LEVEL_ERROR, __FILE__, __LINE__, e, __VA_ARGS__)
#define log_warning_of(e, ...) log_message(LOG_LEVEL_WARNING, __FILE__, __LINE__, e, __VA_ARGS__)

/* One JSON line with extra members, as text that starts with ',' ("\"uid\":…"): for records such as the timeline.
 * In text format only `message` is printed. */
void log_record(const char *message, const char *json_members);
