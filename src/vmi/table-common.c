/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/tables.h"

/* A table without rows cannot be an empty array in C17; this one's name is no key that a manifest can have. */
const struct table table_empty = {"object without fields", NULL, 0, 0};

DEFINE_TABLE(table_feature, "FeatureState", struct vmi_feature,
             FIELD_BOOL(struct vmi_feature, enabled, "enabled", .doc = "on unless false"));

DEFINE_TABLE(table_local_ref, "LocalObjectReference", struct vmi_local_ref,
             FIELD_STRING(struct vmi_local_ref, name, "name", .format = &format_dns_subdomain,
                          .doc = "name of an object in the same namespace"));

DEFINE_CHECK_TABLE(table_label_selector, "LabelSelector",
                   FIELD_CHECKED("matchLabels", FIELD_TYPE_STRING_MAP, .doc = "labels that must have these values"),
                   FIELD_CHECKED("matchExpressions", FIELD_TYPE_RAW_LIST, .doc = "further conditions on labels"));

#define META struct object_metadata
DEFINE_TABLE(
    table_metadata, "ObjectMeta", struct object_metadata,
    FIELD_STRING(META, name, "name", .format = &format_dns_subdomain, .doc = "name of the object"),
    FIELD_STRING(META, generate_name, "generateName", .doc = "start of a name that the API server completes"),
    FIELD_STRING(META, namespace_, "namespace", .format = &format_dns_label, .doc = "namespace of the object"),
    FIELD_STRING(META, uid, "uid", .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_STRING_MAP(META, labels, "labels", .doc = "labels, by which selectors find the object"),
    FIELD_STRING_MAP(META, annotations, "annotations", .doc = "annotations; some change the machine"),
    FIELD_CHECKED("selfLink", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("clusterName", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("resourceVersion", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("generation", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("creationTimestamp", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("deletionTimestamp", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("deletionGracePeriodSeconds", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "set by the API server"),
    FIELD_CHECKED("finalizers", FIELD_TYPE_RAW_LIST, .flags = FIELD_SERVER, .doc = "who must agree to a deletion"),
    FIELD_CHECKED("ownerReferences", FIELD_TYPE_RAW_LIST, .flags = FIELD_SERVER, .doc = "objects that own this one"),
    FIELD_CHECKED("managedFields", FIELD_TYPE_RAW_LIST, .flags = FIELD_SERVER, .doc = "set by the API server"));
