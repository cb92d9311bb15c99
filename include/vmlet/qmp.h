/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libqmp: a client for QEMU's machine protocol (docs/interop/qmp-spec) on an sd-event loop. Never blocks.
 *
 * Threads: a client belongs to the thread of its loop. Several clients can share one loop.
 * Ownership: JSON arguments and fds given to a call are consumed on every path, also when it fails. JSON handed to a
 * callback is borrowed; take a reference to keep it. Callbacks may call any function here, and may free the client.
 * Errors: functions return 0 or a negative errno; a failed command reaches its callback as `struct error` with code
 * ERROR_QMP and QEMU's class (error_qmp_class()), ERROR_CONNECTION when the monitor is gone, ERROR_TIMED_OUT,
 * ERROR_CANCELLED. Times are microseconds.
 * Numbers: an integer that int64_t cannot hold is kept exactly, see qmp_json_uint64().
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct error;
struct qmp_client;

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* For those who use the library without the rest of the project; borrowed from the error. */
const char *qmp_error_message(const struct error *error); /* what was tried, and why it failed */
const char *qmp_error_class(const struct error *error);   /* QEMU's or the agent's class; NULL if they did not say it */
const char *qmp_error_code(const struct error *error); /* "QmpError", "TimedOut", "ConnectionLost"…: stable names */
int qmp_error_errno(const struct error *error);        /* positive */
/* Only for errors that a function gave by ret_error; those of callbacks are borrowed. */
void qmp_error_free(struct error *error);

/* ---- JSON with exact integers ---------------------------------------------------------------------------------- */

/*
 * jansson's integers are int64_t, and QEMU sends uint64 values. An integer that does not fit is held as a JSON string
 * of its digits followed by "\0n" (json_string_length() counts the two extra bytes; json_string_value() reads as the
 * digits). Nothing that comes from a peer can be mistaken for one, because a text with \u0000 is refused. Such values
 * can be compared by json_equal(), copied, and sent; to print them use qmp_json_dump(), not json_dumps().
 */

/* A new reference: a plain integer when it fits. NULL when out of memory. */
json_t *qmp_json_uint64(uint64_t value);
/* True for every integer from 0 to UINT64_MAX, in either form. */
bool qmp_json_get_uint64(const json_t *json, uint64_t *ret);
/* The digits of an integer that int64_t cannot hold; NULL for every other value. Borrowed. */
const char *qmp_json_big_number(const json_t *json);
/* Any JSON value. ERROR_BAD_DATA, or ERROR_LIMIT when nested deeper than QEMU's replies are allowed to be. */
int qmp_json_parse(const char *text, size_t length, json_t **ret, struct error **ret_error);
/* Text to be freed by the caller; indent 0 is one line. NULL when out of memory. */
char *qmp_json_dump(const json_t *json, unsigned indent);

/* ---- client ---------------------------------------------------------------------------------------------------- */

enum qmp_state {
    QMP_GREETING,    /* connected, QEMU's greeting has not come yet */
    QMP_NEGOTIATING, /* qmp_capabilities sent */
    QMP_RUNNING,
    QMP_DISCONNECTED, /* final */
};

/* The answer to one command: exactly one of `result` and `error` is not NULL. */
typedef void (*qmp_reply_fn)(struct qmp_client *client, json_t *result, const struct error *error, void *userdata);
/* An event: its name, its "data" (an empty object when QEMU sent none), its time in microseconds since the epoch. */
typedef void (*qmp_event_fn)(struct qmp_client *client, const char *name, json_t *data, uint64_t timestamp_usec,
                             void *userdata);
/* The state changed. For QMP_DISCONNECTED `error` says why; every pending call has failed before. */
typedef void (*qmp_state_fn)(struct qmp_client *client, enum qmp_state state, const struct error *error,
                             void *userdata);

/* Takes a connected stream socket (closed by the client). Calls may be queued at once: they are sent after the
 * handshake. On failure the fd is closed too. */
