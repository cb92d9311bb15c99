/* SPDX-License-Identifier: Apache-2.0 */
/* Doubly linked lists whose links stand in the objects: LIST_HEAD and LIST_ENTRY declare members, an object is removed
 * in constant time, and an empty head is all zero. */
#pragma once

#include <stddef.h>

#define LIST_HEAD(type)                                                                                                \
    struct {                                                                                                           \
        type *first, *last;                                                                                            \
    }

#define LIST_ENTRY(type)                                                                                               \
    struct {                                                                                                           \
        type *next, *previous;                                                                                         \
    }

#define LIST_PREPEND(head, item, link)                                                                                 \
    do {                                                                                                               \
        (item)->link.previous = NULL;                                                                                  \
        (item)->link.next = (head).first;                                                                              \
        if ((head).first)                                                                                              \
            (head).first->link.previous = (item);                                                                      \
        else                                                                                                           \
            (head).last = (item);                                                                                      \
        (head).first = (item);                                                                                         \
    } while (0)

#define LIST_APPEND(head, item, link)                                                                                  \
    do {                                                                                                               \
        (item)->link.next = NULL;                                                                                      \
        (item)->link.previous = (head).last;                                                                           \
        if ((head).last)                                                                                               \
            (head).last->link.next = (item);                                                                           \
        else                                                                                                           \
            (head).first = (item);                                                                                     \
        (head).last = (item);                                                                                          \
    } while (0)

#define LIST_REMOVE(head, item, link)                                                                                  \
    do {                                                                                                               \
        if ((item)->link.next)                                                                                         \
            (item)->link.next->link.previous = (item)->link.previous;                                                  \
        else                                                                                                           \
            (head).last = (item)->link.previous;                                                                       \
        if ((item)->link.previous)                                                                                     \
            (item)->link.previous->link.next = (item)->link.next;                                                      \
        else                                                                                                           \
            (head).first = (item)->link.next;                                                                          \
        (item)->link.next = (item)->link.previous = NULL;                                                              \
    } while (0)
