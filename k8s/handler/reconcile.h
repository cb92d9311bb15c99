/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps every instance of this node as its object says, and its status as its launcher says (compat §7.1 to 7.4). */
#pragma once

#include "base/strbuf.h"
#include "k8s/client/client.h"
#include "k8s/handler/guest.h"

struct reconciler;

/* All is borrowed, and outlives it. `synced` is called when the first list is complete. Looks after what has a record
 * at once, and after the objects when they are listed.
 */
int reconciler_new(struct kube_client *client, const char *node, const struct guest_paths *paths,
                   void (*synced)(void *userdata), void *userdata, struct reconciler **ret, struct error **ret_error);
void reconciler_free(struct reconciler *reconciler);
DEFINE_CLEANUP(struct reconciler *, reconciler_free)
bool reconciler_is_synced(const struct reconciler *reconciler);
void reconciler_write_metrics(const struct reconciler *reconciler, struct strbuf *body);
