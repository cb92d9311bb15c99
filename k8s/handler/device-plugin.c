/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/event.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/client/client.h"
#include "k8s/handler/device-plugin.h"
#include "k8s/handler/grpc.h"

#include "deviceplugin.pb-c.h"

#define API_VERSION "v1beta1"
#define SERVICE     "/v1beta1.DevicePlugin/"

struct device_plugin {
    sd_event *event;
    const struct device_kind *kind;
    char *dir, *socket, *kubelet, *device, *endpoint;
    struct grpc_server *server;
    struct grpc_call *watcher; /* kubelet's ListAndWatch */
    struct grpc_request *registration;
    sd_event_source *timer, *dir_watch, *device_watch;
    void (*changed)(void *userdata);
    void *userdata;
    unsigned attempts;
    bool healthy;
    uint64_t registrations, allocations;
};

/* ---- messages --------------------------------------------------------------------------------------------------- */

static int send_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    size_t length = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(length + 1);
    int r;

    if (!packed)
        return -ENOMEM;
    protobuf_c_message_pack(message, packed);
    r = grpc_call_send(call, packed, length);
    free(packed);
    return r;
}

static void reply(struct grpc_call *call, const ProtobufCMessage *message)
{
    int r = send_message(call, message);

    grpc_call_end(call, r < 0 ? GRPC_EXHAUSTED : GRPC_OK, r < 0 ? strerror(-r) : NULL);
}

/* The whole list, at the beginning and after each change. */
static int send_devices(struct device_plugin *plugin)
{
    static char ids[HANDLER_DEVICE_COUNT][24];
    static V1beta1__Device devices[HANDLER_DEVICE_COUNT];
    static V1beta1__Device *list[HANDLER_DEVICE_COUNT];
    static char healthy[] = "Healthy", unhealthy[] = "Unhealthy";
    V1beta1__ListAndWatchResponse response = V1BETA1__LIST_AND_WATCH_RESPONSE__INIT;

    for (unsigned i = 0; i < HANDLER_DEVICE_COUNT; i++) {
        snprintf(ids[i], sizeof(ids[i]), "%.12s%u", plugin->kind->name, i);
        v1beta1__device__init(&devices[i]);
        devices[i].id = ids[i];
        devices[i].health = plugin->healthy ? healthy : unhealthy;
        list[i] = &devices[i];
    }
    response.n_devices = HANDLER_DEVICE_COUNT;
    response.devices = list;
    return send_message(plugin->watcher, &response.base);
}

/* ---- what kubelet calls ----------------------------------------------------------------------------------------- */

static void handle_options(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    V1beta1__DevicePluginOptions options = V1BETA1__DEVICE_PLUGIN_OPTIONS__INIT;

    reply(call, &options.base);
}

static void on_watcher_closed(struct grpc_call *call, void *userdata)
{
    struct device_plugin *plugin = userdata;

    if (plugin->watcher != call)
        return;
    plugin->watcher = NULL;
    plugin->changed(plugin->userdata);
}

static void handle_watch(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    struct device_plugin *plugin = userdata;
    int r;

    if (plugin->watcher)
        grpc_call_end(plugin->watcher, GRPC_UNAVAILABLE, "another kubelet watches");
    plugin->watcher = call;
    grpc_call_on_closed(call, on_watcher_closed, plugin);
    r = send_devices(plugin);
    if (r < 0) {
        plugin->watcher = NULL;
        grpc_call_end(call, GRPC_EXHAUSTED, strerror(-r));
        return;
    }
    log_debug("device plugin %s: kubelet watches", plugin->kind->name);
    plugin->changed(plugin->userdata);
}

