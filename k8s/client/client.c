/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcurl's multi interface on sd-event. Inside of libcurl's callbacks bytes are only stored; handlers are called after
 * curl_multi_socket_action() has returned, so that they may start and cancel calls as they like.
 */
#include "k8s/client/client.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/log.h"
#include "k8s/client/lines.h"
#include "k8s/client/request.h"

#include "vmlet-config.h"

struct kube_call {
    struct kube_client *client;
    LIST_ENTRY(struct kube_call) link;
    CURL *easy;
    struct curl_slist *headers, *connect;
    struct kube_http http;
    enum kube_verb verb;
    uint64_t deadline_usec;
    kube_reply_handler handler;
    int (*line)(char *text, size_t length, void *userdata);
    void *userdata;
    struct strbuf input; /* the body, or of a watch what was not delivered yet */
    struct kube_lines lines;
    char error_text[CURL_ERROR_SIZE];
    const char *broken;     /* why we ended it ourselves */
    bool ready, delivering; /* has input to deliver; is in the hands of its handler */
    bool dead;              /* cancelled while `delivering` */
    bool added;             /* is with the multi handle */
    bool signed_in_again;   /* a 401 has been answered by reading the token again */
    unsigned attempt;
    uint64_t retry_after_usec;
    sd_event_source *retry;
};

struct kube_client {
    sd_event *event;
    struct kube_config *config;
    CURLM *multi;
    sd_event_source *timer;
    char *agent, *token_header;
    struct stat token_stat;
    LIST_HEAD(struct kube_call) calls;
    uint64_t requests[KUBE_APPLY + 1];
};

uint64_t kube_jitter(uint64_t usec)
{
    uint64_t random = 0;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        random = now_usec();
    return usec / 2 + random % (usec / 2 + 1);
}

uint64_t kube_backoff(unsigned n, uint64_t first_usec, uint64_t last_usec)
{
    for (; n > 0 && first_usec < last_usec; n--)
        first_usec *= 2;
    return MIN(first_usec, last_usec);
}

sd_event *kube_client_event(const struct kube_client *client)
{
    return client->event;
}

const struct kube_config *kube_client_config(const struct kube_client *client)
{
    return client->config;
}

uint64_t kube_client_requests(const struct kube_client *client, enum kube_verb verb)
{
    return client->requests[verb];
}

/* ---- authentication --------------------------------------------------------------------------------------------- */

/* "Authorization: Bearer …", read again when the file changed: kubelet replaces a pod's token before it expires. */
static int refresh_token(struct kube_client *c, bool force, struct error **ret_error)
{
    const struct kube_config *config = c->config;
    _cleanup_free_ char *text = NULL;
    const char *token = config->token;
    struct stat st = {0};
    size_t length;
    char *header;
    int r;

    if (config->token_file) {
        if (stat(config->token_file, &st) < 0) {
            if (c->token_header)
                return 0; /* between two files; the old token is good until the server says otherwise */
            return error_errno(ret_error, errno, "token file %s", config->token_file);
        }
        if (c->token_header && !force && st.st_ino == c->token_stat.st_ino &&
            st.st_mtim.tv_sec == c->token_stat.st_mtim.tv_sec && st.st_mtim.tv_nsec == c->token_stat.st_mtim.tv_nsec)
            return 0;
        r = file_read(config->token_file, LIMIT_KUBE_CONFIG_BYTES, &text, &length, ret_error);
        if (r < 0)
            return r;
        text[strcspn(text, " \t\r\n")] = '\0';
        token = text;
    } else if (c->token_header)
        return 0;
    if (!token)
        return 0;
    if (asprintf(&header, "Authorization: Bearer %s", token) < 0)
        return error_oom(ret_error);
    if (text)
        explicit_bzero(text, length);
    if (c->token_header)
        explicit_bzero(c->token_header, strlen(c->token_header));
    free(c->token_header);
    c->token_header = header;
    c->token_stat = st;
    return 0;
}

