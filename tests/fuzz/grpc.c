/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC as kubelet speaks it, from a peer that sends anything: the first byte says whether it calls us or answers us,
 * the rest comes in pieces of odd sizes. Messages that get through are read as those of a device plugin. A call of ours
 * is answered exactly once. */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "k8s/handler/grpc.h"

#include "deviceplugin.pb-c.h"

#define PIECE_BYTES 143U /* no divisor of any buffer's size */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static sd_event *event;
static struct grpc_server *server;
static char path[64];

/* As the device plugin does: unpacks, and answers with what is packed again. */
static void handle_allocate(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    V1beta1__AllocateRequest *request = v1beta1__allocate_request__unpack(NULL, length, message);
    size_t packed;
    uint8_t *again;

    if (!request) {
        grpc_call_end(call, GRPC_INVALID_ARGUMENT, "this is no AllocateRequest");
        return;
    }
    packed = v1beta1__allocate_request__get_packed_size(request);
    again = malloc(packed + 1);
    if (again && v1beta1__allocate_request__pack(request, again) != packed)
        abort();
    if (again)
        (void)grpc_call_send(call, again, packed);
    grpc_call_end(call, GRPC_OK, NULL);
    free(again);
    v1beta1__allocate_request__free_unpacked(request, NULL);
}

static void on_closed(struct grpc_call *call, void *userdata)
{
}

/* Answers once, and stays open until the caller goes. */
static void handle_watch(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    grpc_call_on_closed(call, on_closed, NULL);
    (void)grpc_call_send(call, (const uint8_t *)"devices", 7);
}

static const struct grpc_method methods[] = {
    {"/v1beta1.DevicePlugin/Allocate", handle_allocate}, {"/v1beta1.DevicePlugin/ListAndWatch", handle_watch}, {0}};

static void settle(int peer)
{
    char buffer[4096];

    while (sd_event_run(event, 0) > 0)
        while (peer >= 0 && recv(peer, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
            ;
}

static void feed(int peer, const uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t n = size - at < PIECE_BYTES ? size - at : PIECE_BYTES;
        ssize_t sent = send(peer, data + at, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent <= 0)
            break;
        at += (size_t)sent;
        settle(peer);
    }
    (void)shutdown(peer, SHUT_WR);
    settle(peer);
}

static void call_us(const uint8_t *data, size_t size)
{
    int peer;

    if (unix_connect(path, &peer, NULL) < 0)
        abort();
    settle(peer);
    feed(peer, data, size);
    close(peer);
    settle(-1);
}

static void on_answer(int code, const char *text, const uint8_t *message, size_t length, void *userdata)
{
    unsigned *answers = userdata;

    ++*answers;
    if ((code == GRPC_OK) != (message != NULL) && length > 0)
        abort();
}

static void answer_us(const uint8_t *data, size_t size)
{
    char name[sizeof(path) + 8];
    unsigned answers = 0;
    int listener, peer;

    snprintf(name, sizeof(name), "%s.peer", path);
    if (unix_listen(name, 0600, 1, &listener, NULL) < 0 ||
        grpc_invoke(event, name, "/v1beta1.Registration/Register", (const uint8_t *)"hello", 5, 60 * USEC_PER_SEC,
                    on_answer, &answers, NULL, NULL) < 0)
        abort();
    peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    settle(peer);
    feed(peer, data, size);
    close(peer);
    close(listener);
    unlink(name);
    settle(-1);
    if (answers != 1)
        abort();
}

static void clean_up(void)
{
    grpc_server_free(server);
    sd_event_unref(event);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!event) {
        snprintf(path, sizeof(path), "/tmp/vmlet-fuzz-grpc-%d", (int)getpid());
        if (event_new(&event) < 0 || grpc_server_new(event, path, methods, NULL, &server, NULL) < 0)
            abort();
        (void)atexit(clean_up);
    }
    if (size == 0)
        return 0;
    if (data[0] & 1)
        answer_us(data + 1, size - 1);
    else
        call_us(data + 1, size - 1);
    return 0;
}