/* Each container gets the device's node, however many it asked for. */
static void handle_allocate(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    struct device_plugin *plugin = userdata;
    V1beta1__AllocateRequest *request = v1beta1__allocate_request__unpack(NULL, length, message);
    V1beta1__AllocateResponse response = V1BETA1__ALLOCATE_RESPONSE__INIT;
    V1beta1__ContainerAllocateResponse container = V1BETA1__CONTAINER_ALLOCATE_RESPONSE__INIT;
    V1beta1__DeviceSpec device = V1BETA1__DEVICE_SPEC__INIT, *devices[] = {&device};
    V1beta1__ContainerAllocateResponse **containers;

    if (!request) {
        grpc_call_end(call, GRPC_INVALID_ARGUMENT, "this is no AllocateRequest");
        return;
    }
    /* A plain copy of a constant string: the generated type has no const. */
    device.container_path = (char *)(uintptr_t)plugin->kind->path;
    device.host_path = (char *)(uintptr_t)plugin->kind->path;
    device.permissions = (char *)(uintptr_t)plugin->kind->permissions;
    container.n_devices = 1;
    container.devices = devices;
    containers = calloc(request->n_container_requests + 1, sizeof(*containers));
    if (containers) {
        for (size_t i = 0; i < request->n_container_requests; i++)
            containers[i] = &container;
        response.n_container_responses = request->n_container_requests;
        response.container_responses = containers;
        plugin->allocations += request->n_container_requests;
        reply(call, &response.base);
        free(containers);
    } else
        grpc_call_end(call, GRPC_EXHAUSTED, "out of memory");
    v1beta1__allocate_request__free_unpacked(request, NULL);
}

static const struct grpc_method methods[] = {
    {SERVICE "GetDevicePluginOptions", handle_options},
    {SERVICE "ListAndWatch", handle_watch},
    {SERVICE "Allocate", handle_allocate},
    {0},
};

/* ---- registration ----------------------------------------------------------------------------------------------- */

static void register_later(struct device_plugin *plugin);

static void on_registered(int code, const char *text, const uint8_t *message, size_t length, void *userdata)
{
    struct device_plugin *plugin = userdata;

    plugin->registration = NULL;
    if (code != GRPC_OK) {
        log_warning("kubelet did not take the registration of %s (code %d: %s); again soon", plugin->endpoint, code,
                    text ? text : "");
        register_later(plugin);
        return;
    }
    plugin->attempts = 0;
    plugin->registrations++;
    log_info("registered devices.kubevirt.io/%s with kubelet (%s)", plugin->kind->name,
             plugin->healthy ? "healthy" : "the device is not there");
}

/* The socket of a plugin is deleted by a kubelet that starts: it is made anew each time. */
static int register_now(struct device_plugin *plugin, struct error **ret_error)
{
    V1beta1__RegisterRequest request = V1BETA1__REGISTER_REQUEST__INIT;
    V1beta1__DevicePluginOptions options = V1BETA1__DEVICE_PLUGIN_OPTIONS__INIT;
    char resource[64];
    static char version[] = API_VERSION;
    uint8_t packed[256];
    size_t length;
    int r;

    grpc_request_cancel(plugin->registration);
    plugin->registration = NULL;
    grpc_server_free(plugin->server);
    plugin->server = NULL;
    plugin->watcher = NULL;
    plugin->changed(plugin->userdata);
    (void)unlink(plugin->socket);
    r = grpc_server_new(plugin->event, plugin->socket, methods, plugin, &plugin->server, ret_error);
    if (r < 0)
        return r;
    snprintf(resource, sizeof(resource), "devices.kubevirt.io/%s", plugin->kind->name);
    request.version = version;
    request.endpoint = plugin->endpoint;
    request.resource_name = resource;
    request.options = &options;
    length = v1beta1__register_request__get_packed_size(&request);
    if (length > sizeof(packed))
        return error_set(ret_error, ERROR_INTERNAL, EMSGSIZE, "the name %s is too long", plugin->kind->name);
    v1beta1__register_request__pack(&request, packed);
    return grpc_invoke(plugin->event, plugin->kubelet, "/v1beta1.Registration/Register", packed, length,
                       TIMEOUT_GRPC_USEC, on_registered, plugin, &plugin->registration, ret_error);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct device_plugin *plugin = userdata;
    _cleanup_error_ struct error *error = NULL;

    if (register_now(plugin, &error) < 0) {
        if (plugin->attempts == 1)
            log_warning("device plugin %s: %s; waiting for kubelet", plugin->kind->name, error_message(error));
        register_later(plugin);
    }
    return 0;
}

