/* SPDX-License-Identifier: Apache-2.0 */
/* Fields of the spec that concern the pod only: their names are checked, and they are handed on as they are. */
#include "vmi/tables.h"

#define POD_STRING(name, text) FIELD_CHECKED(name, FIELD_TYPE_STRING, .flags = FIELD_POD, .doc = text)
#define POD_BOOL(name, text)   FIELD_CHECKED(name, FIELD_TYPE_BOOL, .flags = FIELD_POD, .doc = text)
#define POD_INT(name, low, high, text)                                                                                 \
    FIELD_CHECKED(name, FIELD_TYPE_INT, .min = low, .max = high, .flags = FIELD_POD, .doc = text)
#define POD_OBJECT(name, table, text)                                                                                  \
    FIELD_CHECKED(name, FIELD_TYPE_RAW_OBJECT, .sub = table, .flags = FIELD_POD, .doc = text)
#define POD_LIST(name, table, text)                                                                                    \
    FIELD_CHECKED(name, FIELD_TYPE_RAW_LIST, .sub = table, .flags = FIELD_POD, .doc = text)
#define POD_STRINGS(name, text) FIELD_CHECKED(name, FIELD_TYPE_STRING_LIST, .flags = FIELD_POD, .doc = text)
#define POD_ANY(name, text)     FIELD_CHECKED(name, FIELD_TYPE_ANY, .flags = FIELD_POD, .doc = text)

/* ---- probes ---- */

DEFINE_CHECK_TABLE(table_exec, "ExecAction", POD_STRINGS("command", "command in the guest, by the guest agent"));
DEFINE_CHECK_TABLE(table_http_header, "HTTPHeader", POD_STRING("name", "name"), POD_STRING("value", "value"));
DEFINE_CHECK_TABLE(table_http_get, "HTTPGetAction", POD_STRING("path", "path"), POD_ANY("port", "number or name"),
                   POD_STRING("host", "host"), POD_STRING("scheme", "HTTP or HTTPS"),
                   POD_LIST("httpHeaders", &table_http_header, "headers"));
DEFINE_CHECK_TABLE(table_tcp_socket, "TCPSocketAction", POD_ANY("port", "number or name"), POD_STRING("host", "host"));

DEFINE_CHECK_TABLE(table_probe, "Probe", POD_OBJECT("exec", &table_exec, "command in the guest"),
                   POD_OBJECT("guestAgentPing", &table_empty, "ping of the guest agent"),
                   POD_OBJECT("httpGet", &table_http_get, "HTTP request"),
                   POD_OBJECT("tcpSocket", &table_tcp_socket, "TCP connection"),
                   POD_INT("initialDelaySeconds", 0, INT32_MAX, "seconds before the first"),
                   POD_INT("timeoutSeconds", 0, INT32_MAX, "time-out of one"),
                   POD_INT("periodSeconds", 0, INT32_MAX, "seconds between two"),
                   POD_INT("successThreshold", 0, INT32_MAX, "successes until it counts as good"),
                   POD_INT("failureThreshold", 0, INT32_MAX, "failures until it counts as bad"));

/* ---- scheduling ---- */

DEFINE_CHECK_TABLE(table_affinity, "Affinity", POD_OBJECT("nodeAffinity", NULL, "which nodes"),
                   POD_OBJECT("podAffinity", NULL, "near which pods"),
                   POD_OBJECT("podAntiAffinity", NULL, "away from which pods"));

DEFINE_CHECK_TABLE(table_toleration, "Toleration", POD_STRING("key", "taint"), POD_STRING("operator", "Exists, Equal"),
                   POD_STRING("value", "value of the taint"), POD_STRING("effect", "effect of the taint"),
                   POD_INT("tolerationSeconds", INT64_MIN, INT64_MAX, "for how long"));

DEFINE_CHECK_TABLE(table_topology_spread, "TopologySpreadConstraint", POD_INT("maxSkew", 1, INT32_MAX, "skew allowed"),
                   POD_STRING("topologyKey", "label of nodes"), POD_STRING("whenUnsatisfiable", "what to do otherwise"),
                   POD_OBJECT("labelSelector", &table_label_selector, "pods that are counted"),
                   POD_INT("minDomains", 1, INT32_MAX, "least number of domains"),
                   POD_STRING("nodeAffinityPolicy", "Honor or Ignore"),
                   POD_STRING("nodeTaintsPolicy", "Honor or Ignore"),
                   POD_STRINGS("matchLabelKeys", "labels that are compared too"));

DEFINE_CHECK_TABLE(table_dns_option, "PodDNSConfigOption", POD_STRING("name", "name"), POD_STRING("value", "value"));
DEFINE_CHECK_TABLE(table_dns_config, "PodDNSConfig", POD_STRINGS("nameservers", "addresses of name servers"),
                   POD_STRINGS("searches", "search domains"),
                   POD_LIST("options", &table_dns_option, "resolver options"));

/* ---- claims and utility volumes ---- */

DEFINE_CHECK_TABLE(table_resource_claim, "VirtualMachineInstanceResourceClaim", POD_STRING("name", "name in the spec"),
                   POD_STRING("resourceClaimName", "name of the claim"),
                   POD_STRING("resourceClaimTemplateName", "name of a template"));
DEFINE_CHECK_TABLE(table_utility_volume, "UtilityVolume", POD_STRING("name", "name of the volume"),
                   POD_STRING("claimName", "claim"), POD_BOOL("readOnly", "read-only"), POD_STRING("type", "purpose"));