/* ---- ends of calls ---------------------------------------------------------------------------------------------- */

static void call_free(struct kube_call *call)
{
    struct kube_client *c = call->client;

    if (call->added)
        curl_multi_remove_handle(c->multi, call->easy);
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    curl_slist_free_all(call->connect);
    sd_event_source_disable_unref(call->retry);
    kube_http_done(&call->http);
    strbuf_done(&call->input);
    kube_lines_done(&call->lines);
    LIST_REMOVE(c->calls, call, link);
    free(call);
}

void kube_call_cancel(struct kube_call *call)
{
    if (!call)
        return;
    if (call->delivering)
        call->dead = true;
    else
        call_free(call);
}

bool kube_reply_is_gone(const struct kube_reply *reply)
{
    return reply->status == 410;
}

static void finish(struct kube_call *call, long status, json_t *body, const struct error *error)
{
    const char *reason = json_string_value(json_object_get(body, "reason"));
    struct kube_reply reply = {.body = body, .status = status, .reason = reason && error ? reason : "", .error = error};

    call->delivering = true;
    call->handler(&reply, call->userdata);
    call_free(call);
}

static int send_call(struct kube_call *call, struct error **ret_error);

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct kube_call *call = userdata;
    _cleanup_error_ struct error *error = NULL;

    if (send_call(call, &error) < 0)
        finish(call, 0, NULL, error);
    return 0;
}

/* True when the call will be sent again. */
static bool try_again(struct kube_call *call, long status)
{
    uint64_t delay = call->retry_after_usec;

    if (status == 401 && call->client->config->token_file && !call->signed_in_again) {
        call->signed_in_again = true;
        if (refresh_token(call->client, true, NULL) < 0)
            return false;
        delay = 0;
    } else if (status != 429 && !(status >= 500 && delay > 0))
        return false;
    else if (++call->attempt > LIMIT_KUBE_RETRIES)
        return false;
    else if (delay == 0)
        delay = USEC_PER_SEC;
    log_debug("%s %s: status %ld, again in %llu ms", call->http.method, call->http.path, status,
              (unsigned long long)(delay / USEC_PER_MSEC));
    strbuf_clear(&call->input);
    curl_multi_remove_handle(call->client->multi, call->easy);
    call->added = false;
    call->retry_after_usec = 0;
    /* all clients that were told the same second would come at once */
    delay = MIN(delay, LIMIT_KUBE_RETRY_USEC);
    delay += kube_jitter(delay / 4);
    return event_arm_timer(call->client->event, &call->retry, delay, on_retry, call) >= 0;
}

static void complete(struct kube_call *call, CURLcode result)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *body = NULL;
    json_error_t json_error;
    long status = 0;

    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->broken || result != CURLE_OK) {
        bool late = result == CURLE_OPERATION_TIMEDOUT;

        error_set(&error,
                  late           ? ERROR_TIMED_OUT
                  : call->broken ? ERROR_LIMIT
                                 : ERROR_CONNECTION,
                  late ? ETIMEDOUT : EIO, "%s %s%.*s: %s", call->http.method, call->client->config->server,
                  (int)strcspn(call->http.path, "?"), call->http.path,
                  call->broken        ? call->broken
                  : *call->error_text ? call->error_text
                                      : curl_easy_strerror(result));
        if (result == CURLE_COULDNT_CONNECT)
            error_set_remedy(error, "is the API server there? The address is from %s", call->client->config->source);
        finish(call, 0, NULL, error);
        return;
    }
    if (status >= 300 && try_again(call, status))
        return;
    if (call->input.length > 0 && !(call->line && status < 300)) {
        body = json_loadb(call->input.data, call->input.length, JSON_REJECT_DUPLICATES, &json_error);
        if (!body && status < 300) {
            error_set(&error, ERROR_BAD_DATA, EBADMSG, "%s %s: the API server's answer is no JSON: %s (byte %d)",
                      call->http.method, call->http.path, json_error.text, json_error.position);
            finish(call, 0, NULL, error);
            return;
        }
    }
    strbuf_done(&call->input);
    if (status >= 300)
        kube_status_error(call->http.method, call->http.path, status, body, &error);
    finish(call, status, body, error);
    json_decref(body);
}

