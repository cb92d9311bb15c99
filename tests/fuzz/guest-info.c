/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest's agent tells, command by command, becomes KubeVirt's lists, whatever it is that it tells. */
#include <jansson.h>
#include <stdlib.h>

#include "domain/guest-info.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(json_t *json, size_t most)
{
    char *text = json_dumps(json, JSON_ENCODE_ANY);
    json_t *items = json_object_get(json, "items");

    if (!text || (json_is_array(items) && json_array_size(items) > most))
        abort();
    free(text);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *answers = json_loadb((const char *)data, size, 0, NULL), *answer;
    _cleanup_event_ sd_event *event = NULL;
    struct guest_info *info;
    const char *command;

    if (!json_is_object(answers)) {
        json_decref(answers);
        return 0;
    }
    if (event_new(&event) < 0)
        abort();
    info = guest_info_new(event, NULL, NULL);
    if (!info)
        abort();
    json_object_foreach (answers, command, answer)
        guest_info_restore(info, command, json_incref(answer));
    check(guest_info_to_json(info), SIZE_MAX);
    check(guest_info_users_to_json(info, 3), 3);
    check(guest_info_filesystems_to_json(info, 3), 3);
    check(guest_info_os_to_domain_json(info), SIZE_MAX);
    check(guest_info_interfaces_to_domain_json(info), SIZE_MAX);
    guest_info_free(info);
    json_decref(answers);
    return 0;
}
