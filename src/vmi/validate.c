/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/private.h"

static int by_name(const void *a, const void *b)
{
    const struct named *const *x = a, *const *y = b;
    int r = strcmp((*x)->name, (*y)->name);

    return r != 0 ? r : *x < *y ? -1 : *x > *y; /* the first of the list stays the first */
}

void validate_unique(struct vmi *vmi, struct faults *faults, const struct named *list, size_t count, const char *what)
{
    const struct named **sorted = arena_new_array(vmi->arena, const struct named *, count + 1);
    size_t n = 0;

    for (size_t i = 0; i < count && sorted; i++)
        if (list[i].name)
            sorted[n++] = &list[i];
    if (n > 1)
        qsort(sorted, n, sizeof(struct named *), by_name);
    for (size_t i = 1; i < n; i++)
        if (streq(sorted[i]->name, sorted[i - 1]->name))
            faults_add_member(faults, sorted[i]->at, "name", "\"%.64s\" is the name of another %s already%s",
                              sorted[i]->name, what, sorted[i - 1]->at ? "" : " (made by default)");
}

void vmi_validate(struct vmi *vmi, struct faults *faults)
{
    validate_devices(vmi, faults);
    validate_storage(vmi, faults);
    validate_network(vmi, faults);
}