/* ---- what has come in ------------------------------------------------------------------------------------------- */

/* Lines of a watch. The input is taken away first: the handler may do what it likes. */
static void deliver(struct kube_call *call)
{
    struct strbuf input = call->input;
    int r;

    call->input = (struct strbuf){0};
    call->ready = false;
    call->delivering = true;
    r = kube_lines_feed(&call->lines, input.data, input.length, call->line, call->userdata);
    strbuf_done(&input);
    call->delivering = false;
    if (call->dead) {
        call_free(call);
        return;
    }
    if (r == 0)
        return;
    call->broken = r == -EMSGSIZE ? "one of its lines is longer than the limit"
                   : r == -ENOMEM ? "out of memory"
                                  : "its content could not be used";
    complete(call, CURLE_OK);
}

static void deliver_all(struct kube_client *c)
{
    struct kube_call *call;
    CURLMsg *message;
    int left;

    do {
        for (call = c->calls.first; call && !call->ready; call = call->link.next)
            ;
        if (call)
            deliver(call);
    } while (call); /* from the start: a handler may have ended the next one */
    while ((message = curl_multi_info_read(c->multi, &left))) {
        CURLcode result = message->data.result;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        complete(call, result);
    }
}

static size_t on_body(char *data, size_t size, size_t n, void *userdata)
{
    struct kube_call *call = userdata;
    long status = 0;

    if (call->input.length + size * n > LIMIT_KUBE_REPLY_BYTES) {
        call->broken = "the answer is larger than the limit";
        return 0;
    }
    strbuf_add(&call->input, data, size * n);
    if (call->input.failed) {
        call->broken = "out of memory";
        return 0;
    }
    if (call->line) {
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
        call->ready = status < 300; /* else it is a Status object */
    }
    return size * n;
}

static size_t on_header(char *data, size_t size, size_t n, void *userdata)
{
    static const char name[] = "retry-after:";
    struct kube_call *call = userdata;

    if (size * n > strlen(name) && strncasecmp(data, name, strlen(name)) == 0)
        call->retry_after_usec = strtoul(data + strlen(name), NULL, 10) * USEC_PER_SEC;
    return size * n;
}

/* ---- libcurl on the loop ---------------------------------------------------------------------------------------- */

static int on_socket_ready(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct kube_client *c = userdata;
    int running, mask = 0;

    if (events & (EPOLLIN | EPOLLHUP))
        mask |= CURL_CSELECT_IN;
    if (events & EPOLLOUT)
        mask |= CURL_CSELECT_OUT;
    if (events & EPOLLERR)
        mask |= CURL_CSELECT_ERR;
    curl_multi_socket_action(c->multi, fd, mask, &running);
    deliver_all(c);
    return 0;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *userdata, void *socket_userdata)
{
    struct kube_client *c = userdata;
    sd_event_source *source = socket_userdata;
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0U) | (what & CURL_POLL_OUT ? EPOLLOUT : 0U);

    if (what == CURL_POLL_REMOVE) {
        sd_event_source_disable_unref(source);
        curl_multi_assign(c->multi, fd, NULL);
        return 0;
    }
    if (source)
        return sd_event_source_set_io_events(source, events) < 0 ? -1 : 0;
    if (sd_event_add_io(c->event, &source, fd, events, on_socket_ready, c) < 0)
        return -1;
    curl_multi_assign(c->multi, fd, source);
    return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct kube_client *c = userdata;
    int running;

    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    deliver_all(c);
    return 0;
}

static int on_timer_change(CURLM *multi, long msec, void *userdata)
{
    struct kube_client *c = userdata;

    if (msec < 0) {
        event_disarm_timer(c->timer);
        return 0;
    }
    return event_arm_timer(c->event, &c->timer, (uint64_t)msec * USEC_PER_MSEC, on_timer, c) < 0 ? -1 : 0;
}

