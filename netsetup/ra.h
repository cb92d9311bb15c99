/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Router advertisements (RFC 4861, RFC 8106, RFC 4191) as whole Ethernet frames: they leave through a tap, so that the
 * launcher needs no raw socket, and can speak for a gateway that is somebody else.
 */
#pragma once

#include "netsetup/dhcp.h"

#define RA_FRAME_MAX 1294U /* Ethernet header and the smallest IPv6 MTU */

/* Whether the frame is a valid router solicitation; ret_source: the sender's MAC. */
bool ra_is_solicitation(const void *frame, size_t length, uint8_t ret_source[6]);

/*
 * One advertisement to the host with MAC `to` (NULL: all hosts), sent by `from`; its IPv6 destination is the group of
 * all nodes (RFC 6085: that may go to one host's MAC). Returns its length, 0 when it has no room.
 */
size_t ra_build(const struct dhcp_config *config, const uint8_t from[6], const uint8_t *to, uint8_t ret[RA_FRAME_MAX]);