int qmp_client_new(sd_event *event, int fd, struct qmp_client **ret);
/* Every pending callback is called with ERROR_CANCELLED. NULL is allowed. */
void qmp_client_free(struct qmp_client *client);
static inline void qmp_client_freep(struct qmp_client **client)
{
    qmp_client_free(*client);
    *client = NULL;
}

/* Of the client's sources on the loop; SD_EVENT_PRIORITY_NORMAL at first. */
int qmp_client_set_priority(struct qmp_client *client, int64_t priority);
/* Default deadlines are multiplied by this (an emulated guest is slow); 1 at first. */
void qmp_client_set_timeout_factor(struct qmp_client *client, unsigned factor);
/* Asks for out-of-band commands in the handshake; -EBUSY when the greeting has come. For who sends some: without them
 * QEMU reads a command when the one before it is answered, and nothing has to be held back on this side. */
int qmp_client_enable_oob(struct qmp_client *client);
/* Whenever no command is under way, the beginning that all of them have is written ahead of the next one: QEMU reads
 * its monitor byte by byte, and so has read the half of a short command when it is asked for. A QEMU whose client
 * leaves forgets what it had read. Not with out-of-band commands, which begin otherwise. */
void qmp_client_begin_ahead(struct qmp_client *client);

void qmp_client_set_event_handler(struct qmp_client *client, qmp_event_fn handler, void *userdata);
/* Which events reach the handler: those whose name matches one of the patterns (fnmatch(3)) and no pattern that starts
 * with '!'; only '!' patterns: all others do. NULL: all. Calls with until_event see every event. Copied. */
int qmp_client_set_event_filter(struct qmp_client *client, const char *const *patterns);
/* Of the events whose name matches the pattern, the handler sees at most one of each name per interval: the first at
 * once, and at the interval's end the newest of those that came meanwhile. The first pattern added that matches an
 * event counts. interval_usec 0: unlimited. */
int qmp_client_limit_events(struct qmp_client *client, const char *pattern, uint64_t interval_usec);
/* Events that a limit left out so far. */
uint64_t qmp_client_count_dropped_events(const struct qmp_client *client);
void qmp_client_set_state_handler(struct qmp_client *client, qmp_state_fn handler, void *userdata);
enum qmp_state qmp_client_get_state(const struct qmp_client *client);
/* The greeting's "QMP" object, borrowed; NULL before it came. */
json_t *qmp_client_get_greeting(const struct qmp_client *client);
/* QEMU's version as 1000000 * major + 1000 * minor + micro; 0 before the greeting. */
unsigned qmp_client_get_version(const struct qmp_client *client);
/* Commands sent so far, with the handshake. */
uint64_t qmp_client_count_commands(const struct qmp_client *client);

struct qmp_call {
    const char *command;
    json_t *arguments; /* an object, or NULL; consumed */
    const int *fds;    /* sent with the command (getfd, add-fd), alone on the wire until its answer; consumed */
    size_t n_fds;
    uint64_t timeout_usec; /* 0: the table's default for the command; UINT64_MAX: none */
    bool out_of_band;      /* exec-oob; -EOPNOTSUPP to the callback if it was not enabled, or not offered */
    bool is_urgent;        /* goes without an "id" if no other command is under way: QEMU reads byte by byte */
    /* The command is complete only when this event has come, with data[event_key] equal to event_value:
     * device_del ends at DEVICE_DELETED with device == id. The result is then the event's data. */
    const char *until_event, *event_key, *event_value;
    /* And data[event_key2] equal to event_value2, for events that come several times: a job ends at JOB_STATUS_CHANGE
     * with id == job and status == "concluded". Keys may be NULL: any event of that name. */
    const char *event_key2, *event_value2;
    /* This event (same first key and value) fails the call: DEVICE_UNPLUG_GUEST_ERROR. */
    const char *fail_event;
    qmp_reply_fn callback; /* may be NULL */
    void *userdata;
};

/* Queues one command. ret_id (may be NULL) names it for qmp_client_cancel(). On a negative return the callback is not
 * called; it is never called before this returns. A cancelled or timed-out call that was not sent yet is not sent any
 * more; if it was, its late reply is swallowed. */