/* A node that vanished must not hold a watch for ever: TCP itself gives up what nobody acknowledges. */
static int on_socket_made(void *userdata, curl_socket_t fd, curlsocktype purpose)
{
    unsigned milliseconds = TIMEOUT_KUBE_DEAD_USEC / USEC_PER_MSEC;

    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof(milliseconds));
    return CURL_SOCKOPT_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static struct curl_blob blob(char *text)
{
    return (struct curl_blob){.data = text, .len = strlen(text), .flags = CURL_BLOB_NOCOPY};
}

static void set_tls(CURL *easy, const struct kube_config *config)
{
    struct curl_blob pem;

    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, config->insecure ? 0L : 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, config->insecure ? 0L : 2L);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (config->ca) {
        pem = blob(config->ca);
        curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &pem);
        curl_easy_setopt(easy, CURLOPT_CAPATH, NULL); /* these authorities and no others */
    }
    if (config->certificate) {
        pem = blob(config->certificate);
        curl_easy_setopt(easy, CURLOPT_SSLCERT_BLOB, &pem);
        curl_easy_setopt(easy, CURLOPT_SSLCERTTYPE, "PEM");
        pem = blob(config->key);
        curl_easy_setopt(easy, CURLOPT_SSLKEY_BLOB, &pem);
        curl_easy_setopt(easy, CURLOPT_SSLKEYTYPE, "PEM");
    }
}

/* libcurl has no option for the name to expect: we connect to the name, at the address of `server`. */
static int set_url(struct kube_call *call, char **ret_url)
{
    const struct kube_config *config = call->client->config;
    const char *host = strstr(config->server, "://") + 3, *end;
    _cleanup_free_ char *to = NULL;

    if (!config->tls_server_name)
        return asprintf(ret_url, "%s%s", config->server, call->http.path) < 0 ? -ENOMEM : 0;
    end = host + strcspn(host, "/");
    if (asprintf(&to, "::%.*s%s", (int)(end - host), host, memchr(host, ':', (size_t)(end - host)) ? "" : ":443") < 0)
        return -ENOMEM;
    call->connect = curl_slist_append(NULL, to);
    if (!call->connect)
        return -ENOMEM;
    curl_easy_setopt(call->easy, CURLOPT_CONNECT_TO, call->connect);
    return asprintf(ret_url, "https://%s%s%s", config->tls_server_name, end, call->http.path) < 0 ? -ENOMEM : 0;
}

static int add_header(struct kube_call *call, const char *text)
{
    struct curl_slist *list = curl_slist_append(call->headers, text);

    if (!list)
        return -ENOMEM;
    call->headers = list;
    return 0;
}

static int set_up(struct kube_call *call, struct error **ret_error)
{
    struct kube_client *c = call->client;
    const struct kube_config *config = c->config;
    _cleanup_free_ char *url = NULL, *type = NULL;
    CURL *easy = call->easy;

    if (set_url(call, &url) < 0)
        return error_oom(ret_error);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->error_text);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, c->agent);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L); /* one connection for all, rather than one for each watch */
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->http.method);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(TIMEOUT_KUBE_CONNECT_USEC / USEC_PER_MSEC));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(call->deadline_usec / USEC_PER_MSEC));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 15L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 5L);
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket_made);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    if (!call->line) /* a compressor would hold a watch's events back */
        curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
    if (config->proxy_url)
        curl_easy_setopt(easy, CURLOPT_PROXY, config->proxy_url);
    set_tls(easy, config);
    if (config->user) {
        curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(easy, CURLOPT_USERNAME, config->user);
        curl_easy_setopt(easy, CURLOPT_PASSWORD, config->password ? config->password : "");
    }
    if (call->http.body) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->http.body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->http.body_length);
        if (asprintf(&type, "Content-Type: %s", call->http.content_type) < 0 || add_header(call, type) < 0 ||
            add_header(call, "Expect:") < 0)
            return error_oom(ret_error);
    }
    if (add_header(call, "Accept: application/json") < 0 || (c->token_header && add_header(call, c->token_header) < 0))
        return error_oom(ret_error);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
    return 0;
}

