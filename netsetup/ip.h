/* SPDX-License-Identifier: Apache-2.0 */
/* Internet addresses with their prefix lengths, as bytes and as text. */
#pragma once

#include <arpa/inet.h>
#include <net/if.h>

#include "base/arena.h"
#include "base/util.h"

struct ip {
    int family; /* AF_INET or AF_INET6 */
    unsigned prefix;
    uint8_t bytes[16];
};

#define IP_TEXT_MAX (INET6_ADDRSTRLEN + 4)

/* "10.0.2.1", "10.0.2.1/24", "fd10::1/120"; without a length the prefix is the whole address. -EINVAL. */
int ip_parse(const char *text, struct ip *ret);
static inline size_t ip_size(const struct ip *ip)
{
    return ip->family == AF_INET6 ? 16 : 4;
}
const char *ip_text(const struct ip *ip, char buffer[IP_TEXT_MAX]);   /* without the length */
char *ip_arena_text(struct arena *arena, const struct ip *ip);        /* without the length */
char *ip_arena_cidr(struct arena *arena, const struct ip *ip);        /* with it */
bool ip_contains(const struct ip *network, const struct ip *address); /* false for another family */
bool ip_is_zero(const struct ip *ip);
bool ip_is_link_local(const struct ip *ip); /* 169.254.0.0/16, fe80::/10 */
/* The n-th address of the network that `ip` lies in, with its prefix; -ERANGE when the network is too small. */
int ip_nth(const struct ip *ip, uint32_t n, struct ip *ret);

/* "aa:bb:cc:dd:ee:ff"; -EINVAL. */
int mac_parse(const char *text, uint8_t ret[6]);
char *mac_arena_text(struct arena *arena, const uint8_t mac[6]);
/* fe80:: + EUI-64 of the MAC (RFC 4291, appendix A): what the kernel gives a link by default. */
void ip_link_local_of(const uint8_t mac[6], struct ip *ret);

/* A domain name in DNS's form (RFC 1035, 3.1): its length, or 0 without room or with a label of wrong size. */
size_t dns_encode_name(const char *name, uint8_t *to, size_t room);
