/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/map.h"

#include <sys/random.h>

static uint64_t rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3 (J.-P. Aumasson, D. J. Bernstein, 2012). */
static uint64_t hash_text(const char *text)
{
    static uint64_t key[2];
    static bool keyed;
    size_t length = strlen(text), left = length;
    uint64_t v[4], word;

    if (!keyed) {
        if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
            key[0] = (uint64_t)(uintptr_t)&key; /* an address is better than a constant */
        keyed = true;
    }
    v[0] = key[0] ^ 0x736f6d6570736575ULL;
    v[1] = key[1] ^ 0x646f72616e646f6dULL;
    v[2] = key[0] ^ 0x6c7967656e657261ULL;
    v[3] = key[1] ^ 0x7465646279746573ULL;
    for (; left >= 8; left -= 8, text += 8) {
        memcpy(&word, text, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = (uint64_t)length << 56;
    for (size_t i = 0; i < left; i++)
        word |= (uint64_t)(unsigned char)text[i] << (8 * i);
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void kube_map_done(struct kube_map *map)
{
    free(map->buckets);
    *map = (struct kube_map){0};
}

struct kube_map_node *kube_map_get(const struct kube_map *map, const char *key)
{
    uint64_t hash;

    if (map->count == 0)
        return NULL;
    hash = hash_text(key);
    for (struct kube_map_node *n = map->buckets[hash & (map->allocated - 1)]; n; n = n->next)
        if (n->hash == hash && streq(n->key, key))
            return n;
    return NULL;
}

static int grow(struct kube_map *map)
{
    size_t allocated = map->allocated ? map->allocated * 2 : 16;
    struct kube_map_node **buckets = calloc(allocated, sizeof(*buckets));

    if (!buckets)
        return -ENOMEM;
    for (size_t i = 0; i < map->allocated; i++)
        for (struct kube_map_node *n = map->buckets[i], *next; n; n = next) {
            struct kube_map_node **bucket = &buckets[n->hash & (allocated - 1)];

            next = n->next;
            n->next = *bucket;
            *bucket = n;
        }
    free(map->buckets);
    map->buckets = buckets;
    map->allocated = allocated;
    return 0;
}

int kube_map_put(struct kube_map *map, struct kube_map_node *node, const char *key)
{
    struct kube_map_node **bucket;

    if (map->count >= map->allocated && grow(map) < 0)
        return -ENOMEM;
    node->key = key;
    node->hash = hash_text(key);
    bucket = &map->buckets[node->hash & (map->allocated - 1)];
    node->next = *bucket;
    *bucket = node;
    map->count++;
    return 0;
}

void kube_map_remove(struct kube_map *map, struct kube_map_node *node)
{
    struct kube_map_node **link = &map->buckets[node->hash & (map->allocated - 1)];

    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    node->next = NULL;
    map->count--;
}

struct kube_map_node *kube_map_any(const struct kube_map *map)
{
    for (size_t i = 0; map->count > 0 && i < map->allocated; i++)
        if (map->buckets[i])
            return map->buckets[i];
    return NULL;
}

void kube_map_foreach(struct kube_map *map, void (*visit)(struct kube_map_node *node, void *userdata), void *userdata)
{
    for (size_t i = 0; i < map->allocated; i++)
        for (struct kube_map_node *n = map->buckets[i], *next; n; n = next) {
            next = n->next;
            visit(n, userdata);
        }
}