static int send_call(struct kube_call *call, struct error **ret_error)
{
    struct kube_client *c = call->client;
    int r = refresh_token(c, false, ret_error);
    CURLMcode code;

    if (r < 0)
        return r;
    curl_easy_reset(call->easy);
    curl_slist_free_all(TAKE_PTR(call->headers));
    curl_slist_free_all(TAKE_PTR(call->connect));
    r = set_up(call, ret_error);
    if (r < 0)
        return r;
    code = curl_multi_add_handle(c->multi, call->easy);
    if (code != CURLM_OK)
        return error_set(ret_error, ERROR_INTERNAL, EIO, "libcurl: %s", curl_multi_strerror(code));
    call->added = true;
    c->requests[call->verb]++;
    return 0;
}

static int call_new(struct kube_client *c, const struct kube_request *q,
                    int (*line)(char *text, size_t length, void *userdata), kube_reply_handler handler, void *userdata,
                    struct kube_call **ret, struct error **ret_error)
{
    struct kube_call *call = calloc(1, sizeof(*call));
    int r;

    if (!call)
        return error_oom(ret_error);
    call->client = c;
    call->verb = q->verb;
    call->line = line;
    call->handler = handler;
    call->userdata = userdata;
    call->deadline_usec = q->deadline_usec ? q->deadline_usec
                          : line           ? TIMEOUT_KUBE_WATCH_USEC + TIMEOUT_KUBE_CALL_USEC
                                           : TIMEOUT_KUBE_CALL_USEC;
    LIST_APPEND(c->calls, call, link);
    call->easy = curl_easy_init();
    r = call->easy ? kube_http_make(q, &call->http, ret_error) : error_oom(ret_error);
    if (r == 0)
        r = send_call(call, ret_error);
    if (r < 0) {
        call_free(call);
        return r;
    }
    if (ret)
        *ret = call;
    return 0;
}

int kube_call_start(struct kube_client *client, const struct kube_request *request, kube_reply_handler handler,
                    void *userdata, struct kube_call **ret, struct error **ret_error)
{
    return call_new(client, request, NULL, handler, userdata, ret, ret_error);
}

int kube_watch_start(struct kube_client *client, const struct kube_request *request,
                     int (*line)(char *text, size_t length, void *userdata), kube_reply_handler end, void *userdata,
                     struct kube_call **ret, struct error **ret_error)
{
    return call_new(client, request, line, end, userdata, ret, ret_error);
}

/* ---- the client ------------------------------------------------------------------------------------------------- */

void kube_client_free(struct kube_client *c)
{
    if (!c)
        return;
    while (c->calls.first)
        call_free(c->calls.first);
    if (c->multi)
        curl_multi_cleanup(c->multi);
    sd_event_source_disable_unref(c->timer);
    sd_event_unref(c->event);
    kube_config_free(c->config);
    if (c->token_header)
        explicit_bzero(c->token_header, strlen(c->token_header));
    free(c->token_header);
    free(c->agent);
    free(c);
}

int kube_client_new(sd_event *event, struct kube_config *config, const char *agent, struct kube_client **ret,
                    struct error **ret_error)
{
    _cleanup_(kube_client_freep) struct kube_client *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        kube_config_free(config);
        return error_oom(ret_error);
    }
    c->config = config;
    c->event = sd_event_ref(event);
    if (asprintf(&c->agent, "%s/" VMLET_VERSION, agent) < 0) {
        c->agent = NULL;
        return error_oom(ret_error);
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    c->multi = curl_multi_init();
    if (!c->multi)
        return error_oom(ret_error);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer_change);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    r = refresh_token(c, false, ret_error);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(c);
    return 0;
}