int qmp_client_call(struct qmp_client *client, const struct qmp_call *call, uint64_t *ret_id);
/* Calls the callback with ERROR_CANCELLED now; -ENOENT if there is no such call. */
int qmp_client_cancel(struct qmp_client *client, uint64_t id);

/* Shorthand: no fds, default deadline. */
int qmp_client_invoke(struct qmp_client *client, const char *command, json_t *arguments, qmp_reply_fn callback,
                      void *userdata);

/* ---- what changes nothing --------------------------------------------------------------------------------------- */

/* One line of the rule by which a command counts as read-only; the table ends with a NULL pattern. */
struct qmp_read_only_rule {
    const char *pattern;  /* of command names, fnmatch(3) */
    const char *argument; /* only if this argument is given… (NULL: no condition) */
    const char *allowed;  /* …and its first word matches one of these patterns, separated by spaces (NULL: any), */
    const char *denied;   /* …and the whole of it none of these (NULL: none) */
    const char *why;
};
const struct qmp_read_only_rule *qmp_read_only_rules(void);
/* Looks, and changes nothing in the VM. arguments may be NULL. */
bool qmp_command_is_read_only(const char *command, const json_t *arguments);

/* The same for commands of the guest agent. */
const struct qmp_read_only_rule *qga_read_only_rules(void);
bool qga_command_is_read_only(const char *command);

/* ---- schema ------------------------------------------------------------------------------------------------------ */

/*
 * query-qmp-schema as an index. QEMU masks the names of types, so everything is found by walking from a command to its
 * arguments and their members; a path is member names with dots ("file.filename").
 */
struct qmp_schema;
/* reply: the array that query-qmp-schema returns; a reference is kept. */
int qmp_schema_new(json_t *reply, struct qmp_schema **ret, struct error **ret_error);
/* A file with the array, or with a whole reply {"return": [...]}. */
int qmp_schema_load(const char *path, struct qmp_schema **ret, struct error **ret_error);
void qmp_schema_free(struct qmp_schema *schema);
static inline void qmp_schema_freep(struct qmp_schema **schema)
{
    qmp_schema_free(*schema);
    *schema = NULL;
}
bool qmp_schema_has_command(const struct qmp_schema *schema, const char *command);
bool qmp_schema_has_event(const struct qmp_schema *schema, const char *event);
/* True when the command takes this argument or member; looks into every variant. */
bool qmp_schema_has_argument(const struct qmp_schema *schema, const char *command, const char *path);
/* True when the argument at the path takes this enum value. */
bool qmp_schema_has_value(const struct qmp_schema *schema, const char *command, const char *path, const char *value);
/* Names of the commands ("command") or events ("event"), sorted; a new array of strings. */
json_t *qmp_schema_list(const struct qmp_schema *schema, const char *meta_type);
/* Members that may be given at the path ("" for the command's own arguments), as {"name":, "optional":, "type":, for
 * enums and booleans "values":}. `arguments` (may be NULL) are those given so far: they choose the variant; without a
 * choice the members of all variants are there. A new array. */
json_t *qmp_schema_members(const struct qmp_schema *schema, const char *command, const char *path,
                           const json_t *arguments);
/* The type at a path, as JSON's name for it: "string", "int", "number", "boolean", "object", "array", "null", "enum",
 * "value" (anything, or a choice); NULL if there is no such member. Static storage. */
const char *qmp_schema_type(const struct qmp_schema *schema, const char *command, const char *path,
                            const json_t *arguments);
/* The command takes more arguments than its schema says: device_add has those of the driver. */
bool qmp_schema_is_open(const char *command);
/* Checks arguments before they are sent: all faults in one error text, ERROR_BAD_ARGUMENT, a line for each. */
int qmp_schema_check(const struct qmp_schema *schema, const char *command, const json_t *arguments,
                     struct error **ret_error);
/* Text for a person: the arguments with their types, what comes back. NULL if there is no such command. Freed by the
 * caller. */