static void register_later(struct device_plugin *plugin)
{
    uint64_t delay =
        plugin->attempts == 0 ? 0 : kube_backoff(plugin->attempts - 1, USEC_PER_SEC, HANDLER_REGISTER_LAST_USEC);

    plugin->attempts++;
    (void)event_arm_timer(plugin->event, &plugin->timer, delay, on_timer, plugin);
}

/* ---- what is watched -------------------------------------------------------------------------------------------- */

static int on_dir(sd_event_source *source, const struct inotify_event *event, void *userdata)
{
    struct device_plugin *plugin = userdata;

    /* A new kubelet makes its socket anew, and deletes ours before. */
    if (event->len > 0 && ((streq(event->name, "kubelet.sock") && (event->mask & IN_CREATE)) ||
                           (plugin->server && streq(event->name, plugin->endpoint) && (event->mask & IN_DELETE) &&
                            access(plugin->socket, F_OK) < 0))) {
        plugin->attempts = 0;
        register_later(plugin);
    }
    return 0;
}

static void look_at_device(struct device_plugin *plugin)
{
    struct stat st;
    bool healthy = stat(plugin->device, &st) == 0 && (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode));

    if (healthy == plugin->healthy)
        return;
    plugin->healthy = healthy;
    log_info("%s is %s", plugin->kind->path, healthy ? "there" : "gone");
    if (plugin->watcher)
        (void)send_devices(plugin);
}

static int on_device(sd_event_source *source, const struct inotify_event *event, void *userdata)
{
    look_at_device(userdata);
    return 0;
}

int device_plugin_new(sd_event *event, const struct device_kind *kind, const char *dir, const char *root,
                      void (*changed)(void *userdata), void *userdata, struct device_plugin **ret,
                      struct error **ret_error)
{
    _cleanup_(device_plugin_freep) struct device_plugin *plugin = calloc(1, sizeof(*plugin));
    char *slash;
    int r;

    if (!plugin)
        return error_oom(ret_error);
    plugin->event = event;
    plugin->kind = kind;
    plugin->changed = changed;
    plugin->userdata = userdata;
    if (asprintf(&plugin->dir, "%s", dir) < 0 || asprintf(&plugin->endpoint, "kubevirt-%s.sock", kind->name) < 0 ||
        asprintf(&plugin->socket, "%s/%s", dir, plugin->endpoint) < 0 ||
        asprintf(&plugin->kubelet, "%s/kubelet.sock", dir) < 0 ||
        asprintf(&plugin->device, "%s%s", root, kind->path) < 0)
        return error_oom(ret_error);
    look_at_device(plugin);
    r = sd_event_add_inotify(event, &plugin->dir_watch, dir, IN_CREATE | IN_DELETE | IN_ONLYDIR, on_dir, plugin);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch %s: is this a node, and is the folder mounted?", dir);
    slash = strrchr(plugin->device, '/');
    *slash = '\0';
    r = sd_event_add_inotify(event, &plugin->device_watch, plugin->device, IN_CREATE | IN_DELETE | IN_ATTRIB | IN_MOVE,
                             on_device, plugin);
    if (r < 0)
        /* /dev/net may not exist before the module is loaded; the device then counts as it is now. */
        log_info("%s cannot be watched: %s", plugin->device, strerror(-r));
    *slash = '/';
    register_later(plugin);
    *ret = TAKE_PTR(plugin);
    return 0;
}

void device_plugin_free(struct device_plugin *plugin)
{
    if (!plugin)
        return;
    grpc_request_cancel(plugin->registration);
    grpc_server_free(plugin->server);
    sd_event_source_disable_unref(plugin->timer);
    sd_event_source_disable_unref(plugin->dir_watch);
    sd_event_source_disable_unref(plugin->device_watch);
    free(plugin->dir);
    free(plugin->socket);
    free(plugin->kubelet);
    free(plugin->device);
    free(plugin->endpoint);
    free(plugin);
}

void device_plugin_get_figures(const struct device_plugin *plugin, struct device_plugin_figures *ret)
{
    *ret = (struct device_plugin_figures){
        .registered = plugin->watcher != NULL,
        .healthy = plugin->healthy,
        .registrations = plugin->registrations,
        .allocations = plugin->allocations,
    };
}