char *qmp_schema_help(const struct qmp_schema *schema, const char *command);

/* ---- guest agent ----------------------------------------------------------------------------------------------- */

/*
 * The guest agent's protocol (docs/interop/qemu-ga): no greeting, no ids, one command at a time, resynchronised by
 * guest-sync-delimited and 0xFF whenever the channel was (re-)opened or an answer failed to come.
 */
struct qga_client;
typedef void (*qga_reply_fn)(struct qga_client *agent, json_t *result, const struct error *error, void *userdata);

/* Takes a connected stream socket to the agent's chardev (a pty in raw mode will do). On failure the fd is closed too.
 */
int qga_client_new(sd_event *event, int fd, struct qga_client **ret);
/* Every pending callback is called with ERROR_CANCELLED. NULL is allowed. */
void qga_client_free(struct qga_client *agent);
static inline void qga_client_freep(struct qga_client **agent)
{
    qga_client_free(*agent);
    *agent = NULL;
}
/*
 * Queues a command; arguments consumed, also on failure. timeout_usec 0: the table's default; it runs from this call.
 * Commands that do not answer on success (guest-shutdown, guest-suspend-*) complete with a JSON null once sent and the
 * channel took them. Errors: ERROR_AGENT with the agent's class, ERROR_AGENT_NOT_CONNECTED when nobody answers the
 * synchronisation or the channel is closed, ERROR_TIMED_OUT, ERROR_CANCELLED.
 */
int qga_client_call(struct qga_client *agent, const char *command, json_t *arguments, uint64_t timeout_usec,
                    qga_reply_fn callback, void *userdata);
/* The channel was closed or opened in the guest (VSERPORT_CHANGE): pending calls fail; the next one synchronises. */
void qga_client_reset(struct qga_client *agent);
/* False when the chardev itself has been closed: final. */
bool qga_client_is_open(const struct qga_client *agent);
int qga_client_set_priority(struct qga_client *agent, int64_t priority);

/* guest-exec to its end. The callback gets {"exitcode": N, "signal"?: N, "out": "…", "err": "…"}: decoded from base64,
 * bytes that are not UTF-8, and NUL, replaced by U+FFFD, "out-truncated"/"err-truncated" if the agent says so. A
 * program that was killed by a signal has the exitcode 128 + signal, as in a shell. arguments: an array of strings or
 * NULL, consumed. input: its stdin, or NULL. At the deadline the program goes on in the guest; the error names its pid.
 */
int qga_client_exec(struct qga_client *agent, const char *path, json_t *arguments, const char *input,
                    uint64_t timeout_usec, qga_reply_fn callback, void *userdata);

/* Output as it comes; `data` is not NUL-terminated and may hold any bytes. */
typedef void (*qga_output_fn)(struct qga_client *agent, bool from_stderr, const char *data, size_t length,
                              void *userdata);
/* As qga_client_exec() with output that is passed on while the program runs; the result has no "out" and "err". The
 * agent itself gives output only at the end, so the program's output goes to files in a directory of its own (mode
 * 0700) that are read meanwhile and removed at the end: needs /bin/sh in the guest, and an agent that allows
 * guest-file-*. */
int qga_client_exec_stream(struct qga_client *agent, const char *path, json_t *arguments, const char *input,
                           uint64_t timeout_usec, qga_output_fn output, qga_reply_fn callback, void *userdata);

/* A whole file of the guest, at most `limit` bytes (else ERROR_LIMIT). `data` is borrowed, NULL on error. */
typedef void (*qga_data_fn)(struct qga_client *agent, const char *data, size_t length, const struct error *error,
                            void *userdata);
int qga_client_read_file(struct qga_client *agent, const char *path, size_t limit, uint64_t timeout_usec,
                         qga_data_fn callback, void *userdata);
/* Creates or replaces it. The data is copied. The callback gets {"count": bytes}. */
int qga_client_write_file(struct qga_client *agent, const char *path, const void *data, size_t length,
                          uint64_t timeout_usec, qga_reply_fn callback, void *userdata);

#ifdef __cplusplus
}
#endif
